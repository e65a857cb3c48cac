"""Users who were not trained: how one gets a private state, and is scored with it.

A newcomer brings a history. Its private state is that of a client before its first round; it then learns by the
host's own local update on that history, round after round, against public parameters that stay as they are: what
`client.make_client_round` returns beside the state, the upload, is thrown away, so that nothing of a newcomer
reaches the server. A router starts where it starts in training, from its public part where it has one. What a host
forms before the rounds, a prior or score views, is read with the newcomer's history through maps of the trained.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fedvlr_jax.agreed import ScoreViews
from fedvlr_jax.federated import sampling
from fedvlr_jax.federated.scoring import Snapshot
from fedvlr_jax.types import Array, BlockScore, Bucket, PrivateState, PyTree, Score

Learn = Callable[[Snapshot, Bucket], PrivateState]
"""``(snapshot, chunk) -> private [c, ...]`` of the newcomers in a chunk; ``snapshot.private`` is not read."""


def make_learn(
    client_round: Callable[..., Any],
    init_clients: Callable[[Array, Array], PrivateState],
    *,
    first_id: int,
    rounds: int,
) -> Learn:
    """How newcomers get their private states.

    Args:
      client_round: of `client.make_client_round`, without transforms of uploads.
      init_clients: as of `algorithm.Algorithm`.
      first_id: newcomer k draws as a client of number ``first_id + k`` would: |U|, so that no two share draws.
      rounds: local rounds.
    """

    def learn(snapshot: Snapshot, chunk: Bucket) -> PrivateState:
        ids_c = first_id + chunk.user
        evidence_c = None
        if isinstance(snapshot.prior, ScoreViews):
            evidence_c = jax.tree.map(lambda x: x.at[chunk.user].get(mode="clip"), snapshot.prior.evidence)

        def one_round(state_c: PrivateState, number: Array) -> tuple[PrivateState, None]:
            key_c = sampling.entity_keys(sampling.stream(snapshot.key, sampling.NEW_CLIENT, number), ids_c)

            def one(state: PrivateState, history_l: Array, key: Array, evidence: PyTree) -> PrivateState:
                return client_round(snapshot.broadcast, state, history_l, key, key, snapshot.round, evidence)[0]

            return jax.vmap(one)(state_c, chunk.history, key_c, evidence_c), None

        return jax.lax.scan(one_round, init_clients(snapshot.key, ids_c), jnp.arange(rounds))[0]

    return learn


def score_newcomers(learn: Learn, score: Score) -> Score:
    """`score` for newcomers: every slot of a chunk learns a private state first, and is scored with it.

    Args:
      learn: of `make_learn`.
      score: of clients with private states, ``(snapshot, chunk) -> s_ci`` or in blocks.
    """

    def own(params: Snapshot, chunk: Bucket) -> tuple[Snapshot, Bucket]:
        row_c = jnp.arange(chunk.user.shape[0])
        return params._replace(private=learn(params, chunk)), chunk._replace(row=row_c)

    if isinstance(score, BlockScore):
        prepare = score.prepare
        return score._replace(prepare=lambda params, chunk: prepare(*own(params, chunk)))
    of_clients = score
    return lambda params, chunk: of_clients(*own(params, chunk))
