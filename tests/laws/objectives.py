"""Laws of OBJECTIVES: of what a client draws and of the loss of its scores."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.federated.objectives import OBJECTIVES, Draw, Objective
from fedvlr_jax.types import Array
from laws.judging import require_close
from laws.rounds import open_paths, require_paths_agree

NUM_ITEMS = 20
HISTORY = (2, 3, 5, 7, 11)


class Example(NamedTuple):
    """An objective, what a client draws for one local step, scores of all items, and the compiled loss of the two."""

    objective: Objective
    draw: Draw
    s_i: Array
    loss: Callable[[Draw, Array], Array]


def example(name: str, width: int = 8) -> Example:
    """A client with five positives, padded to `width`."""
    return _example(OBJECTIVES[name], width)


@functools.lru_cache(maxsize=16)
def _example(row: Callable[..., Objective], width: int) -> Example:
    objective = row(NUM_ITEMS, steps=2, negatives=3, holdout=0.4, confidence=1.0)
    history_l = jnp.asarray([*HISTORY, *[NUM_ITEMS] * (width - len(HISTORY))], jnp.int32)
    draw = jax.jit(objective.draw)(jax.random.key(0), history_l)
    if draw.negative_aln is not None:
        draw = draw._replace(negative_aln=draw.negative_aln[0])
    s_i = -np.abs(0.4 * np.random.default_rng(1).normal(size=NUM_ITEMS))
    return Example(objective, draw, jnp.asarray(s_i, jnp.float32), jax.jit(functools.partial(loss, objective)))


def loss(objective: Objective, draw: Draw, s_i: Array) -> Array:
    """The loss from the scores of all items, as a client computes it."""
    if objective.all_items:
        return objective.loss(draw, s_i)
    return objective.loss(draw, *scores_read(draw, s_i))


def scores_read(draw: Draw, s_i: Array, padding: float = 0.0) -> tuple[Array, Array]:
    """s_l and s_ln; slots of padding score `padding`."""
    s_l, s_ln = (s_i.at[x].get(mode="fill", fill_value=padding) for x in (draw.positive_l, draw.negative_aln))
    return s_l, jnp.where(draw.positive_l[:, None] < NUM_ITEMS, s_ln, padding)


def losses_are_finite_numbers(name: str) -> None:
    _, draw, s_i, loss_of = example(name)
    value_and_gradient = jax.jit(jax.value_and_grad(lambda s_i: loss_of(draw, s_i)))
    for scale in (0.0, 1.0, 300.0):
        value, gradient = value_and_gradient(scale * s_i)
        assert value.shape == (), f"objective {name}: expected a loss [], found {value.shape}"
        assert np.isfinite(value), f"objective {name}: its loss is not finite at scores of size {scale}"
        assert np.isfinite(gradient).all(), f"objective {name}: its gradient is not finite at scores of size {scale}"


def padding_has_no_influence(name: str) -> None:
    """A wider bucket, and any score of its empty slots, give the same loss."""
    objective, draw, s_i, loss_of = example(name)
    expected = loss_of(draw, s_i)
    message = f"objective {name}: padding changes the loss"
    _, wide, _, _ = example(name, width=16)
    require_close(message, loss_of(wide, s_i), expected, rtol=1e-6)
    if not objective.all_items:
        other = jax.jit(lambda draw, s_i: objective.loss(draw, *scores_read(draw, s_i, padding=9.0)))(wide, s_i)
        require_close(message, other, expected, rtol=1e-6)


def the_order_of_positives_is_irrelevant(name: str) -> None:
    _, draw, s_i, loss_of = example(name)
    order = np.random.default_rng(0).permutation(draw.positive_l.size)
    permuted = Draw(*(None if x is None else x[order] for x in draw))
    found, expected = (loss_of(x, s_i) for x in (permuted, draw))
    require_close(f"objective {name}: the order of positives changes the loss", found, expected, rtol=1e-6)


def a_better_positive_lowers_the_loss(name: str) -> None:
    _, draw, s_i, loss_of = example(name)
    targets = np.asarray(draw.positive_l)[np.asarray(draw.target_l) > 0]
    assert targets.size, f"objective {name}: no positive is a target"
    gradient_i = np.asarray(jax.jit(jax.grad(lambda s_i: loss_of(draw, s_i)))(s_i))
    assert (gradient_i[targets] < 0).all(), f"objective {name}: a positive that scores higher does not lower the loss"


def only_what_is_read_gets_a_gradient(name: str) -> None:
    """Neither padding nor positives that are input alone do."""
    objective, draw, s_i, _ = example(name)
    unread_l = np.asarray(draw.target_l) == 0
    message = f"objective {name}: a gradient reaches scores that it must not read"
    if objective.all_items:
        gradient_i = np.asarray(jax.grad(lambda s: objective.loss(draw, s))(s_i))
        unread = np.asarray(draw.positive_l)[unread_l]
        assert (gradient_i[unread[unread < NUM_ITEMS]] == 0).all(), message
        return
    gradients = jax.jit(jax.grad(lambda s_l, s_ln: objective.loss(draw, s_l, s_ln), (0, 1)))
    of_positives, of_negatives = gradients(*scores_read(draw, s_i))
    assert (np.asarray(of_positives)[unread_l] == 0).all(), message
    assert (np.asarray(of_negatives)[unread_l] == 0).all(), message


def draws_are_those_of_the_client(name: str) -> None:
    """Weights of 0 and 1 that cover the history and nothing else; negatives outside of it; the same for one key."""
    objective, draw, _, _ = example(name)
    real_l = np.asarray(draw.positive_l) < NUM_ITEMS
    covered_l = np.maximum(draw.input_l, draw.target_l)
    np.testing.assert_array_equal(covered_l, real_l, err_msg=f"objective {name}: its weights are not the history's")
    assert objective.all_items == (draw.negative_aln is None), f"objective {name}: all_items and negatives disagree"
    if draw.negative_aln is not None:
        drawn = np.asarray(draw.negative_aln)[real_l]
        assert not np.isin(drawn, HISTORY).any(), f"objective {name}: positives are drawn as negatives"
        assert (drawn < NUM_ITEMS).all(), f"objective {name}: padding is drawn as a negative"


def paths_agree(name: str) -> None:
    """All paths that the objective may take train the same model, with FCF in the variant fedvlr."""
    common = {"objective": name, "fusion__operators": "id,visual"}
    require_paths_agree(f"objective {name}", open_paths(**common), **common)


LAWS = {
    losses_are_finite_numbers: (),
    padding_has_no_influence: (),
    the_order_of_positives_is_irrelevant: (),
    a_better_positive_lowers_the_loss: (),
    only_what_is_read_gets_a_gradient: (),
    draws_are_those_of_the_client: (),
    paths_agree: ("bce", "bpr"),
}
