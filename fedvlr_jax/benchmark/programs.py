"""The compiled programs of one method: points of its grid and seeds are arguments, so all its runs share them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.agreed import Prior, ScoreViews
from fedvlr_jax.algorithm import Algorithm, build_algorithm, make_algorithm
from fedvlr_jax.compiling import Compiler
from fedvlr_jax.data.buckets import heldout_targets
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.evaluation.lists import ItemFacts, Lists, item_facts, list_all
from fedvlr_jax.evaluation.metrics import warm_items
from fedvlr_jax.evaluation.ranking import rank_all, without_test
from fedvlr_jax.fields import with_fields
from fedvlr_jax.training.experiment import before_rounds
from fedvlr_jax.training.priors import NoisedPrior
from fedvlr_jax.training.score_views import ConfiguredViews
from fedvlr_jax.types import Array, ClientData, Dataset, PyTree, Ranks, RoundInfo, Targets, content_of

TracedPoint = dict[str, float]


class UnlikeRunsError(ConfigError):
    """Runs that cannot go through one program together: what they agreed on before the rounds has other parts."""


class RunGroup(NamedTuple):
    """Runs that go through the programs together; every leaf has a leading axis ``m`` of runs.

    Attributes:
      point: values of the traced settings, by dotted name, float32 [m] each.
      clients: histories, shared by all runs; features and prior, [m, ...] where runs have their own (controls).
      own_content: whether they do.
    """

    point: dict[str, Array]
    clients: ClientData
    own_content: bool


class MethodPrograms(Compiler):
    """Compiles each program of a method at most once for each size of group.

    Args:
      settings: nested settings of the method; the traced fields keep their values where a point has none.
      dataset: the data; features of the same shapes may replace its own.
      clients: the same data as rounds read it.

    Attributes:
      seconds_before: spent so far on what a host and its clients agree on before the rounds.
    """

    def __init__(self, settings: Mapping[str, Any], dataset: Dataset, clients: ClientData):
        super().__init__()
        self.settings, self.dataset = settings, dataset
        for field, expected in (
            ("store", "device"),
            ("devices", 1),
        ):  # clients are not split over devices or a store here
            found = settings["compute"][field]
            if found != expected:
                raise ConfigError(f"compute.{field}: expected {expected} in a benchmark or a sweep, found {found}")
        self.algorithm = make_algorithm(settings, dataset)  # checks everything once, with plain numbers
        self.targets = heldout_targets(dataset)
        self.warm_i = warm_items(dataset.train_item, dataset.num_items)
        self._chunk = settings["eval"]["chunk"]
        begin = time.perf_counter()
        self._prior = before_rounds(settings, dataset, self.algorithm.model.host)
        self.seconds_before = time.perf_counter() - begin
        self._clients = clients._replace(prior=self._prior_of(dataset))
        self._compiled: dict[tuple, Any] = {}

    @property
    def megabytes_once(self) -> float:
        """10^6 bytes that move before the first round."""
        return 0.0 if self._prior is None else self._prior.megabytes

    @property
    def megabytes_per_round(self) -> float:
        """10^6 bytes that the clients of a round move, both directions, whole messages."""
        cost = self.algorithm.cost
        return (cost.bytes_down_per_client + cost.bytes_up_per_client) * self.algorithm.clients_per_round / 1e6

    def group(
        self, points: Sequence[TracedPoint], datasets: Sequence[Dataset] | None = None, seeds: Sequence[int] = ()
    ) -> RunGroup:
        """A group of runs, one for each point.

        Args:
          points: values of the traced fields.
          datasets: features of each run, if they have their own.
          seeds: of each run, for what a host draws before the first round; () = all as the settings say.

        Raises:
          UnlikeRunsError: runs of which some read the order of time and others do not.
        """
        names = points[0]
        point = {name: jnp.asarray([p[name] for p in points], jnp.float32) for name in names}
        clients = self._clients
        draws = isinstance(self._prior, (ConfiguredViews, NoisedPrior)) and bool(seeds)
        several = (datasets is not None or draws) and len(points) > 1
        if datasets is not None or draws:  # one run alone goes through the same program with other features
            datasets, seeds = datasets or [self.dataset] * len(points), seeds or [None] * len(points)
            pairs = zip(datasets, seeds, strict=True)
            own = [(content_of(dataset), self._prior_of(dataset, seed)) for dataset, seed in pairs]
            if len({jax.tree.structure(one) for one in own}) > 1:
                raise UnlikeRunsError(
                    "expected runs that read the order of time alike to train side by side, found seeds or features "
                    "for which host.choose_order decides otherwise"
                )
            content, prior = jax.tree.map(lambda *x: jnp.stack(x), *own) if several else own[0]
            clients = clients._replace(content=content, prior=prior)
        return RunGroup(point, jax.device_put(clients), several)

    def init(self, group: RunGroup, seeds: Sequence[int]) -> PyTree:
        """The states before the first round, [m, ...]."""
        keys = jnp.stack([jax.random.key(seed) for seed in seeds])

        def init(point: TracedPoint, clients: ClientData, key: Array) -> PyTree:
            del clients
            return self._at(point).init(key)

        return self._call("init", init, group, (keys,), runs_once=True)

    def run(self, group: RunGroup, state: PyTree, num_rounds: int) -> tuple[PyTree, RoundInfo]:
        """`num_rounds` rounds of every run; RoundInfo is [m, rounds]."""

        def run(point: TracedPoint, clients: ClientData, state: PyTree) -> tuple[PyTree, RoundInfo]:
            return self._at(point).run(state, clients, num_rounds)

        return self._call(("run", num_rounds), run, group, (state,), donate=True)

    def rank(self, group: RunGroup, state: PyTree, *, hide_test: bool) -> Ranks:
        """Ranks of the held-out items in every run, NumPy [m, ...]; hidden test items are not handed over."""
        size = jax.tree.leaves(state)[0].shape[0]
        targets = without_test(self.targets) if hide_test else self.targets

        def rank(point: TracedPoint, clients: ClientData, state: PyTree, targets: Targets) -> Ranks:
            algorithm = self._at(point)
            params = algorithm.snapshot(state, clients.content, clients.prior)
            return rank_all(algorithm.rank_score, params, clients.buckets, targets, chunk=self._chunk)

        of_runs = jax.tree.map(lambda x: jnp.asarray(np.broadcast_to(x, (size, *x.shape))), targets)
        return jax.device_get(self._call("rank", rank, group, (state, of_runs)))

    def lists(self, group: RunGroup, state: PyTree) -> Lists:
        """The lists of all users in every run, NumPy [m, ...]; features of a control change what is shown alone."""

        def judge(point: TracedPoint, clients: ClientData, state: PyTree, facts: ItemFacts) -> Lists:
            algorithm = self._at(point)
            params = algorithm.snapshot(state, clients.content, clients.prior)
            sizes = {"num_users": self.dataset.num_users, "chunk": self._chunk}
            return list_all(algorithm.rank_score, params, clients.buckets, facts, **sizes)

        facts = jax.tree.map(jnp.asarray, item_facts(self.dataset))
        return jax.device_get(self._call("lists", judge, group, (state,), shared=(facts,)))

    def keep(self, better_m: np.ndarray, state: PyTree, best: PyTree) -> PyTree:
        """`state` where a run is better than ever, else `best`."""
        return _keep(jnp.asarray(better_m), state, best)

    def _prior_of(self, dataset: Dataset, seed: int | None = None) -> Prior | ScoreViews | None:
        if self._prior is None:
            return None
        begin, draws = time.perf_counter(), isinstance(self._prior, (ConfiguredViews, NoisedPrior))
        found = self._prior.of(dataset, seed) if draws else self._prior.of(dataset)
        self.seconds_before += time.perf_counter() - begin
        return found

    def _at(self, point: Mapping[str, Array]) -> Algorithm:
        return build_algorithm(with_fields(self.settings, point), self.dataset)

    def _call(
        self,
        name: Any,
        function: Callable,
        group: RunGroup,
        arguments: tuple,
        *,
        shared: tuple = (),
        donate: bool = False,
        runs_once: bool = False,
    ) -> Any:
        """``function(point, clients, *arguments, *shared)`` over the runs of the group, compiled ahead of time.

        What is shared has no axis of runs.
        """
        everything = group.point, group.clients, *arguments, *shared
        size = jax.tree.leaves(arguments)[0].shape[0]
        parts = jax.tree.structure(group.clients)  # what reads no order of time has fewer maps
        key = (name, size, group.own_content, parts, *group.point)
        if key not in self._compiled:
            own = 0 if group.own_content else None
            axes = ClientData(None, own, own)
            over_runs = _one if size == 1 else jax.vmap
            mapped = over_runs(function, in_axes=(0, axes, *(0 for _ in arguments), *(None for _ in shared)))
            jitted = jax.jit(mapped, donate_argnums=(2,) if donate else ())
            self._compiled[key] = self.compile(jitted, *everything, runs_once=runs_once)
        return self._compiled[key](*everything)


def _one(function: Callable, *, in_axes: tuple) -> Callable:
    """`function` of a single run, without the axis of runs inside: a batch of one costs some operations dearly."""

    def drop(axis: Any, argument: PyTree) -> PyTree:
        return jax.tree.map(lambda x: x[0], argument) if axis == 0 else argument  # no group of one has own features

    def mapped(*arguments: PyTree) -> PyTree:
        result = function(*(drop(axis, argument) for axis, argument in zip(in_axes, arguments, strict=True)))
        return jax.tree.map(lambda x: x[None], result)

    return mapped


@jax.jit
def _keep(better_m: Array, state: PyTree, best: PyTree) -> PyTree:
    def choose(new: Array, old: Array) -> Array:
        if jnp.issubdtype(new.dtype, jax.dtypes.prng_key):
            return new  # never changes
        return jnp.where(better_m.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)

    return jax.tree.map(choose, state, best)
