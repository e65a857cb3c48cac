"""A trained model ranked again with other router weights; everything else of every client stays as it is."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.assembly import local_settings
from fedvlr_jax.data.buckets import heldout_targets, make_buckets
from fedvlr_jax.evaluation.ranking import rank_all
from fedvlr_jax.federated.scoring import score_chunk
from fedvlr_jax.models.model import Model
from fedvlr_jax.models.router import Phi
from fedvlr_jax.training.experiment import Experiment
from fedvlr_jax.types import Array, Bucket, ClientData, Dataset, FedState, PyTree, Ranks, given

Rerank = Callable[[np.ndarray], Ranks]
"""Weights w_uj [u, j] -> the ranks of all held-out items with them."""


def with_given_weights(model: Model) -> Model:
    """The model whose clients keep their weights ``{"w_j": [j]}`` where they had the parameters of a router."""

    def weights(phi: PyTree, pooled: PyTree) -> Array:
        return (phi.own if isinstance(phi, Phi) else phi)["w_j"]

    router = given(model.variant.router)._replace(weights=weights, closed_form=None)
    return model._replace(variant=model.variant._replace(router=router))


def with_phi(state: FedState, phi: PyTree) -> FedState:
    """The state with other router parameters of all clients, leaves [u, ...]."""
    params = state.private.params
    variant = params["variant"] | {"phi": phi}
    return state.replace(private=state.private.replace(params=params | {"variant": variant}))


def make_rerank(experiment: Experiment, state: FedState) -> Rerank:
    """How the state of a run would rank with other weights of the views.

    Args:
      experiment: what was trained on what, with a router and all private states on one device.
      state: of the run.
    """
    settings, dataset, clients, algorithm = experiment
    model, targets = with_given_weights(algorithm.model), jax.tree.map(jnp.asarray, heldout_targets(dataset))
    tuning = local_settings(settings, dataset.num_items, max(model.host.tune_steps, 1))

    def score(params: PyTree, chunk: Bucket) -> Array:
        return score_chunk(model, tuning, dataset.num_items, params, chunk)

    @jax.jit
    def rank(state: FedState, clients: ClientData, w_uj: Array) -> Ranks:
        params = algorithm.snapshot(with_phi(state, {"w_j": w_uj}), clients.content, clients.prior)
        return rank_all(score, params, clients.buckets, targets, chunk=settings["eval"]["chunk"])

    return lambda w_uj: jax.device_get(rank(state, clients, jnp.asarray(w_uj, jnp.float32)))


def make_weigh(experiment: Experiment) -> Callable[[FedState, Dataset], np.ndarray]:
    """``(state, dataset) -> w_uj``, float32 [u, j]: the router's weights for the train histories of a data set."""
    algorithm, content = experiment.algorithm, experiment.clients.content
    weigh = jax.jit(lambda state, bucket: algorithm.router_weights(algorithm.snapshot(state, content), bucket))

    def of(state: FedState, dataset: Dataset) -> np.ndarray:
        w_uj = np.zeros((dataset.num_users, len(algorithm.views)), np.float32)
        for bucket in make_buckets(dataset):
            w_uj[np.asarray(bucket.user)] = np.asarray(weigh(state, bucket))
        return w_uj

    return of
