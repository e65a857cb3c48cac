"""A client's round and its scoring as serialised StableHLO, which a device runs with jax and without this library.

Three functions of one client are exported, each for the platforms at once; arrays go in and come out as dicts of
flat names, since a device knows none of this library's types:

    start(key)                                                       -> private
    update(broadcast, private, history_l, key, transform_key, round) -> private, upload, loss
    score(broadcast, private, history_l, key, user, round)           -> s_i

`update` and `score` have one program for each width of padded histories.
"""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.algorithm import Algorithm
from fedvlr_jax.data.whole_folder import whole_folder
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.extras import require_extra
from fedvlr_jax.federated.scoring import Snapshot
from fedvlr_jax.io.files import write_arrays, write_json
from fedvlr_jax.types import Array, Bucket, PyTree

VERSION = 1  # of the folder: raised whenever the loader of an older one cannot read it
PLATFORMS = ("cpu", "cuda", "tpu")
LOADER = pathlib.Path(__file__).with_name("device.py")


class Programs(NamedTuple):
    """The functions of one client over flat dicts, and the shapes that they are called with.

    Attributes:
      functions: by name, "start", "update_16", "score_16", ...
      arguments: by name, their arguments as shapes.
      widths: the widths of padded histories, ascending.
    """

    functions: Mapping[str, Callable[..., Any]]
    arguments: Mapping[str, tuple[Any, ...]]
    widths: tuple[int, ...]


def flat(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by their path, as in "rows/views"; a tree that is one leaf has the name ""."""
    found, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in found}


def unflat(like: PyTree, leaves: Mapping[str, Any]) -> PyTree:
    """The tree with the structure of `like` whose `flat` is `leaves`."""
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in flat(like)])


def require_no_prior(algorithm: Algorithm) -> None:
    """Refuses a host whose clients score with more than the broadcast and their own state.

    Raises:
      ConfigError: for such a host.
    """
    host = algorithm.model.host
    if host.combine is not None or host.view_weights is not None:
        raise ConfigError(
            "host.name: expected a host whose clients score with the broadcast alone, found one that needs sums from "
            "before the first round"
        )


def require_fixed_bound(algorithm: Algorithm, where: str) -> None:
    """Refuses a bound of clip that the server moves from round to round, of which `client_round` knows the first.

    Raises:
      ConfigError: for such a bound; `where` says in words what cannot have it.
    """
    adaptive = algorithm.pipeline.adaptive
    if adaptive is not None:
        raise ConfigError(
            f"aggregation.clip_quantile: expected 0 in {where} (its messages carry no bound), found "
            f"{adaptive.quantile:g}"
        )


def private_shapes(algorithm: Algorithm) -> PyTree:
    """The private state of one client, as shapes."""
    rows = jax.eval_shape(algorithm.init_clients, jax.random.key(0), jnp.zeros(1, jnp.int32))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), rows)


def client_programs(algorithm: Algorithm, broadcast: PyTree, num_items: int, longest: int) -> Programs:
    """The functions of one client.

    Args:
      algorithm: what was trained.
      broadcast: arrays or shapes of `Server.open_round`.
      num_items: |I|, the padding of histories.
      longest: items of the longest history that shall fit.

    Raises:
      ConfigError: for a host whose clients also need what was formed before the first round, and for a bound of clip
        that moves.
    """
    require_no_prior(algorithm)
    require_fixed_bound(algorithm, "an exported client")
    private = private_shapes(algorithm)

    def start(key: Array) -> dict[str, Array]:
        state = algorithm.init_clients(jax.random.wrap_key_data(key), jnp.zeros(1, jnp.int32))
        return flat(jax.tree.map(lambda x: x[0], state))

    def update(
        published: dict[str, Array],
        own: dict[str, Array],
        history_l: Array,
        key: Array,
        transform_key: Array,
        round_: Array,
    ) -> tuple[dict[str, Array], dict[str, Array], Array]:
        keys = map(jax.random.wrap_key_data, (key, transform_key))
        state, upload, loss = algorithm.client_round(
            unflat(broadcast, published), unflat(private, own), history_l, *keys, round_
        )
        return flat(state), flat(upload._asdict()), loss

    def score(
        published: dict[str, Array], own: dict[str, Array], history_l: Array, key: Array, user: Array, round_: Array
    ) -> Array:
        state = jax.tree.map(lambda x: x[None], unflat(private, own))
        params = Snapshot(unflat(broadcast, published), state, jax.random.wrap_key_data(key), round_)
        return algorithm.score(params, Bucket(user[None], history_l[None], jnp.zeros(1, jnp.int32)))[0]

    widths = _widths(min(longest, num_items))
    key, number = jax.ShapeDtypeStruct((2,), jnp.uint32), jax.ShapeDtypeStruct((), jnp.int32)
    shared = (_shapes(flat(broadcast)), _shapes(flat(private)))
    functions: dict[str, Callable[..., Any]] = {"start": start}
    arguments: dict[str, tuple[Any, ...]] = {"start": (key,)}
    for width in widths:
        history = jax.ShapeDtypeStruct((width,), jnp.int32)
        functions |= {f"update_{width}": update, f"score_{width}": score}
        arguments |= {
            f"update_{width}": (*shared, history, key, key, number),
            f"score_{width}": (*shared, history, key, number, number),
        }
    return Programs(functions, arguments, widths)


def export_client(
    folder: pathlib.Path,
    programs: Programs,
    broadcast: PyTree,
    about: Mapping[str, Any],
    platforms: Iterable[str] = PLATFORMS,
    more: Mapping[str, bytes] = MappingProxyType({}),
) -> dict[str, int]:
    """Writes the folder that a device gets: programs, the broadcast, a manifest and the loader.

    Args:
      folder: is made; must not exist.
      programs: of `client_programs`.
      broadcast: the latest one, as arrays.
      about: what the manifest says of the model.
      platforms: of jax, that the programs can run on.
      more: contents of further files, by name.

    Returns:
      The size of every program and further file in bytes.

    Raises:
      ConfigError: the extra ``deploy`` is not installed, or the folder has content or cannot be written.
    """
    with require_extra("deploy", "exporting programs"):
        import flatbuffers  # noqa: F401
    names = tuple(platforms)
    files = {
        f"{name}.bin": jax.export.export(jax.jit(function), platforms=names)(*programs.arguments[name]).serialize()
        for name, function in programs.functions.items()
    } | dict(more)
    arrays = {name: np.asarray(leaf) for name, leaf in flat(broadcast).items()}
    manifest = {
        "version": VERSION,
        "jax": jax.__version__,
        "platforms": names,
        "widths": programs.widths,
        **about,
        "broadcast": {name: [list(x.shape), str(x.dtype)] for name, x in arrays.items()},
    }
    try:
        with whole_folder(folder) as made:
            for name, content in files.items():
                (made / name).write_bytes(content)
            write_arrays(made / "broadcast.npz", arrays)
            write_json(made / "manifest.json", manifest)
            shutil.copy(LOADER, made / LOADER.name)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"--out={folder}: expected a free folder that can be written, found {reason}") from error
    return {name: len(content) for name, content in files.items()}


def _widths(longest: int) -> tuple[int, ...]:
    """Powers of two from 8 on, the last of which holds the longest history."""
    widths = [8]
    while widths[-1] < longest:
        widths.append(2 * widths[-1])
    return tuple(widths)


def _shapes(leaves: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in leaves.items()}
