"""Laws of HOSTS: of a host's functions alone, and of a client's and a whole round with it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from problems import client_data, relative_difference, settings, tiny_dataset

from fedvlr_jax.agreed import Evidence
from fedvlr_jax.algorithm import Algorithm, make_algorithm
from fedvlr_jax.federated import sampling
from fedvlr_jax.federated.score_views import weight_names
from fedvlr_jax.federated.step_loss import put_rows
from fedvlr_jax.models.hosts import HOSTS
from fedvlr_jax.models.hosts.host import Host, ItemRows
from fedvlr_jax.models.own_table import TableRows
from fedvlr_jax.types import Array, PrivateState, PyTree
from laws.algorithm_1 import naive_round
from laws.judging import require_close, require_equal, require_finite
from laws.rounds import DATASET, after, first_state, late_state, open_paths, require_paths_agree

NUM_ITEMS, DIM, ROUND = 9, 8, 5
COMMON = {"host__additive_weight": 0.3, "fusion__operators": "id,visual"}
SMALL = tiny_dataset(num_users=4, num_items=20, dtype=np.float64)


class Example(NamedTuple):
    """A host, one client's private parameters, a public head, the rows of all items, and the compiled score."""

    host: Host
    theta: PyTree
    head: PyTree
    items: ItemRows
    score: Callable[[PyTree, PyTree, ItemRows], Array]


def make_host(name: str) -> Host:
    """The row of that name, made as `make_algorithm` makes it."""
    options = {field: value for field, value in settings()["host"].items() if field != "name"}
    return HOSTS[name](NUM_ITEMS, dim=DIM, init_scale=0.3, objective="bce", **options)


def example(name: str) -> Example:
    """Random parameters, and items with three views."""
    return _example(name, HOSTS[name])


@functools.lru_cache(maxsize=16)
def _example(name: str, row: Any) -> Example:
    del row  # the same name with another row is another host
    host = make_host(name)

    @jax.jit
    def draw(key: Array) -> tuple[PyTree, PyTree, ItemRows]:
        keys = iter(jax.random.split(key, 8))
        normal = lambda *shape: jax.random.normal(next(keys), shape)  # noqa: E731
        public = host.init_public(next(keys))
        tables = public["tables"] | ({"D": normal(NUM_ITEMS, DIM)} if host.reads_D else {})
        own = TableRows(normal(NUM_ITEMS, DIM), tables.get("D")) if host.private_item_table else None
        items = ItemRows(normal(NUM_ITEMS, 3, DIM), jax.nn.softmax(normal(3)), tables, own)
        return host.init_private(next(keys)), public["head"], items

    return Example(host, *draw(jax.random.key(1)), jax.jit(host.score))


def rows_at(items: ItemRows, index: Any) -> ItemRows:
    """Some of the rows."""
    rows = jax.tree.map(lambda x: x[index], items._replace(w_j=None))
    return rows._replace(w_j=items.w_j)


# ---- a host's functions alone


def private_state_is_a_finite_function_of_the_key(name: str) -> None:
    first, again = (make_host(name).init_private(jax.random.key(0)) for _ in range(2))
    require_equal(f"host {name}: initial private state is not a function of the key", first, again)
    require_finite(f"host {name}: initial private state is not finite", first)


def scores_are_finite_numbers(name: str) -> None:
    _, theta, head, items, score = example(name)
    s_i = score(theta, head, items)
    assert s_i.shape == (NUM_ITEMS,), f"host {name}: expected scores [{NUM_ITEMS}], found {s_i.shape}"
    assert jnp.issubdtype(s_i.dtype, jnp.floating), f"host {name}: expected floating-point scores, found {s_i.dtype}"
    require_finite(f"host {name}: scores are not finite", s_i)


def scores_are_row_local(name: str) -> None:
    """A client that scores the rows it touches gets the scores it gets from all rows."""
    _, theta, head, items, score = example(name)
    s_i = score(theta, head, items)
    for index in (np.array([4]), np.array([7, 0, 3]), np.arange(NUM_ITEMS)[::-1]):
        found = score(theta, head, rows_at(items, index))
        message = f"host {name}: scores are not row-local: they depend on which other rows are scored"
        require_close(message, found, s_i[index], rtol=1e-5, atol=1e-5)


def a_linear_score_is_linear(name: str) -> None:
    """Affine in g_i, and in the client's private row, as `bucket_plan` assumes where the row says linear."""
    host, theta, head, items, score = example(name)
    if not host.linear:
        return
    rows = {"g_i": (items.views_bjd, lambda x: items._replace(views_bjd=x))}
    if items.own is not None:
        rows["private rows"] = (items.own.table_bd, lambda x: items._replace(own=TableRows(x)))
    for of, (x, put) in rows.items():
        y = 10 * x[::-1]
        first, second, middle = (score(theta, head, put(z)) for z in (x, y, (x + y) / 2))
        message = f"host {name}: linear is set, but the score is not linear in {of}"
        require_close(message, middle, (first + second) / 2, rtol=1e-4, atol=1e-4)


