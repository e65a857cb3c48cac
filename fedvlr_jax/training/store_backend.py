"""More clients than memory: private states lie in a store, and a round reads and writes those of its cohort.

    main thread       round r on the device                       round r + 1 on the device
    background        write states of r - 1, read those of r + 1  write states of r, read those of r + 2

A client that is in the cohorts of both r and r + 1 is not read: it takes its state from the result of round r, on the
device. Public state, optimizer state and key stay on the device. What a round computes does not depend on where
private states lie but for the order of the sum over clients.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from fedvlr_jax.client_store.record import Layout
from fedvlr_jax.client_store.snapshot import View
from fedvlr_jax.client_store.store import Store
from fedvlr_jax.compiling import Compiler
from fedvlr_jax.data.buckets import heldout_targets, make_histories
from fedvlr_jax.evaluation.metrics import warm_items
from fedvlr_jax.evaluation.ranking import rank_block, unranked, without_test
from fedvlr_jax.evaluation.targets import item_of, rows_of
from fedvlr_jax.federated import sampling
from fedvlr_jax.io.checkpoint import Checkpoints
from fedvlr_jax.training.backend import abstract
from fedvlr_jax.training.cohorts import Cohort, block_size, blocks, make_cohort, spread_rows
from fedvlr_jax.training.experiment import Experiment
from fedvlr_jax.types import Array, Bucket, ClientData, FedState, PrivateState, PublicState, PyTree, Ranks, RoundInfo

T = TypeVar("T")

DIRTY_BYTES = 64 << 20
"""compute.store disk: states that wait in memory for the next segment file."""

BLOCK_BYTES, BLOCK_CLIENTS = 64 << 20, 4096
"""States and clients that an evaluation reads at once: at most about so many."""

INIT_CLIENTS = 1024
"""Clients that are initialised at once, at most."""

_NOBODY = np.empty(0, np.int64)


class Fetched(NamedTuple):
    """What a round reads: its cohort, and the states [s, ...] of its clients that were not in the one before."""

    cohort: Cohort
    private: PrivateState


class Finished(NamedTuple):
    """What a round leaves: int64 [s], its clients, and their states [s, ...]."""

    ids: np.ndarray
    private: PrivateState


class StoreBackend(Compiler):
    """The `backend.Backend` of a population in a store; ``private`` of its states is None."""

    def __init__(self, experiment: Experiment, folder: pathlib.Path, *, eval_chunk: int):
        super().__init__()
        settings, dataset, clients, algorithm = experiment
        self.warm_i = warm_items(dataset.train_item, dataset.num_items)
        self._algorithm, self._folder, self._eval_chunk = algorithm, folder, eval_chunk
        self._dirty_bytes = DIRTY_BYTES if settings["compute"]["store"] == "disk" else sys.maxsize
        self._clients = jax.device_put(clients._replace(buckets=()))
        self._histories = make_histories(dataset, worth=settings["compute"]["bucket_worth"])
        self._targets = heldout_targets(dataset)
        self._num_users, self._size = dataset.num_users, algorithm.clients_per_round
        key = jax.eval_shape(jax.random.key, 0)
        public = jax.eval_shape(algorithm.init_public, key)
        self.abstract_state = abstract(FedState(public=public, private=None, key=key), None)
        rows = jax.eval_shape(algorithm.init_clients, key, jax.ShapeDtypeStruct((1,), jnp.int32))
        self._client = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), rows)
        self._layout = Layout.of(self._client)
        most = BLOCK_BYTES // max(self._layout.record_bytes, 1)
        self._block = max(1, min(most, BLOCK_CLIENTS, self._num_users))
        self._init_block = min(self._block, INIT_CLIENTS)
        self._store: Store | View | None = None
        self._round, self._publish, self._rank = None, None, {}
        self._draw, self._init_clients = self._compile_cpu()

    def init(self, seed: int) -> FedState:
        """See `Backend`."""
        key = jax.random.key(seed)
        public = self.compile(jax.jit(self._algorithm.init_public), key, runs_once=True)(key)
        self._store = Store(
            self._folder, self._layout, self._num_users, self._init(key), max_dirty_bytes=self._dirty_bytes
        )
        return FedState(public=public, private=None, key=key)

    def restore(self, checkpoints: Checkpoints, round_: int, *, read_only: bool) -> FedState:
        """See `Backend`."""
        state = checkpoints.restore(round_, self.abstract_state)
        manifest = checkpoints.record_of(round_)["store"]
        where = (self._folder, self._layout, self._num_users, self._init(state.key), manifest)
        self._store = View.restore(*where) if read_only else Store.restore(*where, max_dirty_bytes=self._dirty_bytes)
        return state

    def prepare(self, length: int | None = None) -> None:
        """See `Backend`."""
        if length is not None and self._round is None:
            self._round = self._compile_round()
        if self._publish is None:
            snapshot = jax.jit(lambda state, clients: self._algorithm.snapshot(state, clients.content, clients.prior))
            self._publish = self.compile(snapshot, self.abstract_state, self._clients)
            snapshot = jax.eval_shape(snapshot, self.abstract_state, self._clients)
            for count, width in zip(self._histories.count_k.tolist(), self._histories.width_k.tolist(), strict=True):
                num_chunks, size = block_size(count, chunk=self._eval_chunk, least=self._block)
                self._rank[width] = self._compile_rank(snapshot, num_chunks, _abstract_bucket(size, width))

    def advance(self, state: FedState, num_rounds: int) -> tuple[FedState, RoundInfo]:
        """See `Backend`."""
        self.prepare(1)
        first = int(state.public.round)
        last, infos = first + num_rounds, []
        finished, before = None, _NOBODY
        with ThreadPoolExecutor(1) as background:
            coming = background.submit(self._turn, state.key, None, first, before)
            for number in range(first, last):
                fetched = coming.result()
                after = number + 1 if number + 1 < last else None
                coming = background.submit(self._turn, state.key, finished, after, fetched.cohort.ids)
                state, finished, info = self.step(state, fetched, finished)
                infos.append(info)
            coming.result()
            self.write_back(finished)
        return state, RoundInfo(*(np.stack(field) for field in zip(*jax.device_get(infos), strict=True)))

    def draw(self, key: Array, number: int) -> np.ndarray:
        """int [s], ascending: the cohort of a round."""
        if self._size == self._num_users:
            return np.arange(self._num_users)
        words = np.asarray(self._draw(jax.device_put(key, _cpu()), np.int32(number)))
        return sampling.cohort_ids(words, self._size)

    def fetch(self, ids: np.ndarray, before: np.ndarray) -> Fetched:
        """The cohort `ids` after the cohort `before`, with the states of the clients that were not in that."""
        cohort = make_cohort(self._histories, ids, before)
        states = self._store.gather(cohort.ids[cohort.fresh])
        private = spread_rows(states, cohort.fresh, ids.size)
        buckets, private = jax.device_put((cohort.buckets, private))
        return Fetched(cohort._replace(buckets=buckets), private)

    def step(
        self, state: FedState, fetched: Fetched, finished: Finished | None
    ) -> tuple[FedState, Finished, RoundInfo]:
        """One round after the round `finished`; starts it on the device and does not wait."""
        cohort, private = fetched
        previous = private if finished is None else finished.private
        data = self._clients._replace(buckets=cohort.buckets)
        public, private, info = self._round(state.public, state.key, data, private, previous, cohort.held)
        return state.replace(public=public), Finished(cohort.ids, private), info

    def write_back(self, finished: Finished) -> None:
        """Put the states that a round left into the store; waits for the round."""
        self._store.scatter(finished.ids, jax.device_get(finished.private))

    def rank(self, state: FedState, *, hide_test: bool) -> Ranks:
        """See `Backend`."""
        self.prepare()
        targets = without_test(self._targets) if hide_test else self._targets
        item_th, ranks = item_of(targets), unranked(targets)
        snapshot = self._publish(state, self._clients)
        for part, block in _ahead(self.parts(state)):
            rows, real_b = np.asarray(rows_of(targets, block.user)), block.user < self._num_users
            there = rows < item_th.shape[1]
            target_tb = np.where(there, item_th[:, np.where(there, rows, 0)], -1)
            found = self._rank[block.history.shape[1]](snapshot, part.private, block, target_tb)
            greater, tied, constant_b, nonfinite_b = jax.device_get(found)
            for all_, values in zip(ranks, (target_tb, greater, tied), strict=False):
                all_[:, rows[there]] = values[:, there]
            for all_, values_b in ((ranks.constant, constant_b), (ranks.nonfinite, nonfinite_b)):
                all_[block.user[real_b]] = values_b[real_b]
        return ranks

    def parts(self, state: FedState) -> Iterator[tuple[FedState, Bucket]]:
        """See `Backend`."""
        for _, ids, block in blocks(self._histories, chunk=self._eval_chunk, least=self._block):
            private = spread_rows(self._store.gather(ids), np.arange(ids.size), block.user.size)
            yield state.replace(private=private), block

    def commit(self) -> Mapping[str, Any]:
        """See `Backend`."""
        return {"store": self._store.commit()}

    def retain(self, records: Sequence[Mapping[str, Any]]) -> None:
        """See `Backend`."""
        self._store.retain(record["store"] for record in records)

    def _turn(self, key: Array, finished: Finished | None, number: int | None, before: np.ndarray) -> Fetched | None:
        """In the background: write what the last round left, then read for round `number` if there is one."""
        if finished is not None:
            self.write_back(finished)
        return None if number is None else self.fetch(self.draw(key, number), before)

    def _init(self, key: Array) -> Callable[[np.ndarray], PrivateState]:
        """``ids [s] -> PrivateState [s, ...]`` of clients that were never written."""
        key = jax.device_put(key, _cpu())

        def init(ids: np.ndarray) -> PrivateState:
            padded = np.pad(ids, (0, -ids.size % self._init_block)).astype(np.int32).reshape(-1, self._init_block)
            parts = [jax.device_get(self._init_clients(key, part)) for part in padded]
            return jax.tree.map(lambda *x: np.concatenate(x)[: ids.size], *parts)

        return init

    def _compile_cpu(self) -> tuple[Callable, Callable]:
        """The algorithm's `cohort_words` (None if that is everybody) and `init_clients` of a block of clients."""
        at = SingleDeviceSharding(_cpu())
        key = jax.ShapeDtypeStruct((), self.abstract_state.key.dtype, sharding=at)
        number, ids = (jax.ShapeDtypeStruct(shape, jnp.int32, sharding=at) for shape in ((), (self._init_block,)))
        draw = None
        if self._size < self._num_users:
            draw = self.compile(jax.jit(self._algorithm.cohort_words), key, number)
        return draw, self.compile(jax.jit(self._algorithm.init_clients), key, ids)

    def _compile_round(self) -> Callable:
        """``(public, key, data, fresh, previous, held_s) -> (public, private, info)``; `public` is donated."""

        def round_(
            public: PublicState,
            key: Array,
            data: ClientData,
            fresh: PrivateState,
            previous: PrivateState,
            held_s: Array,
        ) -> tuple[PublicState, PrivateState, RoundInfo]:
            def join(new: Array, old: Array) -> Array:
                column = held_s.reshape(-1, *(1,) * (new.ndim - 1))
                return jnp.where(column >= 0, old.at[held_s].get(mode="clip"), new)

            private = jax.tree.map(join, fresh, previous)
            state, info = self._algorithm.run_cohort(FedState(public=public, private=private, key=key), data)
            return state.public, state.private, info

        sizes = zip(self._histories.count_k.tolist(), self._histories.width_k.tolist(), strict=True)
        buckets = tuple(_abstract_bucket(min(count, self._size), width) for count, width in sizes)
        data, rows = self._clients._replace(buckets=buckets), self._abstract_rows(self._size)
        held_s = jax.ShapeDtypeStruct((self._size,), jnp.int32)
        state = self.abstract_state
        places = (jax.tree.map(lambda x: x.sharding, state.public), None, None)
        jitted = jax.jit(round_, donate_argnames="public", out_shardings=places)
        return self.compile(jitted, state.public, state.key, data, rows, rows, held_s)

    def _compile_rank(self, snapshot: PyTree, num_chunks: int, block: Bucket) -> Callable:
        """``(snapshot, private, block, target_tb) -> `` as `rank_block`."""

        def rank(snapshot: PyTree, private: PrivateState, block: Bucket, target_tb: Array) -> tuple[Array, ...]:
            params = snapshot._replace(private=private)
            return rank_block(self._algorithm.rank_score, params, block, target_tb, num_chunks=num_chunks)

        size = block.user.shape[0]
        rows = jax.eval_shape(rows_of, self._targets, block.user)
        target_tb = jax.ShapeDtypeStruct((2, *rows.shape), jnp.int32)
        return self.compile(jax.jit(rank), snapshot, self._abstract_rows(size), block, target_tb)

    def _abstract_rows(self, size: int) -> PrivateState:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape), x.dtype), self._client)


def _abstract_bucket(size: int, width: int) -> Bucket:
    slots = jax.ShapeDtypeStruct((size,), jnp.int32)
    return Bucket(slots, jax.ShapeDtypeStruct((size, width), jnp.int32), slots)


def _cpu() -> jax.Device:
    """A device that draws and initialises clients beside the rounds: the CPU where there is one."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX was told to leave it out
        return jax.local_devices()[0]


def _ahead(items: Iterable[T]) -> Iterator[T]:
    """`items`, each made in the background while the one before is in use."""
    items, end = iter(items), object()
    with ThreadPoolExecutor(1) as background:
        coming = background.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = background.submit(next, items, end)
            yield item
