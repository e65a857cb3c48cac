"""Upload transforms: what happens to uploads between a client's update and the server's gradient.

A transform has two halves, and either may be missing. The client's acts on one upload before it leaves the device and
may keep a memory between rounds, which is private state. The server's acts on the aggregate of a round. `chain` puts
transforms one after the other, as optax does with transformations of gradients.

To add a transform: a factory ``make(**options) -> UploadTransform`` and a row in ``TRANSFORMS``. The tests over that
table judge it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax.errors import ConfigError, require_one_of
from fedvlr_jax.federated import sampling
from fedvlr_jax.models.model import Broadcast, Upload
from fedvlr_jax.types import Array, PyTree

ClientHalf = Callable[[Array, Upload, PyTree], tuple[Upload, PyTree]]
ServerHalf = Callable[[Array, Broadcast, Array], Broadcast]


def no_memory(broadcast: Broadcast) -> PyTree:
    """The memory of a transform that keeps nothing."""
    return ()


class UploadTransform(NamedTuple):
    """What is done to uploads, as pure functions.

    Attributes:
      init: ``(broadcast) -> memory`` of one client before its first round.
      client: ``(key, upload, memory) -> (upload, memory)`` on the device, or None. The rows of an upload are those of
        distinct items. It needs uploads one by one, so a round that has it takes the path `uploads`.
      server: ``(key, mean, num_clients) -> mean`` on the server, or None; ``num_clients`` float32 [] is the number
        that the sum was divided by.
      fixed_weights: every client weighs 1, and the sum is divided by the planned size of the cohort, whoever drops
        out: nothing but the uploads themselves then depends on the clients' data.
      bounded: no upload has a larger norm than ``clip_norm`` when it leaves the client.
      by_norm: ``(norm) -> factor``, where all that `client` does is to multiply an upload by a number that depends
        on its norm: then norms alone are needed (path `factors`). None for anything else.
      whole: an upload has the rows of all items, since which rows are there would say what was touched.
      counts: the server is told how many uploads the factor of `by_norm` leaves as they are.
    """

    init: Callable[[Broadcast], PyTree] = no_memory
    client: ClientHalf | None = None
    server: ServerHalf | None = None
    fixed_weights: bool = False
    bounded: bool = False
    by_norm: Callable[[Array], Array] | None = None
    whole: bool = False
    counts: bool = False


def chain(transforms: Sequence[UploadTransform]) -> UploadTransform:
    """The transforms one after the other, on the clients and then on the server."""
    clients = [(k, t.client) for k, t in enumerate(transforms) if t.client is not None]
    servers = [(k, t.server) for k, t in enumerate(transforms) if t.server is not None]

    def init(broadcast: Broadcast) -> PyTree:
        return tuple(t.init(broadcast) for t in transforms)

    def client(key: Array, upload: Upload, memory: PyTree) -> tuple[Upload, PyTree]:
        memories = list(memory)
        for k, apply in clients:
            upload, memories[k] = apply(jax.random.fold_in(key, k), upload, memories[k])
        return upload, tuple(memories)

    def server(key: Array, mean: Broadcast, num_clients: Array) -> Broadcast:
        for k, apply in servers:
            mean = apply(jax.random.fold_in(key, k), mean, num_clients)
        return mean

    return UploadTransform(
        init=init if clients else no_memory,
        client=client if clients else None,
        server=server if servers else None,
        fixed_weights=any(t.fixed_weights for t in transforms),
        bounded=bool(clients) and transforms[clients[-1][0]].bounded,
        by_norm=transforms[clients[0][0]].by_norm if len(clients) == 1 else None,
        whole=any(t.whole for t in transforms),
    )


def upload_norm(upload: Upload) -> Array:
    """L2 norm of a whole upload, rows and head, []; no square overflows, only a norm that is itself too large."""
    leaves = jax.tree.leaves((upload.rows, upload.head))
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(x)) for x in leaves]))
    # Not a division by the largest: its reciprocal may be subnormal, and a program that takes such a number for zero
    # would find the norm of a huge upload to be zero.
    scale = jnp.where(largest > 1e15, 2.0**-80, jnp.where(largest < 1e-15, 2.0**80, 1.0))
    return jnp.sqrt(sum(jnp.sum((x * scale) ** 2) for x in leaves)) / scale


def make_clip(*, clip_norm: float, **_: Any) -> UploadTransform:
    """Scales an upload so that its L2 norm is at most `clip_norm`.

    An upload whose norm is not finite becomes zero: the bound holds for whatever a client sends.
    """

    def by_norm(norm: Array) -> Array:
        return jnp.where(jnp.isfinite(norm), jnp.minimum(1.0, clip_norm / jnp.maximum(norm, 1e-30)), 0.0)

    def client(key: Array, upload: Upload, memory: PyTree) -> tuple[Upload, PyTree]:
        factor = by_norm(upload_norm(upload))

        def scale(x: Array) -> Array:
            return jnp.where(factor > 0, factor * x, 0.0)  # zero times infinity is not zero

        rows, head = jax.tree.map(scale, (upload.rows, upload.head))
        return upload._replace(rows=rows, head=head), memory

    return UploadTransform(client=client, bounded=True, by_norm=by_norm)


def make_top_rows(*, keep_rows: float, **_: Any) -> UploadTransform:
    """Sends the largest rows alone: ceil(keep_rows n) of the n that are not zero, by their L2 norm over all tables.

    What is left out is lost: the mean is biased towards large rows.
    """

    def client(key: Array, upload: Upload, memory: PyTree) -> tuple[Upload, PyTree]:
        squared_n = sum(jnp.sum(x.reshape(x.shape[0], -1) ** 2, axis=1) for x in jax.tree.leaves(upload.rows))
        place_n = jnp.argsort(jnp.argsort(-squared_n))
        kept_n = place_n < jnp.ceil(keep_rows * jnp.sum(squared_n > 0))

        def keep(x: Array) -> Array:
            return jnp.where(kept_n.reshape((-1,) + (1,) * (x.ndim - 1)), x, 0.0)

        return upload._replace(rows=jax.tree.map(keep, upload.rows)), memory

    return UploadTransform(client=client)


def make_round8(**_: Any) -> UploadTransform:
    """Rounds every number to 8 bits at random, so that it stays the same on average.

    What is sent are whole multiples, at most 127, of a step of its own for each row of a table and array of the head.

    A row draws by its item, so that it does not matter which other rows are sent.
    """

    def client(key: Array, upload: Upload, memory: PyTree) -> tuple[Upload, PyTree]:
        tables, tree = jax.tree.flatten(upload.rows)
        head, head_tree = jax.tree.flatten(upload.head)
        keys = jax.random.split(key, len(tables) + len(head))
        ids_n = jnp.arange(tables[0].shape[0]) if upload.ids_n is None else upload.ids_n
        rows = [jax.vmap(_rounded)(sampling.entity_keys(k, ids_n), x) for k, x in zip(keys, tables, strict=False)]
        rest = [_rounded(k, x) for k, x in zip(keys[len(tables) :], head, strict=True)]
        rounded = upload._replace(rows=jax.tree.unflatten(tree, rows), head=jax.tree.unflatten(head_tree, rest))
        return rounded, memory

    return UploadTransform(client=client)


def _rounded(key: Array, x: Array) -> Array:
    """x as whole multiples of its largest absolute value over 127, up or down at random; the mean is x."""
    step = jnp.max(jnp.abs(x)) / 127
    usable = step > 1e-35  # a smaller one is nothing, and its inverse not a number that a program must have
    whole = jnp.floor(x / jnp.where(usable, step, 1.0) + jax.random.uniform(key, x.shape, x.dtype))
    return jnp.where(usable, jnp.clip(whole, -127, 127) * step, 0.0)


def make_noise(*, noise_multiplier: float, clip_norm: float, **_: Any) -> UploadTransform:
    """Central Gaussian noise: standard deviation `noise_multiplier` times `clip_norm` on the sum of the uploads.

    It is added to every row of the whole table and to the head, whoever touched what, and clients weigh 1: the sum of
    clipped uploads moves by at most `clip_norm` when one client joins or leaves. What that is worth over many rounds
    is for `privacy.accounting` to say.
    """

    def server(key: Array, mean: Broadcast, num_clients: Array) -> Broadcast:
        return _with_noise(key, mean, noise_multiplier * clip_norm / num_clients)

    return UploadTransform(server=server, fixed_weights=True)


def make_local_noise(*, noise_multiplier: float, clip_norm: float, **_: Any) -> UploadTransform:
    """Local Gaussian noise: every client puts it on its own upload, with `noise_multiplier` times `clip_norm` as
    deviation, on the rows of all items and the head.

    Then nobody who sees single uploads, the server included, learns more of a client than the noise allows; the mean
    has the noise of all clients, which is larger by the root of their number than that of `noise`.
    """

    def client(key: Array, upload: Upload, memory: PyTree) -> tuple[Upload, PyTree]:
        rows, head = _with_noise(key, (upload.rows, upload.head), noise_multiplier * clip_norm)
        return upload._replace(rows=rows, head=head), memory

    return UploadTransform(client=client, fixed_weights=True, whole=True)


def _with_noise(key: Array, tree: PyTree, deviation: float | Array) -> PyTree:
    """Independent Gaussian noise on every number."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    noisy = [x + deviation * jax.random.normal(k, x.shape, x.dtype) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, noisy)


