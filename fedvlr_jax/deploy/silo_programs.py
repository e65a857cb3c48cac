"""What a silo and its server agree on, and the compiled programs of a silo."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.algorithm import Algorithm, make_algorithm
from fedvlr_jax.assembly import parse_names
from fedvlr_jax.deploy.client_uploads import Limits
from fedvlr_jax.deploy.export import flat, private_shapes, require_no_prior
from fedvlr_jax.deploy.messages import Layout, layout_of
from fedvlr_jax.errors import MessageError
from fedvlr_jax.evaluation.ranking import rank_all
from fedvlr_jax.federated.client import draw_batch
from fedvlr_jax.federated.executors import client_weights
from fedvlr_jax.federated.scoring import Snapshot
from fedvlr_jax.fields import flatten
from fedvlr_jax.models.model import Upload
from fedvlr_jax.types import Array, Bucket, Dataset, PyTree, Ranks, Targets, content_of, given

SHARED = ("host", "variant", "fusion", "router", "objective", "client", "aggregation", "secure", "privacy")
"""The settings that a silo and its server must have in common, by their first name; see `shared_settings`."""


class Sizes(NamedTuple):
    """What the server tells of its catalogue: |U|, |I|, and the widths of visual and textual features, 0 for none."""

    num_users: int
    num_items: int
    dim_visual: int
    dim_text: int


def sizes_of(dataset: Dataset) -> Sizes:
    """The sizes that a server with this data set tells."""
    widths = (0 if x is None else x.shape[1] for x in (dataset.V, dataset.C))
    return Sizes(dataset.num_users, dataset.num_items, *widths)


def catalogue_of(
    num_users: int, num_items: int, V: np.ndarray | None, C: np.ndarray | None, name: str = "catalogue"
) -> Dataset:
    """A data set without interactions: what a server knows, and with zeros as features what a silo needs."""
    nothing, nobody = np.zeros(0, np.int32), np.full(num_users, -1, np.int32)
    return Dataset(
        name=name,
        num_users=num_users,
        num_items=num_items,
        train_user=nothing,
        train_item=nothing,
        valid_item=nobody,
        test_item=nobody,
        V=V,
        C=C,
    )


def shared_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a silo and its server must have in common, by their dotted names.

    What a budget's noise is solved from is among them: a silo that solved for other rounds would send less noise.
    """
    shared = {name: settings[name] for name in SHARED}
    shared |= {
        group: {name: settings[group][name]} for group, name in (("server", "sampling"), ("compute", "precision"))
    }
    if puts_noise(settings):
        shared["rounds"] = settings["rounds"]
    return dict(flatten(shared))


def puts_noise(settings: Mapping[str, Any]) -> bool:
    """Whether a silo puts noise on what its users send."""
    return "local_noise" in parse_names(settings["aggregation"]["transforms"])


def limits_of(settings: Mapping[str, Any], algorithm: Algorithm, num_items: int) -> Limits:
    """What the settings say of every upload of a client, whatever it has."""
    transform = algorithm.pipeline.transform
    weight = float(client_weights(algorithm.model, transform, jnp.float32(num_items)))
    return Limits(weight, settings["aggregation"]["clip_norm"] if transform.bounded else np.inf)


class Programs(NamedTuple):
    """What a silo makes once it knows the sizes.

    Attributes:
      sizes: of the catalogue.
      algorithm: that the settings describe.
      broadcast, private: of a round, and of one client, as shapes.
      layout: of the broadcast in messages.
      touched: ``(history_l, key) -> ids_n``, the items of `client.ClientBatch`, jitted.
      train: `Algorithm.client_round`, jitted.
      add: ``(sum, upload) -> sum``, the sum that the aggregator forms, with one more upload of weight 1, jitted.
      rank: ``(snapshot, buckets, targets) -> Ranks``, jitted.
    """

    sizes: Sizes
    algorithm: Algorithm
    broadcast: PyTree
    private: PyTree
    layout: Layout
    touched: Callable[[Array, Array], Array]
    train: Callable[..., Any]
    add: Callable[[PyTree, Upload], PyTree]
    rank: Callable[..., Ranks]


def make_programs(settings: Mapping[str, Any], sizes: Sizes) -> Programs:
    """The programs of a silo; features count by their widths alone, so zeros stand in for them."""
    features = [np.zeros((sizes.num_items, width), np.float32) if width else None for width in sizes[2:]]
    catalogue = catalogue_of(*sizes[:2], *features)
    algorithm = make_algorithm(settings, catalogue)
    require_no_prior(algorithm)
    public = jax.eval_shape(algorithm.init_public, jax.random.key(0))
    broadcast = jax.eval_shape(lambda public: algorithm.server.open_round(public, content_of(catalogue))[0], public)

    def rank(params: Snapshot, buckets: tuple[Bucket, ...], targets: Targets) -> Ranks:
        return rank_all(algorithm.rank_score, params, buckets, targets, chunk=settings["eval"]["chunk"])

    def add(total: PyTree, upload: Upload) -> PyTree:
        chunk = jax.tree.map(lambda x: x[None], upload)
        return algorithm.pipeline.aggregator.add(total, chunk, jnp.ones(1))

    def touched(history_l: Array, key: Array) -> Array:
        return given(draw_batch(algorithm.local, sizes.num_items, history_l, key, touched_rows=True).ids_n)

    return Programs(
        sizes,
        algorithm,
        broadcast,
        private_shapes(algorithm),
        layout_of(flat(broadcast)),
        jax.jit(touched),
        jax.jit(algorithm.client_round),
        jax.jit(add),
        jax.jit(rank),
    )


def require_same_settings(own: Mapping[str, Any], servers: Any) -> None:
    """Refuses settings that are not those of the server, which come in through JSON.

    Raises:
      MessageError: naming the first field that differs.
    """
    found = servers if isinstance(servers, Mapping) else {}
    for name in [*own, *found]:
        if own.get(name) != found.get(name):
            raise MessageError(
                f"join: {name}: expected {own.get(name)!r} as in this silo, found {found.get(name)!r} in the "
                "server's settings; start both with one configuration"
            )