def weights_of_clients_are_positive(name: str) -> None:
    alpha_c = make_host(name).client_weight(jnp.arange(1.0, 5000.0))
    assert alpha_c.shape == (4999,), f"host {name}: expected one weight a client, found shape {alpha_c.shape}"
    assert (np.isfinite(alpha_c) & (alpha_c > 0)).all(), f"host {name}: weights of clients are not positive"


def penalties_read_the_rows_that_are_used(name: str) -> None:
    """Finite numbers; rows of weight 0, such as padding, do not change the client's."""
    host, theta, _, items, _ = example(name)
    weight_b = jnp.where(jnp.arange(NUM_ITEMS) < 6, 1 / 6, 0.0)
    changed = jax.tree.map(lambda x: x.at[6:].set(99.0), items._replace(w_j=None))._replace(w_j=items.w_j)
    first, second = (host.regulariser(theta, x, weight_b, jnp.int32(ROUND)) for x in (items, changed))
    require_close(f"host {name}: its regulariser reads rows of weight zero", second, first, rtol=1e-6)
    for value in (first, host.server_penalty(jnp.ones((NUM_ITEMS, DIM)), jnp.int32(ROUND))):
        assert value.shape == (), f"host {name}: expected a penalty [], found {value.shape}"
        require_finite(f"host {name}: a penalty is not finite", value)


# ---- one client's round


class Devices(NamedTuple):
    """Some clients about to train, and their round as one vmapped program ``(broadcast, states, histories)``."""

    algorithm: Algorithm
    broadcast: PyTree
    states: PrivateState
    histories: Array
    train: Callable[..., tuple]


def devices(name: str, width: int = 16) -> Devices:
    """The clients of `SMALL` with the host of that name, in float64 (to be called with 64 bits enabled)."""
    return _devices(name, HOSTS[name], width)


@functools.lru_cache(maxsize=16)
def _devices(name: str, row: Any, width: int) -> Devices:
    del row  # the same name with another row is another host
    algorithm = make_algorithm(settings(host__name=name, **COMMON), SMALL)
    state, data = late_state(algorithm, ROUND), client_data(SMALL, widths=(width,))
    broadcast = jax.jit(algorithm.model.publish)(state.public.params, data.content)
    (bucket,) = data.buckets
    return Devices(algorithm, broadcast, state.private, bucket.history, make_training(algorithm))


def make_training(algorithm: Algorithm) -> Callable[..., tuple]:
    """``(broadcast, states, histories) -> (states, dense uploads, losses)`` of some clients, compiled."""
    keys = sampling.entity_keys(jax.random.key(7), jnp.arange(SMALL.num_users))

    def one(broadcast: PyTree, state: PrivateState, history_l: Array, key: Array, own: Evidence | None) -> tuple:
        state, upload, loss = algorithm.client_round(broadcast, state, history_l, key, key, jnp.int32(ROUND), own)
        dense = put_rows(upload.rows, upload.ids_n, SMALL.num_items) if upload.ids_n is not None else upload.rows
        return state, broadcast._replace(rows=dense, head=upload.head), loss

    trained, views = jax.jit(jax.vmap(one, in_axes=(None, 0, 0, 0, 0))), evidence(algorithm)
    return lambda broadcast, states, histories: trained(broadcast, states, histories, keys, views)


def evidence(algorithm: Algorithm) -> Evidence | None:
    """Random score views of the clients of `SMALL`, for a host that learns from them."""
    if algorithm.model.host.evidence_loss is None:
        return None
    x_ubk = jax.random.normal(jax.random.key(5), (SMALL.num_users, 6, len(weight_names())))
    target_ub = jnp.zeros((SMALL.num_users, 6)).at[:, 2].set(1.0)
    return Evidence(x_ubk[..., 0], x_ubk, target_ub, jnp.ones((SMALL.num_users, 6), bool))


def in_float64(law: Callable[[str], None]) -> Callable[[str], None]:
    """The law with 64-bit numbers, in which the order of a sum is no excuse."""

    @functools.wraps(law)
    def checked(name: str) -> None:
        with jax.enable_x64(True):
            law(name)

    return checked


@in_float64
def padding_has_no_influence(name: str) -> None:
    narrow, wide = devices(name), devices(name, width=24)
    found = [x.train(x.broadcast, x.states, x.histories) for x in (narrow, wide)]
    difference = relative_difference(*found)
    assert difference <= 1e-12, f"host {name}: padding of histories changes a client's round by {difference}"


