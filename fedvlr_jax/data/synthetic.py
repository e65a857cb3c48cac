"""Synthetic data with planted modality preferences, so that a run can report how well it recovers the truth.

Three modalities m (ID, visual, textual) each have latents of users x_u and items z_i, independent of the others. User
u draws a preference p_u ~ Dirichlet(concentration) once. Each of its interactions draws a modality m ~ p_u, then an
item by that modality's latents

    P(i | u, m) = softmax_i(sharpness x_u . z_i)    over the items that u has not taken yet.

* ID: users and items belong to groups; x_u is the indicator of the user's group, z_i that of the item's group times
  its strength in [0.4, 1]. Taste is shared by all users of a group, and every group has its hits, so an item-ID table
  can learn it from co-occurrence; no feature tells about it.
* Visual and textual: unit vectors, every user's own direction. Hardly two users share a taste, so co-occurrence says
  little, but features are a linear map of z_i plus noise and a taste is linear in them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fedvlr_jax.data.features import unit_rows
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.types import Dataset

LEAST_ROWS = 5  # three train rows, one validation row, one test row
STRENGTH = (0.4, 1.0)  # of an item within its ID group
LONGEST = 2  # a history covers at most one item in LONGEST


class Latents(NamedTuple):
    """The planted truth; m = (ID, visual, textual).

    Attributes:
      user: one float64 [u, z] for each m; z is `groups` for ID, `latent_dim` else.
      item: one float64 [i, z] for each m.
      preference: float64 [u, m], rows sum to one.
    """

    user: tuple[np.ndarray, np.ndarray, np.ndarray]
    item: tuple[np.ndarray, np.ndarray, np.ndarray]
    preference: np.ndarray


def generate(
    seed: int,
    *,
    num_users: int = 204,
    num_items: int = 560,
    num_interactions: int = 3488,
    dim_visual: int = 64,
    dim_text: int = 64,
    latent_dim: int = 4,
    groups: int = 8,
    concentration: float = 0.5,
    sharpness: float = 16.0,
    skew: float = 0.9,
    noise: float = 0.3,
) -> Dataset:
    """Draws a data set of about the size of KU; the same arguments give the same bits.

    Args:
      seed: of everything random, >= 0.
      num_users, num_items: sizes.
      num_interactions: rows of all splits together; every user gets at least 5 and at most half of the items.
      dim_visual, dim_text: feature dimensions.
      latent_dim: dimensions of visual and textual latents; more make a taste harder to learn.
      groups: ID groups of users and items.
      concentration: of the Dirichlet of the preferences; small = users with one modality, large = all users alike.
      sharpness: inverse temperature of the softmax over items; 0 = uniform draws.
      skew: standard deviation of the log of the history length; 0 = equal lengths.
      noise: norm of the feature noise relative to the norm of the signal.

    Returns:
      Train rows, validation item (second last draw), test item (last draw), features and planted preferences.

    Raises:
      ConfigError: sizes or parameters out of range.
    """
    _check(locals())
    planting, lengths, drawing, features = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(4))
    truth = plant(planting, num_users, num_items, latent_dim, groups, concentration)
    length_u = _lengths(lengths, num_users, num_interactions, num_items // LONGEST, skew)
    drawn = [_draw_user(drawing, truth, u, n, sharpness) for u, n in enumerate(length_u)]
    train = [np.sort(items[:-2]) for items in drawn]
    return Dataset(
        name="synthetic",
        num_users=num_users,
        num_items=num_items,
        train_user=np.repeat(np.arange(num_users, dtype=np.int32), length_u - 2),
        train_item=np.concatenate(train).astype(np.int32),
        valid_item=np.array([items[-2] for items in drawn], np.int32),
        test_item=np.array([items[-1] for items in drawn], np.int32),
        V=_features(features, truth.item[1], dim_visual, noise),
        C=_features(features, truth.item[2], dim_text, noise),
        planted=truth.preference.astype(np.float32),
    )


def plant(
    rng: np.random.Generator, num_users: int, num_items: int, latent_dim: int, groups: int, concentration: float
) -> Latents:
    """Draws latents and preferences; independent over modalities."""

    def directions(count: int) -> np.ndarray:
        vectors = rng.normal(size=(count, latent_dim))
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    indicator = np.eye(groups)
    strength = rng.uniform(*STRENGTH, size=(num_items, 1))
    id_user, id_item = (indicator[rng.integers(groups, size=n)] for n in (num_users, num_items))
    return Latents(
        user=(id_user, directions(num_users), directions(num_users)),
        item=(id_item * strength, directions(num_items), directions(num_items)),
        preference=rng.dirichlet([concentration] * 3, size=num_users),
    )


def _lengths(rng: np.random.Generator, num_users: int, total: int, longest: int, skew: float) -> np.ndarray:
    """int64 [u], log-normal above the least length, summing to `total` exactly."""
    weight_u = np.exp(skew * rng.normal(size=num_users))
    length_u = np.full(num_users, LEAST_ROWS)
    while (left := total - length_u.sum()) > 0:  # what users at the longest length cannot take goes to the others
        weight_u = np.where(length_u < longest, weight_u, 0)
        share_u = np.floor(left * weight_u / weight_u.sum()).astype(int)
        if not share_u.any():  # less than one row for everybody: one each to those with the largest weights
            share_u[np.argsort(-weight_u, kind="stable")[:left]] = 1
        length_u = np.minimum(length_u + share_u, longest)
    return length_u


def _draw_user(rng: np.random.Generator, truth: Latents, user: int, length: int, sharpness: float) -> list[int]:
    """`length` distinct items in the order in which they were drawn.

    Arrival times E_i / exp(affinity_i) with exponential E_i order the items as draws without replacement from the
    softmax of one modality would. Skipping the items already taken through another modality leaves the law of the
    others unchanged. No modality gets further than its first `length` arrivals.
    """
    queues = []
    for user_uz, item_iz in zip(truth.user, truth.item, strict=True):
        time_i = np.log(rng.standard_exponential(len(item_iz))) - sharpness * (item_iz @ user_uz[user])
        first = np.argpartition(time_i, length)[:length]
        queues.append(iter(first[np.argsort(time_i[first])].tolist()))
    taken: dict[int, None] = {}
    for m in rng.choice(3, size=length, p=truth.preference[user]):
        taken[next(i for i in queues[m] if i not in taken)] = None
    return list(taken)


def _features(rng: np.random.Generator, latent_iz: np.ndarray, dim: int, noise: float) -> np.ndarray:
    """Unit rows [i, dim] of a random linear map of the latents plus noise."""
    signal = latent_iz @ rng.normal(size=(latent_iz.shape[1], dim))
    return unit_rows(signal + noise * np.sqrt(np.mean(signal**2)) * rng.normal(size=signal.shape))


def _check(arguments: dict[str, float]) -> None:
    least = {"seed": 0, "num_users": 2, "num_items": 2 * LEAST_ROWS, "sharpness": 0, "skew": 0, "noise": 0}
    least |= dict.fromkeys(("dim_visual", "dim_text", "latent_dim", "groups"), 1)
    users, longest = arguments["num_users"], arguments["num_items"] // LONGEST
    for name, value in arguments.items():
        if not value >= least.get(name, -np.inf) or not np.isfinite(value):
            raise ConfigError(f"data.synthetic.{name}: expected a finite number >= {least.get(name)}, found {value}")
    if not arguments["concentration"] > 0:
        raise ConfigError(f"data.synthetic.concentration: expected a number > 0, found {arguments['concentration']}")
    if not LEAST_ROWS * users <= arguments["num_interactions"] <= longest * users:
        raise ConfigError(
            f"data.synthetic.num_interactions: expected {LEAST_ROWS * users} to {longest * users} for {users} users "
            f"({LEAST_ROWS} rows to half of the items each), found {arguments['num_interactions']}"
        )
