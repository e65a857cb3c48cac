"""Layers and losses that the gradient-trained baselines share: initial values, dropout, means over a batch.

Batches are padded with user ``num_users`` and weight 0: `take` gives zeros there, and every mean is weighted.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.errors import DataError
from fedvlr_jax.types import Array, Dataset

glorot_uniform = jax.nn.initializers.glorot_uniform()
glorot_normal = jax.nn.initializers.glorot_normal()


def init_linear(key: Array, num_inputs: int, num_outputs: int) -> dict[str, Array]:
    """A linear map for `linear`: Glorot normal, bias zero."""
    return {"kernel_df": glorot_normal(key, (num_outputs, num_inputs)), "bias_d": jnp.zeros(num_outputs)}


def linear(params: dict[str, Array], x_nf: Array) -> Array:
    """W x + b for every row; [n, f] -> [n, d].

    The kernel is [d, f] because the gradient of a wide one then costs half as much on a CPU.
    """
    return x_nf @ params["kernel_df"].T + params["bias_d"][None]


def take(x_nd: Array, ids_b: Array) -> Array:
    """The rows [b, d] of a table; zeros for ids that are out of range."""
    return x_nd.at[ids_b].get(mode="fill", fill_value=0)


def dropout(key: Array, x: Array, rate: Array) -> Array:
    """Every number is zero with probability `rate`, else divided by 1 - rate; the mean stays.

    `rate` may be traced. 16 random bits a number: the probability is exact to 2^-16, and half as dear as with 32.
    """
    kept = jax.random.bits(key, x.shape, jnp.uint16) >= jnp.round(rate * 2**16).astype(jnp.uint16)
    return jnp.where(kept, x / (1 - rate), 0)


def weighted_mean(x_b: Array, weight_b: Array) -> Array:
    """The mean over the rows of a batch that are not padding; [b] -> []."""
    return jnp.sum(x_b * weight_b) / jnp.maximum(jnp.sum(weight_b), 1)


def bpr_loss(user_bd: Array, positive_bd: Array, negative_bd: Array, weight_b: Array) -> Array:
    """Mean of -log sigma(p_u . q_i - p_u . q_j) over the pairs of a batch (Rendle et al., UAI 2009)."""
    margin_b = jnp.sum(user_bd * (positive_bd - negative_bd), axis=1)
    return weighted_mean(jax.nn.softplus(-margin_b), weight_b)


def squared_norm(weight_b: Array, *rows_bd: Array) -> Array:
    """Half the squared norm of all given rows of an example, mean over the batch; each of them [b, d]."""
    return weighted_mean(sum(jnp.sum(x_bd**2, axis=1) for x_bd in rows_bd) / 2, weight_b)


def unit_rows(x_nd: Array) -> Array:
    """The rows at unit length; rows of zeros stay, with gradient zero."""
    return x_nd / jnp.sqrt(jnp.maximum(jnp.sum(x_nd**2, axis=1, keepdims=True), 1e-16))


def weighted_items(item_b: Array, weight_b: Array, num_items: int) -> tuple[Array, Array]:
    """The items of a batch with their weights [n]: one entry a row, or one for each item where that is shorter.

    For sums over a batch of something that depends on the item alone.
    """
    if len(item_b) < num_items:
        return item_b, weight_b
    weight_i = jnp.zeros(num_items, weight_b.dtype).at[item_b].add(weight_b, mode="drop")
    return jnp.arange(num_items, dtype=item_b.dtype), weight_i


def joint_features(dataset: Dataset) -> Array:
    """[C, V] side by side, [i, dc + dv]; a set without one modality has the other alone.

    Raises:
      DataError: if the set has no features at all.
    """
    return jnp.asarray(np.concatenate(list(modalities(dataset).values()), axis=1), float)


def modalities(dataset: Dataset) -> dict[str, np.ndarray]:
    """The features that a set has, by name, float32 [i, dc] and [i, dv].

    Raises:
      DataError: if it has none.
    """
    found = {name: x for name, x in (("text", dataset.C), ("visual", dataset.V)) if x is not None}
    if not found:
        raise DataError(f"{dataset.name} has neither visual nor textual features, but this baseline needs some")
    return found