TRANSFORMS: dict[str, Callable[..., UploadTransform]] = {
    "clip": make_clip,
    "local_noise": make_local_noise,
    "top_rows": make_top_rows,
    "round8": make_round8,
    "noise": make_noise,
}
"""Factories by the name in the config; each takes the options of ``config.aggregation`` that it knows."""


def make_transform(names: Sequence[str], options: Mapping[str, Any]) -> UploadTransform:
    """The chain of the named transforms.

    Raises:
      ConfigError: an unknown or repeated name, or an order in which a transform cannot do what it is for.
    """
    for name in names:
        require_one_of(TRANSFORMS, "aggregation.transforms", name)
    if len(set(names)) < len(names):
        raise ConfigError(f"aggregation.transforms: expected distinct names, found {','.join(names)}")
    made = chain([TRANSFORMS[name](**options) for name in names])
    if "noise" in names or "local_noise" in names:
        _require_clip_before_noise(names)
    return made


def _require_clip_before_noise(names: Sequence[str]) -> None:
    """Refuses an order in which nothing bounds what one client can move."""
    found = ",".join(names)
    if {"noise", "local_noise"} <= set(names):
        raise ConfigError(
            f"aggregation.transforms: expected either noise, which the server puts on sums, or local_noise, which "
            f"every client puts on its upload, found {found}"
        )
    noise = "noise" if "noise" in names else "local_noise"
    if "clip" not in names[: names.index(noise)]:
        raise ConfigError(
            f"aggregation.transforms: noise is measured in units of the norm that uploads are clipped to, so "
            f"expected clip before it, found {found}"
        )
    on_clients = [name for name in names if name not in ("noise", "local_noise")]
    if on_clients[-1] != "clip" or (noise == "local_noise" and names[-1] != noise):
        raise ConfigError(
            f"aggregation.transforms: nothing bounds what is made of an upload after clip, so expected clip last "
            f"of what happens on a client{' before local_noise' if noise == 'local_noise' else ''}, found {found}"
        )
