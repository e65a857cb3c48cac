"""The prior of one noised sum: what a budget of differential privacy leaves of co-occurrence and popularity.

Once, before the rounds, every client sends two statistics of its train items, in which newer items weigh more,
r_i = (1 + age_i)^-decay:

    co-occurrence  r r^T without its diagonal, at Frobenius norm 1: what is on the diagonal would not be used
    popularity     r, at L2 norm 1

Weighted by `shares` their joint norm is 1 at most, whoever sends them, so one client more or less moves the sum by at
most 1, and Gaussian noise on it is what is accounted. The more noise there is, the more of that norm is popularity's,
which has fewer numbers. What is made of the noised sums, and of item features, which are public, costs nothing more:
maps [i, i] from an item of a history to the scored item. A client scores them on its
own history and adds them up, each standardised over the catalogue,

    s_ui = sum_v w_v z(sum_l h_l M_v[l, i]),      z(x) = (x - mean x) / std x

with h = r for features, and h = 1 for maps with noise, of which a sum over all items has the least.
Which maps serve depends on how many clients stand against how many items, and on what features are worth. So the run
chooses among `mixtures` by validation items, with the exponential mechanism and an epsilon of its own (`choose`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from fedvlr_jax.agreed import Prior
from fedvlr_jax.data.histories import split_by_user
from fedvlr_jax.federated.prior import PriorSettings, recency
from fedvlr_jax.federated.view_maps import centred_by_modality, content_kernel
from fedvlr_jax.types import Dataset

POPULAR_SHARE, LEAST_SHARE, MOST_SHARE = 0.25, 0.1, 0.5
"""Squared weight of popularity in what a client sends for each unit of the noise's deviation, and its bounds."""

TRUSTED = 0.7
"""Deviations of their noise by which co-occurrences shrink towards zero: what is smaller is mostly noise."""

CO_OCCURRENCE, POPULARITY = "co-occurrence", "popularity"
MAPS = (CO_OCCURRENCE, POPULARITY, "visual", "text")

KERNEL = "cubed"
"""Of item features, see `view_maps.KERNELS`."""

CONTENT_WEIGHTS = (0.3, 1.0)
"""Weights of one modality's kernel beside co-occurrence or popularity that are tried."""

LEAST_POPULAR = 0.05
"""Popularity that an item has at least where it scales co-occurrence, in deviations of its noise."""

Mixture = dict[str, float]
"""Weights of maps by name; the others have none."""


class Release(NamedTuple):
    """The noised sums over all clients, in units of one client.

    Attributes:
      similar_ii: float64 [i, i], symmetric, with a diagonal of zeros; not shrunk.
      popular_i: float64 [i].
      similar_noise, popular_noise: deviations of the noise on every number of these.
    """

    similar_ii: np.ndarray
    popular_i: np.ndarray
    similar_noise: float
    popular_noise: float

    def padded(self, num_items: int) -> Release:
        """The sums for a larger catalogue: nobody has the items behind the last one, and they get no noise."""
        more = num_items - len(self.popular_i)
        return self._replace(
            similar_ii=np.pad(self.similar_ii, (0, more)), popular_i=np.pad(self.popular_i, (0, more))
        )


def shares(noise: float) -> tuple[float, float]:
    """Squared weights of co-occurrence and popularity in what a client sends under noise of this deviation."""
    popular = min(max(POPULAR_SHARE * noise, LEAST_SHARE), MOST_SHARE)
    return 1 - popular, popular


