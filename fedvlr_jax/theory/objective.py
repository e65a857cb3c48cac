"""The exact objective J_u of one client: the expectation of its stochastic loss over the draw of negatives."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from fedvlr_jax.federated.objectives import multi_hot
from fedvlr_jax.federated.step_loss import LocalSettings, make_finish
from fedvlr_jax.models.model import ITEM_TABLE, Broadcast, Model, item_rows, make_download, score
from fedvlr_jax.types import Array, ClientData, PyTree


def expected_bce(s_i: Array, positive_i: Array, negatives: int) -> Array:
    """E[bce_loss] over uniform negatives outside the history; `positive_i` is 1 on the history, else 0."""
    other_i = 1 - positive_i
    positive = jnp.sum(positive_i * jax.nn.softplus(-s_i)) / jnp.sum(positive_i)
    negative = jnp.sum(other_i * jax.nn.softplus(s_i)) / jnp.sum(other_i)
    return (positive + negatives * negative) / (1 + negatives)


def expected_bpr(s_i: Array, positive_i: Array, negatives: int) -> Array:
    """E[bpr_loss]: the mean over all pairs of a positive and an item outside the history, for any `negatives`."""
    positive_i, other_i = positive_i / jnp.sum(positive_i), (1 - positive_i) / jnp.sum(1 - positive_i)
    return positive_i @ jax.nn.softplus(s_i[None, :] - s_i[:, None]) @ other_i


EXPECTED: dict[str, Callable[[Array, Array, int], Array]] = {"bce": expected_bce, "bpr": expected_bpr}
"""Expected losses ``(s_i, positive_i, negatives) -> []`` by the name of the objective."""


def make_client_loss(
    model: Model, settings: LocalSettings, num_items: int, objective: str, negatives: int
) -> Callable[[Broadcast, PyTree, Array, Array], Array]:
    """J_u as ``(broadcast, private, history_l, round) -> []``, with regulariser and L2 terms as in the local loss."""
    expected = EXPECTED[objective]

    def loss(broadcast: Broadcast, private: PyTree, history_l: Array, round_: Array) -> Array:
        real_l = (history_l < num_items).astype(float)
        download = make_download(model, broadcast.rows, broadcast.head, history_l, real_l)
        items = item_rows(model, private, download, download.rows, private.get(ITEM_TABLE))
        positive_i = multi_hot(history_l, real_l, num_items)
        value = expected(score(model, private, download.head, items), positive_i, negatives)
        usage_i = positive_i / jnp.sum(positive_i) + negatives * (1 - positive_i) / jnp.sum(1 - positive_i)
        return make_finish(model, settings, round_)(value, private, items, usage_i / (1 + negatives))

    return loss


def make_total_loss(model: Model, client_loss: Callable, steps: int, server_l2: float) -> Callable:
    """J as ``(public, private [u, ...], data, round) -> []``, all clients weighing 1/n."""

    def total(public: PyTree, private: PyTree, data: ClientData, round_: Array) -> Array:
        broadcast = model.publish(public, data.content)
        losses = [
            jax.vmap(client_loss, in_axes=(None, 0, 0, None))(
                broadcast, jax.tree.map(lambda x, b=bucket: x[b.user], private), bucket.history, round_
            )
            for bucket in data.buckets
        ]
        return jnp.mean(jnp.concatenate(losses)) + server_term(model, public, round_, steps, server_l2)

    return total


def server_term(model: Model, public: PyTree, round_: Array, steps: int, l2: float) -> Array:
    """The terms of J that the server adds: the host's penalty, and the L2 term of the public parameters.

    The server adds the gradient of its own terms once a round, but those of the clients once in each of A steps. So
    the penalty weighs 1/A in the objective that the algorithm descends; the L2 term is multiplied by A in the round
    (see `Problem.round`) and has its full weight here.
    """
    value = model.penalty(public, round_) / steps
    return value + 0.5 * l2 * optax.tree.norm(public, squared=True) if l2 else value
