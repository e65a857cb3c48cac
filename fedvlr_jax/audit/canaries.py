"""A lower bound on epsilon that is measured: can somebody who sees the model tell whether a client took part?

The client is a canary, made to be seen: its upload is far above the bound and lies along a direction that the
observer knows, and all others send nothing. In every trial one round of the library runs with the canary and one
without it. The score is the mean of the round along the direction, in units of the noise that should be on it,

    score = n <mean, direction> / (sigma C),    N(0, 1) without the canary,    N(1 / sigma, 1) with it,

and a threshold on it has error rates that any (epsilon, delta) limits from below (Jagielski et al., NeurIPS 2020). A
bound that is met proves little, since noise of half the size can still meet it, so the variance of the scores is
tested too.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from fedvlr_jax.algorithm import Algorithm, make_algorithm
from fedvlr_jax.data.buckets import make_client_data
from fedvlr_jax.federated import sampling
from fedvlr_jax.federated.step_loss import put_rows
from fedvlr_jax.models.model import Upload
from fedvlr_jax.privacy.accounting import Guarantee
from fedvlr_jax.settings import default_settings, override
from fedvlr_jax.types import Array, ClientData, Dataset, FedState, given

NUM_USERS, NUM_ITEMS, CANARY, LOUD = 8, 20, 3, 100.0
CHANGES = {
    "host.name": "fcf",
    "variant": "base",
    "objective": "bce",
    "fusion.dim": 4,
    "client.lr": 0.0,
    "server.lr": 1.0,
    "server.optimizer": "sgd",
    "aggregation.transforms": "clip,noise",
}
"""A round that moves D by the mean, and clients that stay as they are."""


class CanaryFinding(NamedTuple):
    """What the trials say.

    Attributes:
      claimed: epsilon of one round by the accountant.
      lower: epsilon is at least this, with the confidence asked for.
      variance: of the scores with the canary and without it; both should be 1.
      variance_low, variance_high: what such a variance lies between, with that confidence.
      trials: with the canary, and as many without it.
    """

    claimed: float
    lower: float
    variance: tuple[float, float]
    variance_low: float
    variance_high: float
    trials: int

    @property
    def holds(self) -> bool:
        """Whether nothing speaks against the claim."""
        return self.lower <= self.claimed and all(self.variance_low <= x <= self.variance_high for x in self.variance)


def canary_finding(noise_multiplier: float, delta: float, trials: int, confidence: float, seed: int) -> CanaryFinding:
    """The trials of one noise multiplier.

    Args:
      noise_multiplier: sigma.
      delta: at which epsilon is claimed.
      trials: rounds with the canary, and without it.
      confidence: of the lower bound and of the test of each variance.
      seed: of the keys.
    """
    with_canary, without = canary_scores(noise_multiplier, trials, seed)
    low, high = variance_bounds(trials, confidence)
    return CanaryFinding(
        claimed=Guarantee(noise_multiplier, 1.0, delta).epsilon(1),
        lower=lower_bound(with_canary, without, delta, confidence),
        variance=(float(np.var(with_canary, ddof=1)), float(np.var(without, ddof=1))),
        variance_low=low,
        variance_high=high,
        trials=trials,
    )


def canary_scores(noise_multiplier: float, trials: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores [trials] of rounds with the canary, and of rounds without it."""
    dataset = _dataset()
    settings = override(default_settings(), CHANGES | {"aggregation.noise_multiplier": noise_multiplier})
    algorithm, data = make_algorithm(settings, dataset), make_client_data(dataset)
    absent = data._replace(
        buckets=tuple(
            bucket._replace(user=jnp.where(bucket.user == CANARY, NUM_USERS, bucket.user)) for bucket in data.buckets
        )
    )
    history_l = jnp.asarray(dataset.train_item[dataset.train_user == CANARY])
    scale = NUM_USERS / (noise_multiplier * settings["aggregation"]["clip_norm"])

    @jax.jit
    def score(key: Array) -> tuple[Array, Array]:
        state = _state(algorithm, key)
        direction_id = _direction(algorithm, data, state, history_l)

        def along(data: ClientData) -> Array:
            moved, _ = algorithm.run(state, data, 1)
            mean_id = state.public.params["variant"]["D"] - moved.public.params["variant"]["D"]
            return scale * jnp.sum(mean_id * direction_id)

        return along(data), along(absent)

    keys = jax.random.split(jax.random.key(seed), trials)
    with_canary, without = jax.lax.map(score, keys, batch_size=100)
    return np.asarray(with_canary, np.float64), np.asarray(without, np.float64)


