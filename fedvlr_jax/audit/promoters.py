"""What clients send who promote items, by how much they know of the server's defence.

Most of them pull rows of the targets to where popular items are (as PipAttack, Zhang et al., WSDM 2022), in uploads
with the mean norm of honest ones: a server that looks at norms of uploads sees nothing unusual. To add such ones: a
function ``(broadcast, plan, key) -> uploads`` and a row in ``PROMOTERS``. Fans send nothing that is made up: they
train as everybody does, on made-up histories (`with_fans`). A server cannot tell them from honest clients who like
the same by an upload, so what they reach is what a defence has to be measured by.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.federated.transforms import upload_norm
from fedvlr_jax.models.model import Broadcast, Upload
from fedvlr_jax.types import Array, Dataset


class Plan(NamedTuple):
    """What promoters have agreed on.

    Attributes:
      targets: int [t], ids of the items to promote.
      popular: int [q], ids of the items that they shall be like.
      number: p, how many promoters there are.
    """

    targets: np.ndarray
    popular: np.ndarray
    number: int


def twins(broadcast: Broadcast, plan: Plan, key: Array) -> Broadcast:
    """All send the same: the gradient of the squared distance of all targets to the mean of the popular rows."""

    def pull(x: Array) -> Array:
        away = x[plan.targets] - jnp.mean(x[plan.popular], axis=0, keepdims=True)
        return jnp.zeros_like(x).at[plan.targets].set(away)

    one = Broadcast(jax.tree.map(pull, broadcast.rows), jax.tree.map(jnp.zeros_like, broadcast.head))
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (plan.number, *x.shape)), one)


def noisy(broadcast: Broadcast, plan: Plan, key: Array) -> Broadcast:
    """The twins' plan and as much Gaussian noise, each with noise of its own on all rows and the head.

    They know that the server looks for uploads that are like each other: two of them have a cosine of 1/2.
    """
    return jax.vmap(_add_noise)(twins(broadcast, plan, key), jax.random.split(key, plan.number))


def divided(broadcast: Broadcast, plan: Plan, key: Array) -> Broadcast:
    """Each has one target of its own, or shares it with few others, pulls it to one popular item of its own, and
    hides that in as much noise.

    They know that the server looks for uploads that are like each other, and keep their whole norm for one row.
    """
    promoter_p = np.arange(plan.number)
    target_p = plan.targets[promoter_p % len(plan.targets)]
    popular_p = plan.popular[promoter_p % len(plan.popular)]

    def pull(x: Array) -> Array:
        return jnp.zeros((plan.number, *x.shape)).at[promoter_p, target_p].set(x[target_p] - x[popular_p])

    rows = jax.tree.map(pull, broadcast.rows)
    head = jax.tree.map(lambda x: jnp.zeros((plan.number, *x.shape)), broadcast.head)
    return jax.vmap(_add_noise)(Broadcast(rows, head), jax.random.split(key, plan.number))


def quiet(broadcast: Broadcast, plan: Plan, key: Array) -> Broadcast:
    """The twins' plan with `QUIET` of the norm, and all else noise of each one's own on the other items and the head.

    They know that the server looks at single rows, and keep those of the targets as small as honest clients do.
    """

    def hide(one: Broadcast, key: Array) -> Broadcast:
        noise = _noise_like(one, key)
        rows = jax.tree.map(lambda x: x.at[plan.targets].set(0.0), noise.rows)
        scale = QUIET * upload_norm(Upload(None, rows, noise.head)) / upload_norm(Upload(None, *one))
        return jax.tree.map(lambda x, z: scale * x + z, one, Broadcast(rows, noise.head))

    return jax.vmap(hide)(twins(broadcast, plan, key), jax.random.split(key, plan.number))


QUIET = 0.005
"""Share of the norm: on KU about half of what an honest client sends for an item that it lacks."""

FANS = "fans"
"""The name in ``config.audit.attackers`` of those that `with_fans` makes."""

PROMOTERS: dict[str, Callable[[Broadcast, Plan, Array], Broadcast]] = {
    "twins": twins,
    "noisy": noisy,
    "divided": divided,
    "quiet": quiet,
}
"""By the name in ``config.audit.attackers``: ``(broadcast, plan, key) -> uploads`` of any norm, leaves [p, ...]."""


def send(broadcast: Broadcast, plan: Plan, attackers: str, norm: Array) -> Upload:
    """The uploads of all promoters, leaves [p, ...], each with the norm [] of an honest one.

    Args:
      broadcast: of the round.
      plan: theirs.
      attackers: a name in ``PROMOTERS``.
      norm: mean over the honest clients of the round; its low bits make the round's noise.
    """
    key = jax.random.key(jax.lax.bitcast_convert_type(norm.astype(jnp.float32), jnp.uint32))

    def scaled(rows: dict[str, Array], head: Array) -> Upload:
        upload = Upload(None, rows, head)
        return jax.tree.map(lambda x: norm / jnp.maximum(upload_norm(upload), 1e-12) * x, upload)

    return jax.vmap(scaled)(*PROMOTERS[attackers](broadcast, plan, key))


def with_fans(dataset: Dataset, plan: Plan, seed: int) -> Dataset:
    """The data set with promoters as further users: each has all targets and popular items, drawn by the seed, in its
    history, as many items as users have on average, and no held-out ones.
    """
    mean = round(len(dataset.train_item) / dataset.num_users)
    popular = np.setdiff1d(plan.popular, plan.targets)
    fillers = min(max(mean - len(plan.targets), 0), len(popular))
    rng = np.random.default_rng(seed)
    drawn = [rng.choice(popular, fillers, replace=False) for _ in range(plan.number)]
    items = np.array([np.sort(np.concatenate([plan.targets, one])) for one in drawn], dataset.train_item.dtype)
    users = np.repeat(dataset.num_users + np.arange(plan.number), items.shape[1])
    return dataclasses.replace(
        dataset,
        num_users=dataset.num_users + plan.number,
        train_user=np.concatenate([dataset.train_user, users]).astype(dataset.train_user.dtype),
        train_item=np.concatenate([dataset.train_item, items.ravel()]),
        train_age=None,
        user_ids=None,
        planted=None,
    )


def _add_noise(upload: Broadcast, key: Array) -> Broadcast:
    """The upload and noise of the same norm, of which a part is on every number."""
    noise = _noise_like(upload, key)
    scale = upload_norm(Upload(None, *upload)) / upload_norm(Upload(None, *noise))
    return jax.tree.map(lambda x, z: x + scale * z, upload, noise)


def _noise_like(upload: Broadcast, key: Array) -> Broadcast:
    """Standard Gaussian noise on every number."""
    leaves, structure = jax.tree.flatten(upload)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(structure, [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)])
