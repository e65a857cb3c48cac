"""Laws of BASELINES: what a centralised baseline may read, and how it scores.

A baseline with a training loop is judged with its initial parameters; how it trains has tests of its own.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from ranking_oracle import one_bucket, random_dataset

from fedvlr_jax.baselines import BASELINES
from fedvlr_jax.baselines.learner import Learner
from fedvlr_jax.types import Bucket, Dataset, PyTree
from laws.judging import require_close, require_equal, require_finite

DATASET = random_dataset(1, 12, 14)
(EVERYBODY,) = one_bucket(DATASET)


def scores(name: str, dataset: Dataset = DATASET, chunk: Bucket = EVERYBODY) -> jax.Array:
    """The scores of a chunk [c, i] at the first point of the grid."""
    row = BASELINES[name]
    hyper = row.grid[0]
    if not isinstance(row, Learner):
        return row.score(row.fit(dataset, **hyper), chunk)
    inputs = row.prepare(dataset, **{k: v for k, v in hyper.items() if k in row.static})
    p_ud, q_id = _represented(inputs, row.init, row.represent)
    return p_ud.at[chunk.user].get(mode="fill", fill_value=0) @ q_id.T


@functools.partial(jax.jit, static_argnums=(1, 2))
def _represented(inputs: PyTree, init: Callable, represent: Callable) -> tuple[jax.Array, jax.Array]:
    return represent(init(jax.random.key(0), inputs, 8), inputs)


def scores_are_finite_numbers(name: str) -> None:
    """float32 [c, i], the same when it is fitted again."""
    s_ci = scores(name)
    expected = (DATASET.num_users, DATASET.num_items)
    assert s_ci.shape == expected, f"baseline {name}: expected scores {expected}, found {s_ci.shape}"
    assert s_ci.dtype == jnp.float32, f"baseline {name}: expected float32, found {s_ci.dtype}"
    require_finite(f"baseline {name}: scores are not finite", s_ci)
    require_equal(f"baseline {name}: it is not a function of the data", scores(name), s_ci)


def scores_of_a_user_depend_on_no_chunk(name: str) -> None:
    """Other users of the chunk, empty slots and padding change nothing."""
    users = np.array([7, 2, DATASET.num_users], np.int32)
    history = np.full((3, EVERYBODY.history.shape[1] + 3), DATASET.num_items, np.int32)
    history[:2, :-3] = EVERYBODY.history[users[:2]]
    found, expected = scores(name, chunk=Bucket(users, history)), scores(name)[users[:2]]
    message = f"baseline {name}: scores of a user depend on the chunk"
    require_close(message, found[:2], expected, rtol=1e-5, atol=1e-6)


def held_out_items_are_not_read(name: str) -> None:
    other = dataclasses.replace(DATASET, valid_item=DATASET.test_item, test_item=DATASET.valid_item[::-1])
    require_equal(f"baseline {name}: it reads held-out items", scores(name, other), scores(name))


def features_are_needed_where_it_says_so(name: str) -> None:
    """A baseline that does not need features fits a set without them."""
    if not BASELINES[name].needs_features:
        without = scores(name, dataclasses.replace(DATASET, V=None, C=None))
        require_finite(f"baseline {name}: scores are not finite without features", without)


LAWS = {
    scores_are_finite_numbers: (),
    scores_of_a_user_depend_on_no_chunk: (),
    held_out_items_are_not_read: (),
    features_are_needed_where_it_says_so: (),
}