def _dataset() -> Dataset:
    """Eight users with four train items each."""
    item = np.concatenate([np.sort((5 * u + np.array([0, 3, 7, 11])) % NUM_ITEMS) for u in range(NUM_USERS)])
    held = np.full(NUM_USERS, -1, np.int32)
    return Dataset(
        name="canary",
        num_users=NUM_USERS,
        num_items=NUM_ITEMS,
        train_user=np.repeat(np.arange(NUM_USERS, dtype=np.int32), 4),
        train_item=item.astype(np.int32),
        valid_item=held,
        test_item=held,
        V=None,
        C=None,
    )


def _state(algorithm: Algorithm, key: Array) -> FedState:
    """A first state in which the canary is loud, and the others send rows of zeros."""
    state = algorithm.init(key)
    loud_u = jnp.where(jnp.arange(NUM_USERS) == CANARY, LOUD, 0.0)
    params = jax.tree.map(lambda x: loud_u.reshape(-1, *(1,) * (x.ndim - 1)) * x, state.private.params)
    return state.replace(private=state.private.replace(params=params))


def _direction(algorithm: Algorithm, data: ClientData, state: FedState, history_l: Array) -> Array:
    """The unit vector [i, d] of the canary's upload in the round to come."""
    broadcast, _ = algorithm.server.open_round(state.public, data.content)
    key = jax.random.fold_in(sampling.stream(state.key, sampling.CLIENT, 0), CANARY)
    own = jax.tree.map(lambda x: x[CANARY], state.private)
    sent: Upload = algorithm.client_round(broadcast, own, history_l, key, key, state.public.round)[1]
    rows_id = put_rows(sent.rows, given(sent.ids_n), NUM_ITEMS)["views"][:, 0]
    return rows_id / jnp.linalg.norm(rows_id)


def lower_bound(with_canary: np.ndarray, without: np.ndarray, delta: float, confidence: float) -> float:
    """A lower bound on epsilon from scores of two neighbouring data sets, 0 at least.

    The threshold is chosen on one half of the scores; on the other half, Clopper and Pearson's intervals bound both
    error rates.
    """
    half = len(with_canary) // 2
    levels = np.quantile(np.concatenate([with_canary[:half], without[:half]]), np.linspace(0.005, 0.995, 199))
    best = np.argmax(_bounds(with_canary[:half], without[:half], levels, delta, confidence))
    return float(_bounds(with_canary[half:], without[half:], levels[best : best + 1], delta, confidence)[0])


def _bounds(
    inside: np.ndarray, outside: np.ndarray, levels: np.ndarray, delta: float, confidence: float
) -> np.ndarray:
    """The bound by each threshold: scores above are thought to have the canary, or scores below not to."""
    alpha, num_in, num_out = (1 - confidence) / 2, len(inside), len(outside)
    above_k, wrong_k = (len(x) - np.searchsorted(np.sort(x), levels, side="right") for x in (inside, outside))

    def bound(hit_k: np.ndarray, of_hits: int, miss_k: np.ndarray, of_misses: int) -> np.ndarray:
        power_k = np.where(hit_k > 0, scipy.stats.beta.ppf(alpha, np.maximum(hit_k, 1), of_hits - hit_k + 1), 0.0)
        left_k = of_misses - miss_k
        error_k = np.where(left_k > 0, scipy.stats.beta.ppf(1 - alpha, miss_k + 1, np.maximum(left_k, 1)), 1.0)
        return np.log(np.maximum(power_k - delta, 1e-300) / error_k)

    by_above_k = bound(above_k, num_in, wrong_k, num_out)
    by_below_k = bound(num_out - wrong_k, num_out, num_in - above_k, num_in)
    return np.maximum(np.maximum(by_above_k, by_below_k), 0.0)


def variance_bounds(trials: int, confidence: float) -> tuple[float, float]:
    """What the sample variance of so many standard normal numbers lies between."""
    tail = (1 - confidence) / 2
    low, high = scipy.stats.chi2.ppf([tail, 1 - tail], trials - 1) / (trials - 1)
    return float(low), float(high)
