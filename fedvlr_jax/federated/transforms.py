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
    """

    init: Callable[[Broadcast], PyTree] = no_memory
    client: ClientHalf | None = None
    server: ServerHalf | None = None
    fixed_weights: bool = False


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

    def client(key: Array, upload: Upload, memory: PyTree) -> tuple[Upload, PyTree]:
        norm = upload_norm(upload)
        factor = jnp.where(jnp.isfinite(norm), jnp.minimum(1.0, clip_norm / jnp.maximum(norm, 1e-30)), 0.0)

        def scale(x: Array) -> Array:
            return jnp.where(factor > 0, factor * x, 0.0)  # zero times infinity is not zero

        rows, head = jax.tree.map(scale, (upload.rows, upload.head))
        return upload._replace(rows=rows, head=head), memory

    return UploadTransform(client=client)


def make_noise(*, noise_multiplier: float, clip_norm: float, **_: Any) -> UploadTransform:
    """Central Gaussian noise: standard deviation `noise_multiplier` times `clip_norm` on the sum of the uploads.

    It is added to every row of the whole table and to the head, whoever touched what, and clients weigh 1: the sum of
    clipped uploads moves by at most `clip_norm` when one client joins or leaves. What that is worth over many rounds
    is for `privacy.accounting` to say.
    """

    def server(key: Array, mean: Broadcast, num_clients: Array) -> Broadcast:
        leaves, tree = jax.tree.flatten(mean)
        keys = jax.random.split(key, len(leaves))
        scale = noise_multiplier * clip_norm / num_clients
        noisy = [x + scale * jax.random.normal(k, x.shape, x.dtype) for x, k in zip(leaves, keys, strict=True)]
        return jax.tree.unflatten(tree, noisy)

    return UploadTransform(server=server, fixed_weights=True)


TRANSFORMS: dict[str, Callable[..., UploadTransform]] = {"clip": make_clip, "noise": make_noise}
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
    transforms = [TRANSFORMS[name](**options) for name in names]
    if "noise" in names:
        _require_bounded([n for n, t in zip(names, transforms, strict=True) if t.client or n == "noise"], names)
    return chain(transforms)


def _require_bounded(steps: Sequence[str], names: Sequence[str]) -> None:
    """Refuses noise on uploads that nothing bounds: clip has to be the last that happens on a client.

    Args:
      steps: the names with a client's half, and noise, in their order.
      names: all of them.
    """
    found = ",".join(names)
    if "clip" not in steps[: steps.index("noise")]:
        raise ConfigError(
            f"aggregation.transforms: noise is measured in units of the norm that uploads are clipped to, so "
            f"expected clip before it, found {found}"
        )
    if later := [name for name in steps[steps.index("clip") + 1 :] if name != "noise"]:
        raise ConfigError(
            f"aggregation.transforms: an upload is no longer bounded when {' and '.join(later)} come after clip, so "
            f"expected clip last of what happens on a client, found {found}"
        )