def client_block(weight_n: np.ndarray, shares: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """What a client adds before noise, ([n, n], [n]), of a joint norm of 1 at most.

    Args:
      weight_n: weights of its n train items, finite and not negative.
      shares: squared weights of both, of a sum of 1.
    """
    pair_nn = np.outer(weight_n, weight_n)
    np.fill_diagonal(pair_nn, 0.0)
    return math.sqrt(shares[0]) * _unit(pair_nn), math.sqrt(shares[1]) * _unit(weight_n)


def _unit(x: np.ndarray) -> np.ndarray:
    """At norm 1, or zeros. Squares of what is small next to the largest may vanish, but not those of the largest."""
    largest = x.max(initial=0.0)
    scaled = x / largest if largest > 0 else np.zeros_like(x)
    return scaled / max(float(np.linalg.norm(scaled)), 1.0)


def release(dataset: Dataset, settings: PriorSettings, noise: float, seed: int) -> Release:
    """The noised sums of a data set.

    Args:
      dataset: histories.
      settings: its `decay` says how much older items count.
      noise: deviation of the noise for a sum that one client moves by 1 at most.
      seed: of the noise; whoever knows it can take the noise off.
    """
    size, rng = dataset.num_items, np.random.default_rng((seed, 17))
    similar_ii, popular_i = np.zeros((size, size)), np.zeros(size)
    weight_r = recency(dataset.train_age, settings, len(dataset.train_item))
    weights = shares(noise)
    clients = zip(split_by_user(dataset, dataset.train_item), split_by_user(dataset, weight_r), strict=True)
    for ids_n, weight_n in clients:
        similar_nn, popular_n = client_block(weight_n, weights)
        similar_ii[np.ix_(ids_n, ids_n)] += similar_nn
        popular_i[ids_n] += popular_n
    # Every pair is sent once, times sqrt(2), so that the norm of what is sent is Frobenius' of the whole.
    upper_ii = np.triu(rng.normal(0, noise / math.sqrt(2), (size, size)), 1)
    similar_ii += upper_ii
    similar_ii += upper_ii.T
    popular_i += rng.normal(0, noise, size)
    similar, popular = (math.sqrt(share) for share in weights)
    return Release(similar_ii / similar, popular_i / popular, noise / math.sqrt(2) / similar, noise / popular)


def megabytes_once(dataset: Dataset) -> float:
    """10^6 bytes: each client sends its pairs, popularity and values of mixtures, and is handed both noised sums."""
    length_u = np.bincount(dataset.train_user, minlength=dataset.num_users).astype(np.int64)
    values = len(mixtures(MAPS))
    given_out = dataset.num_items * (dataset.num_items + 1) // 2
    return 4e-6 * float((length_u * (length_u + 1) // 2 + given_out + values).sum())


def item_maps(released: Release, features: Dataset) -> dict[str, np.ndarray]:
    """Maps by name, float32 [i, i] (row = item of the history), of the release and of features alone.

    Co-occurrence shrinks by `TRUSTED` deviations of its noise, and is scaled by the fourth root of the popularity of
    both items: between items that few clients have it is mostly noise.

    Args:
      released: of `release`.
      features: a data set with the features to use, None where a modality is off.
    """
    similar_ii, popular_i, similar_noise, popular_noise = released
    similar_ii = np.sign(similar_ii) * np.maximum(np.abs(similar_ii) - TRUSTED * similar_noise, 0)
    scale_i = np.maximum(popular_i, LEAST_POPULAR * popular_noise) ** 0.25
    return {
        CO_OCCURRENCE: (scale_i[:, None] * similar_ii * scale_i[None]).astype(np.float32),
        POPULARITY: np.broadcast_to(popular_i.astype(np.float32), similar_ii.shape),
    } | {modality: content_kernel(x, KERNEL) for modality, x in centred_by_modality(features).items()}


def mixtures(names: Iterable[str]) -> list[Mixture]:
    """What a run chooses among: co-occurrence or popularity, alone or beside one modality.

    Args:
      names: of the maps.
    """
    counted = (CO_OCCURRENCE, POPULARITY)
    content = [name for name in names if name not in counted]
    beside = [{one: 1.0, other: weight} for one in counted for other in content for weight in CONTENT_WEIGHTS]
    return [{one: 1.0} for one in counted] + beside


def choose(values_k: Sequence[float], epsilon: float, seed: int) -> int:
    """The exponential mechanism: k with a probability in proportion to exp(epsilon values_k); epsilon-private.

    A client more adds a number within [0, 1] to every value, so that no probability changes by more than exp(epsilon)
    (McSherry and Talwar, FOCS 2007; the factor 1/2 is for values that may move in both directions).

    Args:
      values_k: sums over clients of such numbers.
      epsilon: what the choice may spend.
      seed: of the draw, secret as that of the noise.
    """
    rng = np.random.default_rng((seed, 19))
    return int(np.argmax(epsilon * np.asarray(values_k) + rng.gumbel(size=len(values_k))))


def view_scores(maps: Mapping[str, np.ndarray], histories: Dataset, settings: PriorSettings) -> dict[str, np.ndarray]:
    """z of every map on the histories of all users, float64 [u, i] by name."""
    return {name: _standardised(_raw_scores(name, x, histories, settings))[0] for name, x in maps.items()}


def blended(scores: Mapping[str, np.ndarray], mixture: Mixture) -> np.ndarray:
    """sum_v w_v z_v, [u, i]."""
    return sum(weight * scores[name] for name, weight in mixture.items())  # type: ignore[return-value]


class Blend(NamedTuple):
    """The chosen maps and their weights: what the server hands out, for histories of anybody.

    Attributes:
      maps: [i, i] by name, those that have a weight.
      mixture: the weights.
      settings: how histories are read.
    """

    maps: Mapping[str, np.ndarray]
    mixture: Mixture
    settings: PriorSettings

    def scores(self, histories: Dataset) -> np.ndarray:
        """float64 [u, i], prior scores of the users of `histories`, whoever the sums were formed of."""
        return blended(view_scores(self.maps, histories, self.settings), self.mixture)

    def item_scores(self, histories: Dataset, inside_r: np.ndarray) -> np.ndarray:
        """float64 [l, i], what every train row that is `inside_r`, bool [rows], adds to the scores of its user."""
        user_l, item_l = histories.train_user[inside_r], histories.train_item[inside_r]
        total_li: np.ndarray = np.zeros((len(item_l), histories.num_items))
        for name, weight in self.mixture.items():
            map_ii, history_r = self.maps[name], _weights(name, histories, self.settings)
            _, scale_u1 = _standardised(_raw_scores(name, map_ii, histories, self.settings))
            added_li = weight * history_r[inside_r, None] * scale_u1[user_l] * map_ii[item_l]
            total_li += added_li - added_li.mean(axis=1, keepdims=True)
        return total_li

    def of(self, histories: Dataset) -> Prior:
        """The prior of the users of `histories`, on the device; trained logits are not drawn to those of others."""
        weights = {f"weight {name}": jnp.float32(self.mixture.get(name, 0)) for name in MAPS}
        return Prior(jnp.asarray(self.scores(histories), jnp.float32), jnp.eye(histories.num_items), weights)


def _weights(name: str, histories: Dataset, settings: PriorSettings) -> np.ndarray:
    """How much every train item counts where a history goes through the map of this name, [rows]."""
    size = len(histories.train_item)
    return np.ones(size) if name in (CO_OCCURRENCE, POPULARITY) else recency(histories.train_age, settings, size)


def _raw_scores(name: str, map_ii: np.ndarray, histories: Dataset, settings: PriorSettings) -> np.ndarray:
    """Histories through a map, float64 [u, i]."""
    history_ui = np.zeros((histories.num_users, histories.num_items), np.float32)
    history_ui[histories.train_user, histories.train_item] = _weights(name, histories, settings)
    return (history_ui @ map_ii).astype(np.float64)


def _standardised(scores_ui: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """z over the catalogue, and the factors [u, 1] that it took; zeros where all scores are the same."""
    centred_ui = scores_ui - scores_ui.mean(axis=1, keepdims=True)
    spread_u1 = centred_ui.std(axis=1, keepdims=True)
    varies_u1 = spread_u1 > 1e-9 * np.abs(scores_ui).max(axis=1, keepdims=True)  # else it is rounding
    scale_u1 = np.where(varies_u1, 1 / np.where(varies_u1, spread_u1, 1.0), 0.0)
    return centred_ui * scale_u1, scale_u1
