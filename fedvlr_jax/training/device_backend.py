"""Private states on the device, as a whole or split over several: the two compiled programs of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from fedvlr_jax.compiling import Compiler
from fedvlr_jax.data.buckets import heldout_targets, merge_buckets
from fedvlr_jax.evaluation.metrics import warm_items
from fedvlr_jax.evaluation.ranking import rank_all, without_test
from fedvlr_jax.federated.mesh import place_clients, rank_over_devices, replicate
from fedvlr_jax.io.checkpoint import Checkpoints
from fedvlr_jax.training.backend import abstract
from fedvlr_jax.training.experiment import Experiment
from fedvlr_jax.types import Bucket, ClientData, FedState, PyTree, Ranks, RoundInfo, Targets

Run = Callable[[PyTree, ClientData], tuple[PyTree, RoundInfo]]


_ONE_PART = 1 << 16
"""Slots of histories up to which all clients are looked at together after training."""


class DeviceBackend(Compiler):
    """The `Backend` of states that lie on the device as a whole, or are split over several.

    Each program is compiled at most once. All arguments are abstract (shapes and types), so a fresh and a restored
    state get the same program.
    """

    def __init__(self, experiment: Experiment, *, eval_chunk: int):
        super().__init__()
        _, dataset, clients, algorithm = experiment
        mesh = algorithm.mesh
        self.clients = place_clients(clients, dataset.num_users, dataset.num_items, mesh)
        # Of the whole state, wherever that lies. Each is scored at once and in a program of its own.
        self._parts = merge_buckets(clients.buckets, dataset.num_items, most=_ONE_PART)
        self.targets = heldout_targets(dataset.ranked)
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
        return self.compile(init, words, runs_once=True)(words)

    def run(self, num_rounds: int) -> Run:
        """``(state, clients) -> (state, RoundInfo [num_rounds])``; the state is donated."""
        run = jax.jit(
            self._algorithm.run,
            static_argnames="num_rounds",
            donate_argnames="state",
            out_shardings=(self._places, None),
        )
        return self.compile(run, self.abstract_state, self.clients, num_rounds=num_rounds)

    def restore(self, checkpoints: Checkpoints, round_: int, *, read_only: bool) -> PyTree:
        """See `Backend`."""
        del read_only  # nothing lies outside of the state
        return checkpoints.restore(round_, self.abstract_state)

    def prepare(self, length: int | None = None) -> None:
        """See `Backend`."""
        if length is not None and (self._run is None or self._run[0] != length):
            self._run = (length, self.run(length))
        if self._rank is None:

            def rank(state: PyTree, clients: ClientData, targets: Targets) -> Ranks:
                if clients.newcomers is not None:
                    return rank_newcomers(state, clients.newcomers, targets)
                params = self._algorithm.snapshot(state, clients.content, clients.prior)
                return rank_over_devices(ranked, self._algorithm.mesh)(params, clients.buckets, targets)

            def rank_newcomers(state: PyTree, clients: ClientData, targets: Targets) -> Ranks:
                params = self._algorithm.snapshot(state.replace(private=None), clients.content, clients.prior)
                score = self._algorithm.new_score
                return rank_all(score, params, clients.buckets, targets, chunk=self._eval_chunk)

            def ranked(params: PyTree, buckets: tuple[Bucket, ...], targets: Targets) -> Ranks:
                return rank_all(self._algorithm.rank_score, params, buckets, targets, chunk=self._eval_chunk)

            targets = replicate(self.targets, self._algorithm.mesh)
            self._rank = self.compile(jax.jit(rank), self.abstract_state, self.clients, targets)

    def rank(self, state: PyTree, *, hide_test: bool) -> Ranks:
        """See `Backend`."""
        self.prepare()
        targets = without_test(self.targets) if hide_test else self.targets
        return jax.device_get(self._rank(state, self.clients, replicate(targets, self._algorithm.mesh)))

    def advance(self, state: PyTree, num_rounds: int) -> tuple[PyTree, RoundInfo]:
        """See `Backend`; `prepare` was called with a divisor of `num_rounds`."""
        length, run = self._run
        infos = []
        for _ in range(num_rounds // length):
            state, info = run(state, self.clients)
            infos.append(info)
        infos = jax.device_get(infos)
        jax.block_until_ready(state)
        return state, RoundInfo(*(np.concatenate(field) for field in zip(*infos, strict=True)))

    def parts(self, state: PyTree) -> Iterator[tuple[FedState, Bucket]]:
        """See `Backend`."""
        return ((state, jax.tree.map(np.asarray, bucket)) for bucket in self._parts)

    def commit(self) -> Mapping[str, Any]:
        """See `Backend`: all there is is in the state."""
        return {}

    def retain(self, records: Sequence[Mapping[str, Any]]) -> None:
        """See `Backend`: nothing lies outside of checkpoints."""
