"""A tiny federated matrix factorisation with the contract of `algorithm.Algorithm`; it compiles in a moment."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
from problems import tiny_dataset

from configs.base import get_config
from fedvlr_jax.data.buckets import make_client_data
from fedvlr_jax.training.experiment import Experiment
from fedvlr_jax.types import Bucket, Content, Dataset, FedState, PrivateState, PublicState, RoundInfo

DIM = 4
DATASET = tiny_dataset()


def toy_experiment(dataset: Dataset = DATASET, *, dead_round: int = 0, **overrides) -> Experiment:
    """An experiment with the toy algorithm; ``section__field=value`` overrides of the base configuration.

    All clients of round `dead_round` are reported as dropped.
    """
    settings = get_config().to_dict()
    for path, value in overrides.items():
        *sections, field = path.split("__")
        node = settings
        for section in sections:
            node = node[section]
        node[field] = value
    clients = make_client_data(dataset, min_length=16)
    return Experiment(settings, dataset, clients, toy_algorithm(dataset, settings["server"]["lr"], dead_round))


def toy_algorithm(dataset: Dataset, lr: float, dead_round: int) -> SimpleNamespace:
    """Pure functions init, run, snapshot and score, and the sizes the tables show."""
    num_users, num_items = dataset.num_users, dataset.num_items

    def init(key):
        D = jax.random.normal(jax.random.fold_in(key, 0), (num_items, DIM))
        theta = jax.random.normal(jax.random.fold_in(key, 1), (num_users, DIM))
        public = PublicState(params={"D": D}, opt_state={"m": jnp.zeros_like(D)}, round=jnp.zeros((), jnp.int32))
        return FedState(public=public, private=PrivateState(params={"theta": theta}, opt_state=None), key=key)

    def loss(params, data):
        D, theta = params
        total = 0.0
        for bucket in data.buckets:
            score_ci = theta.at[bucket.user].get(mode="fill", fill_value=0.0) @ D.T
            row_c1 = jnp.arange(bucket.user.size)[:, None]
            liked_ci = jnp.zeros_like(score_ci).at[row_c1, bucket.history].set(1.0, mode="drop")
            total += jnp.sum((score_ci - liked_ci) ** 2)
        return total / num_users

    def one_round(state, data):
        params = (state.public.params["D"], state.private.params["theta"])
        value, (g_D, g_theta) = jax.value_and_grad(loss)(params, data)
        noise = jax.random.normal(jax.random.fold_in(state.key, state.public.round), g_D.shape)
        m = 0.9 * state.public.opt_state["m"] + g_D + 0.1 * noise
        round_ = state.public.round + 1
        public = PublicState(params={"D": params[0] - lr * m}, opt_state={"m": m}, round=round_)
        private = state.private.replace(params={"theta": params[1] - lr * g_theta})
        dropped = jnp.where(round_ == dead_round, num_users, 0)
        info = RoundInfo(value, jnp.int32(num_users), dropped, jnp.linalg.norm(g_D))
        return state.replace(public=public, private=private), info

    def run(state, data, num_rounds):
        return jax.lax.scan(lambda state, _: one_round(state, data), state, length=num_rounds)

    def snapshot(state: FedState, content: Content, prior: None = None):
        return state.public.params["D"], state.private.params["theta"]

    def score(params, chunk: Bucket):
        D, theta = params
        return theta.at[chunk.user].get(mode="fill", fill_value=0.0) @ D.T

    cost = SimpleNamespace(
        public={"D": jax.ShapeDtypeStruct((num_items, DIM), jnp.float32)},
        private={"theta": jax.ShapeDtypeStruct((DIM,), jnp.float32)},
        num_public=num_items * DIM,
        num_private_per_client=DIM,
        bytes_down_per_client=4 * num_items * DIM,
        bytes_up_per_client=4 * num_items * DIM,
        bytes_state=8 * num_items * DIM + 4 * num_users * DIM,
    )
    functions = {"init": init, "run": run, "snapshot": snapshot, "score": score, "rank_score": score}
    return SimpleNamespace(**functions, router_weights=None, views=(), cost=cost, mesh=None)
