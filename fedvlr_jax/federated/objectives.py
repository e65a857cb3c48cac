"""Client objectives: what one client minimises on its own history.

All scores are logits. Means run over real positives only (padding has weight 0), so the loss of a client does
not depend on the width of its bucket.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax.agreed import Evidence
from fedvlr_jax.federated import sampling
from fedvlr_jax.types import Array


class Draw(NamedTuple):
    """What one client trains on in one round (all int32 fields are item ids, or positions in the client's rows).

    Attributes:
      positive_l: int32 [l], train positives, then padding.
      target_l: float32 [l], 1 where the positive is a target of the loss.
      input_l: float32 [l], 1 where the positive is part of the history that the model may read.
      negative_aln: int32 [a, l, n], negatives by local step, or None for objectives over all items. Inside a
        local step the leading axis is gone.
      evidence: what the client learns from beside items, or None.
    """

    positive_l: Array
    target_l: Array
    input_l: Array
    negative_aln: Array | None
    evidence: Evidence | None = None


class Objective(NamedTuple):
    """One client objective as a pair of pure functions.

    Attributes:
      draw: ``(key, history_l) -> Draw``.
      loss: ``(draw, s_l, s_ln) -> []`` with the scores of positives and negatives; when `all_items`,
        ``(draw, s_i) -> []`` with the scores of the whole catalogue.
      all_items: whether the loss reads the score of every item (its uploads then touch every row).
    """

    draw: Callable[[Array, Array], Draw]
    loss: Callable[..., Array]
    all_items: bool


def is_off(weight: float | Array) -> bool:
    """Whether a term has weight zero already when the program is built; a traced weight may become anything."""
    return isinstance(weight, (int, float)) and weight == 0


def _weighted_mean(x: Array, weight: Array) -> Array:
    return jnp.sum(x * weight) / jnp.maximum(jnp.sum(weight), 1.0)


def bce_loss(draw: Draw, s_l: Array, s_ln: Array) -> Array:
    """Binary cross-entropy, mean over positives and sampled negatives (the paper's objective)."""
    per_positive_l = jax.nn.softplus(-s_l) + jnp.sum(jax.nn.softplus(s_ln), axis=-1)
    return _weighted_mean(per_positive_l, draw.target_l) / (1 + s_ln.shape[-1])


def bpr_loss(draw: Draw, s_l: Array, s_ln: Array) -> Array:
    """Bayesian personalised ranking, -log sigma(s_pos - s_neg), mean over pairs (Rendle et al. 2009)."""
    return _weighted_mean(jnp.mean(jax.nn.softplus(s_ln - s_l[:, None]), axis=-1), draw.target_l)


def softmax_loss(draw: Draw, s_i: Array) -> Array:
    """Multinomial log-loss of the targets over the catalogue without the input part of the history.

    Items of the input are no candidates at ranking time either, so they leave the normaliser.
    """
    is_input_i = multi_hot(draw.positive_l, draw.input_l - draw.target_l, s_i.size) > 0
    log_norm = jax.nn.logsumexp(jnp.where(is_input_i, -jnp.inf, s_i))
    s_l = s_i.at[draw.positive_l].get(mode="fill", fill_value=0.0)
    return _weighted_mean(log_norm - s_l, draw.target_l)


def make_squared_loss(confidence: float) -> Callable[[Draw, Array], Array]:
    """Confidence-weighted squared loss over all items, c = 1 + `confidence` on positives (Hu et al. 2008)."""

    def loss(draw: Draw, s_i: Array) -> Array:
        positive_i = multi_hot(draw.positive_l, draw.target_l, s_i.size)
        return 0.5 * jnp.mean((1 + confidence * positive_i) * (positive_i - s_i) ** 2)

    return loss


def divergence_of_scores(t_b: Array, s_b: Array, weight_b: Array) -> Array:
    """KL(p || q) of the distributions p ~ weight exp(t) and q ~ weight exp(s) over rows, [], in nats.

    Rows of weight 0 take no part, and a row that comes twice counts as one of both weights. Zero without any weight.
    """
    has_rows = jnp.sum(weight_b) > 0
    weight_b = jnp.where(has_rows, weight_b, 1.0)
    log_t, log_s = (jax.nn.logsumexp(x_b, b=weight_b) for x_b in (t_b, s_b))
    apart = jnp.sum(weight_b * jnp.exp(t_b - log_t) * (t_b - s_b)) - log_t + log_s
    return jnp.where(has_rows, apart, 0.0)


def multi_hot(position_l: Array, weight_l: Array, size: int) -> Array:
    """Weights [l] scattered to [size]; padding is dropped."""
    return jnp.zeros(size, weight_l.dtype).at[position_l].add(weight_l, mode="drop")


def _make_sampled(loss: Callable[[Draw, Array, Array], Array]) -> Callable[..., Objective]:
    def make(num_items: int, *, steps: int, negatives: int, holdout: float, confidence: float) -> Objective:
        def draw(key: Array, history_l: Array) -> Draw:
            real_l = (history_l < num_items).astype(float)
            drawn_aln = sampling.sample_negatives(key, history_l, num_items, steps, negatives)
            return Draw(history_l, real_l, real_l, drawn_aln)

        return Objective(draw, loss, all_items=False)

    return make


def _make_softmax(num_items: int, *, steps: int, negatives: int, holdout: float, confidence: float) -> Objective:
    def draw(key: Array, history_l: Array) -> Draw:
        input_l, target_l = sampling.hold_out(key, history_l, num_items, holdout)
        return Draw(history_l, target_l, input_l, None)

    return Objective(draw, softmax_loss, all_items=True)


def _make_squared(num_items: int, *, steps: int, negatives: int, holdout: float, confidence: float) -> Objective:
    def draw(key: Array, history_l: Array) -> Draw:
        real_l = (history_l < num_items).astype(float)
        return Draw(history_l, real_l, real_l, None)

    return Objective(draw, make_squared_loss(confidence), all_items=True)


def _draw_nothing(key: Array, history_l: Array) -> Draw:
    zero_l = jnp.zeros(history_l.shape)
    return Draw(history_l, zero_l, zero_l, None)


NO_ITEMS = Objective(_draw_nothing, lambda draw, s_i: jnp.zeros(()), all_items=True)
"""The objective of a host that learns from evidence alone."""

OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "bce": _make_sampled(bce_loss),
    "bpr": _make_sampled(bpr_loss),
    "softmax": _make_softmax,
    "squared": _make_squared,
}
"""Factories ``(num_items, *, steps, negatives, holdout, confidence) -> Objective``, by the name in the config."""
