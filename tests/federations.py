"""A federation inside one process for tests: silos behind a transport that packs messages and can spoil them."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from problems import client_data, settings, tiny_dataset

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.deploy.coordinator import Coordinator, Timing
from fedvlr_jax.deploy.messages import pack, unpack
from fedvlr_jax.deploy.people import people_of
from fedvlr_jax.deploy.silo import Silo
from fedvlr_jax.deploy.silo_programs import sizes_of
from fedvlr_jax.deploy.silos import Failure
from fedvlr_jax.deploy.states import States
from fedvlr_jax.errors import MessageError
from fedvlr_jax.federated import sampling
from fedvlr_jax.types import Bucket, FedState, content_of

DATASET = tiny_dataset(num_users=6, num_items=24)
COHORT = 4
SILOS = {11: range(0, 2), 22: range(2, 4), 33: range(4, 6)}  # users by node


def federation_settings(**changes):
    return settings(fusion__operators="id,visual", server__clients_per_round=COHORT, **changes)


def make_silo(tree, folder, users, name, seed=0, dataset=DATASET):
    folder.mkdir(exist_ok=True)
    return Silo(tree, people_of(dataset, users), States(folder), key=jax.random.key(seed), name=name)


class LocalTransport:
    """Calls silos; `spoil` may turn what a node answers into other things, or into none."""

    def __init__(self, silos, spoil: Callable | None = None):
        self.silos, self.spoil = silos, spoil or (lambda node, question, content: [content])

    def nodes(self):
        return list(self.silos)

    def exchange(self, questions, seconds):
        for node in reversed(questions):  # the last one is the fastest
            content = pack(self.silos[node].answer(unpack(pack(questions[node]))))
            for spoiled in self.spoil(node, questions[node], content):
                if isinstance(spoiled, Failure):
                    yield node, spoiled
                    continue
                try:
                    yield node, unpack(spoiled)
                except MessageError as error:
                    yield node, Failure("misfit", str(error))


class Federation:
    """A coordinator and its silos, with what was said."""

    def __init__(self, tree, folder, spoil=None, users=SILOS, dataset=DATASET):
        self.tree, self.lines, self.users = tree, [], users
        self.algorithm = make_algorithm(tree, DATASET)
        self.silos = {
            node: make_silo(tree, folder / str(node), users, f"silo{node}", dataset=dataset)
            for node, users in self.users.items()
        }
        self.transport = LocalTransport(self.silos, spoil)
        self.coordinator = self.coordinate()

    def coordinate(self, **timing):
        return Coordinator(
            self.tree,
            self.algorithm,
            content_of(DATASET),
            sizes_of(DATASET),
            self.transport,
            timing=Timing(start_users=6, **timing),
            say=self.lines.append,
        )

    def private(self, state):
        """The private state of every user after its last round that counted, stacked."""
        owner = {user: self.silos[node] for node, users in self.users.items() for user in users}
        counted = np.asarray(state.counted_u).tolist()
        states = [owner[u]._state(owner[u]._programs, u, counted[u]) for u in range(DATASET.num_users)]
        return {name: np.stack([x[name] for x in states]) for name in states[0]}


def simulated(algorithm, counted_rounds):
    """The state after rounds of given clients, by the simulator."""
    data = client_data(DATASET)
    state = jax.jit(algorithm.init)(jax.random.key(0))
    run = jax.jit(algorithm.run_cohort)
    bucket = data.buckets[0]
    for users in counted_rounds:
        at = np.array(sorted(users))
        chosen = Bucket(bucket.user[at], bucket.history[at], jnp.arange(len(at), dtype=jnp.int32))
        private = jax.tree.map(lambda x, at=at: x[at], state.private)
        moved, _ = run(
            FedState(public=state.public, private=private, key=state.key), data._replace(buckets=(chosen,))
        )
        whole = jax.tree.map(lambda x, new, at=at: x.at[at].set(new), state.private, moved.private)
        state = FedState(public=moved.public, private=whole, key=state.key)
    return state


def cohorts(algorithm, rounds):
    key = jax.random.key(0)
    words = (algorithm.cohort_words(key, jnp.int32(k)) for k in range(rounds))
    return [set(sampling.cohort_ids(np.asarray(w), COHORT).tolist()) for w in words]
