"""The two compiled programs of a run: rounds, and the ranking of held-out items."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, SingleDeviceSharding

from fedvlr_jax.algorithm import make_algorithm, parse_names
from fedvlr_jax.data.buckets import heldout_targets, make_client_data
from fedvlr_jax.evaluation.metrics import warm_items
from fedvlr_jax.evaluation.ranking import rank_all
from fedvlr_jax.federated import prior
from fedvlr_jax.federated.mesh import place_clients, rank_over_devices, replicate, state_shardings
from fedvlr_jax.io.checkpoint import Checkpoints
from fedvlr_jax.types import Array, Bucket, ClientData, Content, Dataset, FedState, Prior, PyTree, Ranks, RoundInfo

Run = Callable[[PyTree, ClientData], tuple[PyTree, RoundInfo]]


class Experiment(NamedTuple):
    """What is trained on what.

    Attributes:
      settings: the nested settings of configs/base.py.
      dataset: interactions, splits and features.
      clients: the same interactions and features as the rounds read them. There are no buckets in it where private
        states lie in a store (``compute.store``): each round then has buckets of its own.
      algorithm: the `algorithm.Algorithm` that the settings describe for this data set.
    """

    settings: Mapping[str, Any]
    dataset: Dataset
    clients: ClientData
    algorithm: Any


def make_experiment(settings: Mapping[str, Any], dataset: Dataset) -> Experiment:
    """The algorithm that the settings describe, with everything that it reads of a data set.

    Raises:
      ConfigError: as `algorithm.make_algorithm`.
    """
    algorithm = make_algorithm(settings, dataset)
    if settings["compute"]["store"] == "device":
        clients = make_client_data(dataset)
    else:
        clients = ClientData((), Content(*(None if x is None else jnp.asarray(x) for x in (dataset.V, dataset.C))))
    if algorithm.model.host.combine is not None:
        clients = clients._replace(prior=configured_prior(settings, dataset).of(dataset))
    return Experiment(settings, dataset, clients, algorithm)


class ConfiguredPrior(NamedTuple):
    """A prior that is solved; only the shrinking of rare items is left, which depends on the features."""

    settings: Mapping[str, Any]
    weights: prior.ItemWeights

    def of(self, dataset: Dataset) -> Prior:
        """The prior with the features of `dataset` (same interactions) that `fusion.modalities` leaves on."""
        on = parse_names(self.settings["fusion"]["modalities"])
        features = [x if letter in on else None for letter, x in (("V", dataset.V), ("C", dataset.C))]
        return prior.make_prior(dataset, self.weights, features, prior.PriorSettings(**self.settings["prior"]))


def configured_prior(settings: Mapping[str, Any], dataset: Dataset) -> ConfiguredPrior:
    """Federates and solves the prior that ``config.prior`` describes."""
    return ConfiguredPrior(settings, prior.federate(dataset, prior.PriorSettings(**settings["prior"])))


class StateHolder(Protocol):
    """What the host loop needs of the compiled programs of a run, wherever private states lie.

    A state is a `FedState` that the loop hands on from call to call; `advance` consumes it. What of it lies elsewhere
    belongs to the holder and always is that of the latest round.

    Attributes:
      warm_i: bool [i], items with train rows.
      seconds: spent on compiling so far.
    """

    warm_i: np.ndarray
    seconds: float

    def init(self, seed: int) -> PyTree:
        """The state before the first round."""

    def restore(self, checkpoints: Checkpoints, round_: int, *, read_only: bool) -> PyTree:
        """The state of a round that was saved; with `read_only` it cannot be advanced.

        Raises:
          CheckpointError: as `Checkpoints.restore` and `io.view.View.restore`.
        """

    def prepare(self, length: int | None) -> None:
        """Compile what is missing of the ranking, and of rounds in stretches of a multiple of `length` if given."""

    def advance(self, state: PyTree, num_rounds: int) -> tuple[PyTree, RoundInfo]:
        """The state so many rounds later, and the (NumPy) info of each of them; waits for both."""

    def rank(self, state: PyTree, *, hide_test: bool) -> Ranks:
        """Where the held-out items stand; with `hide_test` the test items are not handed over at all."""

    def parts(self, state: PyTree) -> Iterator[tuple[FedState, Bucket]]:
        """All clients, some at a time: their histories, and a state in which `Bucket.place` finds their own."""

    def commit(self) -> Mapping[str, Any]:
        """Make durable what is not part of the state; what a checkpoint's record has to say of it."""

    def retain(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Delete what no checkpoint needs, given the records of all that are left."""


class Compiling:
    """Compiles ahead of time and adds up what that takes in `seconds`."""

    def __init__(self):
        self.seconds = 0.0

    def _compile(self, jitted: Any, *args: Any, **static: Any) -> Any:
        begin = time.perf_counter()
        compiled = jitted.lower(*args, **static).compile()
        self.seconds += time.perf_counter() - begin
        return compiled


class Programs(Compiling):
    """The `StateHolder` of states that lie on the device as a whole, or are split over several.

    Each program is compiled at most once. All arguments are abstract (shapes and types), so a fresh and a restored
    state get the same program.
    """

    def __init__(self, experiment: Experiment, *, eval_chunk: int):
        super().__init__()
        _, dataset, clients, algorithm = experiment
        mesh = algorithm.mesh
        self.clients = place_clients(clients, dataset.num_users, dataset.num_items, mesh)
        self._buckets = clients.buckets  # of the whole state, wherever that lies
        self.target_tu = heldout_targets(dataset)
        self.warm_i = warm_items(dataset.train_item, dataset.num_items)
        self.abstract_state = abstract(jax.eval_shape(algorithm.init, jax.random.key(0)), mesh)
        self._places = jax.tree.map(lambda x: x.sharding, self.abstract_state)
        self._algorithm, self._eval_chunk, self._rank = algorithm, eval_chunk, None
        self._run: tuple[int, Run] | None = None

    def init(self, seed: int) -> PyTree:
        """The state before the first round."""
        words = replicate(np.asarray(jax.random.key_data(jax.random.key(seed))), self._algorithm.mesh)
        init = jax.jit(
            lambda words: self._algorithm.init(jax.random.wrap_key_data(words)), out_shardings=self._places
        )
        return self._compile(init, words)(words)

    def run(self, num_rounds: int) -> Run:
        """``(state, clients) -> (state, RoundInfo [num_rounds])``; the state is donated."""
        run = jax.jit(
            self._algorithm.run,
            static_argnames="num_rounds",
            donate_argnames="state",
            out_shardings=(self._places, None),
        )
        return self._compile(run, self.abstract_state, self.clients, num_rounds=num_rounds)

    def restore(self, checkpoints: Checkpoints, round_: int, *, read_only: bool) -> PyTree:
        """See `StateHolder`."""
        del read_only  # nothing lies outside of the state
        return checkpoints.restore(round_, self.abstract_state)

    def prepare(self, length: int | None = None) -> None:
        """See `StateHolder`."""
        if length is not None and (self._run is None or self._run[0] != length):
            self._run = (length, self.run(length))
        if self._rank is None:

            def rank(state: PyTree, clients: ClientData, target_tu: Array) -> Ranks:
                params = self._algorithm.scoring(state, clients.content, clients.prior)
                return rank_over_devices(ranked, self._algorithm.mesh)(params, clients.buckets, target_tu)

            def ranked(params: PyTree, buckets: tuple[Bucket, ...], target_tu: Array) -> Ranks:
                return rank_all(self._algorithm.rank_score, params, buckets, target_tu, chunk=self._eval_chunk)

            targets = replicate(self.target_tu, self._algorithm.mesh)
            self._rank = self._compile(jax.jit(rank), self.abstract_state, self.clients, targets)

    def rank(self, state: PyTree, *, hide_test: bool) -> Ranks:
        """See `StateHolder`."""
        self.prepare()
        target_tu = self.target_tu.copy()
        if hide_test:
            target_tu[1] = -1
        return jax.device_get(self._rank(state, self.clients, replicate(target_tu, self._algorithm.mesh)))

    def advance(self, state: PyTree, num_rounds: int) -> tuple[PyTree, RoundInfo]:
        """See `StateHolder`; `prepare` was called with a divisor of `num_rounds`."""
        length, run = self._run
        infos = []
        for _ in range(num_rounds // length):
            state, info = run(state, self.clients)
            infos.append(info)
        infos = jax.device_get(infos)
        jax.block_until_ready(state)
        return state, RoundInfo(*(np.concatenate(field) for field in zip(*infos, strict=True)))

    def parts(self, state: PyTree) -> Iterator[tuple[FedState, Bucket]]:
        """See `StateHolder`."""
        return ((state, jax.tree.map(np.asarray, bucket)) for bucket in self._buckets)

    def commit(self) -> Mapping[str, Any]:
        """See `StateHolder`: all there is is in the state."""
        return {}

    def retain(self, records: Sequence[Mapping[str, Any]]) -> None:
        """See `StateHolder`: nothing lies outside of checkpoints."""


def abstract(state: FedState, mesh: Mesh | None) -> FedState:
    """Shapes, types and places only: no weak types, which a restored state does not have."""
    if mesh is None:
        shardings = jax.tree.map(lambda _: SingleDeviceSharding(jax.devices()[0]), state)
    else:
        shardings = state_shardings(state, mesh)
    return jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), state, shardings)
