"""The item-to-item prior before the first round: exact, chosen by held-back train items, or of one noised sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fedvlr_jax.agreed import Prior
from fedvlr_jax.assembly import parse_names
from fedvlr_jax.data.buckets import heldout_targets, make_buckets
from fedvlr_jax.evaluation.metrics import SELECTION_METRIC, summarise, warm_items
from fedvlr_jax.evaluation.ranking import rank_all, without_test
from fedvlr_jax.federated import noisy_prior, prior
from fedvlr_jax.federated.prior_choice import choose_prior, without_order
from fedvlr_jax.privacy.accounting import guarantee_of
from fedvlr_jax.types import Array, Bucket, Dataset


class ConfiguredPrior(NamedTuple):
    """The prior of one set of histories; what is left depends on the features.

    Attributes:
      settings: nested, with all fields.
      weights: solved, or None where they depend on features too.
      megabytes: 10^6 bytes that move before the first round.
    """

    settings: Mapping[str, Any]
    weights: prior.ItemWeights | None
    megabytes: float

    def formed(self, dataset: Dataset) -> prior.Shrunk:
        """The prior with the features of `dataset` (same interactions) that `fusion.modalities` leaves on."""
        features, fields = _features(self.settings, dataset), prior.PriorSettings(**self.settings["prior"])
        if self.settings["host"]["choose_prior"]:
            return self._chosen(dataset, features, fields)
        weights = self.weights or prior.federate(dataset, fields, features)
        return prior.shrink(weights.weight_ii, weights.count_i, features, fields)

    def _chosen(
        self, dataset: Dataset, features: Sequence[np.ndarray | None], fields: prior.PriorSettings
    ) -> prior.Shrunk:
        """With settings that the run chooses, with the order of time unless validation prefers a prior without it."""
        starts = [(dataset, fields)] + [without_order(dataset, fields)] * (dataset.train_age is not None)
        made = []
        for histories, start in starts:
            chosen = choose_prior(histories, features, start)
            weights = prior.federate(histories, chosen, features)
            made.append(prior.shrink(weights.weight_ii, weights.count_i, features, chosen))
        return made[0] if len(made) == 1 else _best_on_validation(made, dataset, self.settings)

    def of(self, dataset: Dataset) -> Prior:
        """`formed`, for the histories of `dataset` itself."""
        return self.formed(dataset).of(dataset)


class NoisedPrior(NamedTuple):
    """The prior of one noised sum; of several candidates the one that ranks validation items best, by itself.

    Attributes:
      settings: nested, with all fields.
      candidates: made of the noised sum alone.
    """

    settings: Mapping[str, Any]
    candidates: tuple[prior.ItemWeights, ...]

    @property
    def megabytes(self) -> float:
        """10^6 bytes that move before the first round."""
        return self.candidates[0].megabytes

    def formed(self, dataset: Dataset) -> prior.Shrunk:
        """The prior with the features of `dataset` (same interactions) that `fusion.modalities` leaves on."""
        features, fields = _features(self.settings, dataset), prior.PriorSettings(**self.settings["prior"])
        made = [prior.shrink(weights.weight_ii, weights.count_i, features, fields) for weights in self.candidates]
        return _best_on_validation(made, dataset, self.settings)

    def of(self, dataset: Dataset) -> Prior:
        """`formed`, for the histories of `dataset` itself."""
        return self.formed(dataset).of(dataset)


def configured_prior(settings: Mapping[str, Any], dataset: Dataset) -> ConfiguredPrior | NoisedPrior:
    """Federates and solves the prior that ``config.prior`` describes, as far as that needs no features, or makes it
    of a noised sum where a budget of privacy has a share for that.

    Choosing takes three more sums, of the histories without what is held back, one for each pair of exponents, and
    two more as without times.
    """
    guarantee = guarantee_of(settings, dataset.num_users)
    if guarantee is not None and guarantee.prior_noise is not None:
        released = noisy_prior.release(dataset, guarantee.prior_noise, settings["seed"])
        return NoisedPrior(settings, tuple(noisy_prior.item_weights(released).values()))
    fields, choose = prior.PriorSettings(**settings["prior"]), settings["host"]["choose_prior"]
    prior.warn_without_times(dataset, fields)
    weights = None if choose or fields.content else prior.federate(dataset, fields)
    return ConfiguredPrior(settings, weights, (1 + 5 * choose) * prior.megabytes_once(dataset))


def _features(settings: Mapping[str, Any], dataset: Dataset) -> Sequence[np.ndarray | None]:
    on = parse_names(settings["fusion"]["modalities"])
    return [x if letter in on else None for letter, x in (("V", dataset.V), ("C", dataset.C))]


_rank = jax.jit(rank_all, static_argnames=("score", "chunk"))


def _own_row(score_ui: Array, clients: Bucket) -> Array:
    return score_ui.at[clients.user].get(mode="fill", fill_value=0.0)


def _best_on_validation(made: Sequence[prior.Shrunk], dataset: Dataset, settings: Mapping[str, Any]) -> prior.Shrunk:
    """The first of those with the best validation NDCG@50, each by itself."""
    values = [_valid_value(one, dataset, settings["eval"]["chunk"]) or 0.0 for one in made]
    return made[values.index(max(values))]


def _valid_value(made: prior.Shrunk, dataset: Dataset, chunk: int) -> float | None:
    """Validation NDCG@50 of a prior alone."""
    ranked = dataset.ranked
    targets = without_test(heldout_targets(ranked))
    ranks = jax.device_get(_rank(_own_row, made.of(ranked).score_ui, make_buckets(ranked), targets, chunk=chunk))
    return summarise(ranks, warm_items(dataset.train_item, dataset.num_items))["valid"][SELECTION_METRIC]