@in_float64
def training_reaches_every_parameter(name: str) -> None:
    """Every private parameter moves, and every table and every public head gets a cotangent."""
    _, broadcast, states, histories, train = devices(name)
    moved, uploads, _ = train(broadcast, states, histories)
    steps = jax.tree.map(lambda new, old: new - old, moved.params, states.params)
    for kind, tree in (("private", steps), ("public", uploads)):
        for path, x in jax.tree_util.tree_leaves_with_path(tree):
            where = jax.tree_util.keystr(path)
            assert np.any(np.asarray(x) != 0), f"host {name}: no gradient reaches {kind} {where}"


@in_float64
def uploads_hold_nothing_of_other_clients(name: str) -> None:
    """An upload has the form of the broadcast, and other clients' private states change no bit of it."""
    _, broadcast, states, histories, train = devices(name)
    changed = states.replace(params=jax.tree.map(lambda x: x.at[0].add(1.0), states.params))
    first, second = (train(broadcast, x, histories)[1] for x in (states, changed))
    assert jax.tree.structure(first) == jax.tree.structure(broadcast), f"host {name}: an upload is no cotangent"
    message = f"host {name}: a client's upload depends on the private state of another"
    require_equal(message, *(jax.tree.map(lambda x: x[1:], tree) for tree in (first, second)))
    assert relative_difference(first, second) > 1e-9, f"host {name}: its private state changes no upload"


@in_float64
def a_device_goes_on_where_it_stopped(name: str) -> None:
    """A saved state and a host that is made again give the bits of a device that never stopped."""
    _, broadcast, states, histories, train = devices(name)
    states = train(broadcast, states, histories)[0]
    saved = jax.tree.map(lambda x: np.asarray(x).copy(), states)
    again = make_training(make_algorithm(settings(host__name=name, **COMMON), SMALL))
    require_equal(
        f"host {name}: a device that was stopped goes on with another result",
        again(broadcast, saved, histories),
        train(broadcast, states, histories),
    )


# ---- whole rounds


@in_float64
def a_round_equals_algorithm_1(name: str, **overrides: Any) -> None:
    """One pull-back a round equals differentiating through the fusion in every client and step."""
    tree = settings(host__name=name, compute__path="uploads", **(COMMON | overrides))
    algorithm, data = make_algorithm(tree, SMALL), client_data(SMALL)
    start = late_state(algorithm, ROUND)
    end, _ = jax.jit(algorithm.run, static_argnums=2)(start, data, 1)
    rates = {"lr": tree["client"]["lr"], "server_lr": tree["server"]["lr"]}
    public, private = naive_round(algorithm, start, data, SMALL.num_items, **rates)
    before = (start.public.params, start.private.params)
    found, expected = (
        jax.tree.map(jnp.subtract, now, before)
        for now in ((end.public.params, end.private.params), (public, private))
    )
    difference = relative_difference(found, expected)
    assert difference <= 1e-11, f"host {name}: a round is {difference} from Algorithm 1"


def paths_agree(name: str, variant: str = "base", paths: tuple[str, ...] | None = None) -> None:
    """All paths that the host may take, on a part of the clients."""
    common = {"host__name": name, "variant": variant, "host__additive_weight": 0.3, "server__clients_per_round": 9}
    require_paths_agree(f"host {name}", list(paths or open_paths(**common)), **common)


def layout_changes_nothing(name: str, variant: str = "base", path: str = "fused") -> None:
    """Neither the order of clients nor buckets nor chunks, on a part of the clients."""
    common = {"host__name": name, "variant": variant, "compute__path": path, "server__clients_per_round": 7}
    start = first_state(make_algorithm(settings(**common), DATASET))
    reference, _ = after(3, start=start, **common)
    shuffled = client_data(DATASET, order=np.random.default_rng(1).permutation(DATASET.num_users))
    other_buckets = client_data(DATASET, widths=(4, 16))
    for data, chunk in ((None, 1), (None, 3), (shuffled, 0), (other_buckets, 2)):
        state, _ = after(3, data=data, start=start, compute__chunk=chunk, **common)
        for a, b in ((state.public, reference.public), (state.private, reference.private)):
            difference = relative_difference(a, b)
            assert difference <= 1e-6, f"host {name}: layout of clients changes a run by {difference}"


OTHERS = ("fedavg", "fedncf", "pfedrec", "fedrap", "fedprior", "fedblend")  # beside fcf
LAWS = {
    private_state_is_a_finite_function_of_the_key: (),
    scores_are_finite_numbers: (),
    scores_are_row_local: (),
    a_linear_score_is_linear: (),
    weights_of_clients_are_positive: (),
    penalties_read_the_rows_that_are_used: (),
    padding_has_no_influence: OTHERS,
    training_reaches_every_parameter: OTHERS,
    uploads_hold_nothing_of_other_clients: OTHERS,
    a_device_goes_on_where_it_stopped: OTHERS,
    a_round_equals_algorithm_1: ("fcf", *OTHERS),  # and see test_identity.py, test_hosts.py
    paths_agree: ("fcf", *OTHERS),  # and see test_rounds.py
    layout_changes_nothing: OTHERS,
}
