"""Laws of TRANSFORMS: of the halves of an upload transform alone, and of rounds with it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from problems import client_data, settings

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.federated.client import make_client_round
from fedvlr_jax.federated.transforms import TRANSFORMS, UploadTransform
from fedvlr_jax.models.model import Broadcast, Upload
from laws.judging import require_equal, require_finite, require_form
from laws.rounds import DATASET, after, refuses

NUM_ITEMS = 7
KEY = jax.random.key(4)
OPTIONS = {"clip_norm": 2.0, "noise_multiplier": 0.5}
COMMON = {"variant": "base", "server__clients_per_round": 9, "aggregation__noise_multiplier": 0.01}


def make_transform(name: str) -> UploadTransform:
    """The row of that name with the settings of ``config.aggregation``."""
    return TRANSFORMS[name](**(settings()["aggregation"] | OPTIONS))


def broadcast() -> Broadcast:
    """Two tables over seven items and a head."""
    rows = {"views": jnp.zeros((NUM_ITEMS, 2, 3)), "P": jnp.zeros((NUM_ITEMS, 3))}
    return Broadcast(rows, {"w": jnp.zeros(4), "b": jnp.zeros(())})


def upload(value: float | None = None, seed: int = 0) -> Upload:
    """Of three items and two slots of padding: random numbers, or the same one everywhere."""
    ids_n, keys = jnp.array([1, 4, 6, NUM_ITEMS, NUM_ITEMS]), iter(jax.random.split(jax.random.key(seed), 4))
    rows, head = jax.tree.map(lambda x: jax.random.normal(next(keys), x.shape), tuple(broadcast()))
    rows = jax.tree.map(lambda x: x.at[ids_n].get(mode="fill", fill_value=0), rows)
    if value is not None:
        rows, head = jax.tree.map(lambda x: jnp.full_like(x, value), (rows, head))
    return Upload(ids_n, rows, head)


def uploads_and_memory_keep_their_form(name: str) -> None:
    transform = make_transform(name)
    memory, sent = transform.init(broadcast()), upload()
    if transform.client is not None:
        found = transform.client(KEY, sent, memory)
        require_form(f"transform {name}: an upload or its memory changes its form", found, (sent, memory))
        require_equal(f"transform {name}: the items of an upload change", found[0].ids_n, sent.ids_n)
    if transform.server is not None:
        mean = transform.server(KEY, broadcast(), jnp.float32(5))
        require_form(f"transform {name}: the mean changes its form", mean, broadcast())


def halves_are_pure(name: str) -> None:
    """The same key, upload and memory give the same bits, from a transform that is made again too."""
    first, second = (make_transform(name) for _ in range(2))
    message = f"transform {name}: it is not a function of key, upload and memory"
    require_equal(message, first.init(broadcast()), second.init(broadcast()))
    if first.client is not None:
        memory = first.init(broadcast())
        require_equal(message, *(t.client(KEY, upload(), memory) for t in (first, second)))
    if first.server is not None:
        require_equal(message, *(t.server(KEY, broadcast(), jnp.float32(5)) for t in (first, second)))


def finite_uploads_stay_finite(name: str) -> None:
    """Zero, tiny and huge ones; the round has counted clients that are not finite before."""
    transform = make_transform(name)
    for value in (0.0, 1e-30, 1.0, 1e30, -3e38):
        if transform.client is not None:
            found = transform.client(KEY, upload(value), transform.init(broadcast()))
            require_finite(f"transform {name}: an upload of {value} becomes infinite", found)
        if transform.server is not None:
            mean = jax.tree.map(lambda x, value=value: jnp.full_like(x, value), broadcast())
            found = transform.server(KEY, mean, jnp.float32(5))
            require_finite(f"transform {name}: a mean of {value} becomes infinite", found)


def padding_is_not_sent(name: str) -> None:
    """Slots of padding hold zeros before and after."""
    transform = make_transform(name)
    if transform.client is None or transform.whole:
        return
    found, _ = transform.client(KEY, upload(), transform.init(broadcast()))
    for table, x in found.rows.items():
        assert not np.asarray(x)[3:].any(), f"transform {name}: it writes into the padding of {table}"


def names_with(name: str) -> str:
    """The transform alone, or behind clip where it says that it needs that."""
    try:
        make_algorithm(settings(aggregation__transforms=name), DATASET)
    except ConfigError:
        return f"clip,{name}"
    return name


def clients_take_part_or_are_left_alone(name: str) -> None:
    """A half on the clients needs the path `uploads`; without one, what a device runs is what it was."""
    transform, common = make_transform(name), {"aggregation__transforms": names_with(name)}
    if transform.client is not None:
        refused = all(refuses(path, **common) for path in ("fused", "picked", "gathered"))
        assert refused, f"transform {name}: a path that forms no uploads is not refused"
        return
    forgets = not jax.tree.leaves(transform.init(broadcast()))
    assert forgets, f"transform {name}: it has memory, but no half on the clients that could use it"
    algorithm = make_algorithm(settings(variant="base"), DATASET)
    texts = [_text_of_a_device(algorithm, t) for t in (transform, UploadTransform())]
    assert texts[0] == texts[1], f"transform {name}: it changes what a device runs without a half on the clients"


def _text_of_a_device(algorithm: Any, transform: UploadTransform) -> str:
    """The lowered program of a client's round."""
    state, data = jax.eval_shape(algorithm.init, jax.random.key(0)), client_data(DATASET)
    downloaded = jax.eval_shape(algorithm.model.publish, state.public.params, data.content)
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), state.private)
    client_round = make_client_round(algorithm.model, algorithm.local, DATASET.num_items, transform)
    arguments = (downloaded, one, data.buckets[0].history[0], KEY, KEY, jnp.int32(0))
    return jax.jit(client_round).lower(*arguments).as_text()


def rounds_are_finite_and_memory_is_the_clients(name: str) -> None:
    """Two rounds; what a client remembers is as many rows as clients, and who was not drawn remembers nothing new."""
    state, info = after(2, aggregation__transforms=names_with(name), **COMMON)
    require_finite(f"transform {name}: not finite after two rounds", (state.public.params, state.private))
    assert not np.asarray(info.num_dropped).any(), f"transform {name}: clients were dropped"
    for path, x in jax.tree_util.tree_leaves_with_path(state.private.memory):
        where = jax.tree_util.keystr(path)
        assert x.shape[0] == DATASET.num_users, f"transform {name}: memory {where} has no client axis: {x.shape}"


LAWS = {
    uploads_and_memory_keep_their_form: (),
    halves_are_pure: (),
    finite_uploads_stay_finite: (),
    padding_is_not_sent: (),
    clients_take_part_or_are_left_alone: (),
    rounds_are_finite_and_memory_is_the_clients: ("noise",),
}
