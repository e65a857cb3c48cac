"""The item-to-item prior before the first round: exact, chosen by held-back train items, or of one noised sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from fedvlr_jax.agreed import Prior
from fedvlr_jax.assembly import parse_names
from fedvlr_jax.data.features import without_imputed
from fedvlr_jax.federated import noisy_prior, prior
from fedvlr_jax.federated.held_back import HeldBack, hold_back, mean_ndcg
from fedvlr_jax.federated.prior_choice import choose_ease, choose_prior, without_order
from fedvlr_jax.federated.view_maps import without_modalities
from fedvlr_jax.privacy.accounting import guarantee_of
from fedvlr_jax.training.all_views import valid_targets
from fedvlr_jax.types import Dataset

_one_thread = threadpool_limits.wrap(limits=1, user_api="blas")
"""LAPACK waits for its threads where cores are shared: ten times as long, for a few hundred items."""


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

    @_one_thread
    def formed(self, dataset: Dataset) -> prior.Shrunk:
        """The prior with the features of `dataset` (same interactions) that `fusion.modalities` leaves on.

        Where items came after training nothing is chosen anew.
        """
        features, fields = _features(self.settings, dataset), prior.PriorSettings(**self.settings["prior"])
        if not self.settings["host"]["choose_prior"]:
            return _formed(dataset, fields, features, self.weights)
        if (before := dataset.fewer_items) is not None:
            return _formed(dataset, self.formed(before).settings, features)
        return self._chosen(dataset, features, fields)

    def _chosen(
        self, dataset: Dataset, features: Sequence[np.ndarray | None], fields: prior.PriorSettings
    ) -> prior.Shrunk:
        """With settings that the run chooses: with the order of time, without it, or EASE, as validation prefers.

        Where users are left out, those who stay have no validation rows: their held-back train items decide.
        """
        plain, plain_fields = without_order(dataset, fields)
        timed = [(dataset, fields)] if dataset.train_age is not None else []
        chosen = [choose_prior(histories, features, start) for histories, start in [*timed, (plain, plain_fields)]]
        held = HeldBack(dataset, valid_targets(dataset))
        inner_decides = not (held.target_um >= 0).any()
        if inner_decides:
            held = hold_back(dataset)
        chosen.append(choose_ease(held, features, plain_fields))

        def formed(histories: Dataset) -> list[prior.Shrunk]:
            known = [histories] * len(timed) + [without_order(histories, fields)[0]] * 2
            return [_formed(*one, features) for one in zip(known, chosen, strict=True)]

        made = formed(dataset)
        judged = formed(held.inner) if inner_decides else made
        values = [mean_ndcg(np.asarray(one.of(held.inner).score_ui), held, alone=True) for one in judged]
        return made[values.index(max(values))]

    @_one_thread
    def of(self, dataset: Dataset) -> Prior:
        """`formed`, for the histories of `dataset` itself."""
        return self.formed(dataset).of(dataset)


class NoisedPrior(NamedTuple):
    """The prior of one noised sum, mixed in the way that a noised count of validation ranks finds best.

    Attributes:
      settings: nested, with all fields.
      noise: deviation of the noise on the sum, which a client moves by 1 at most.
      choice_epsilon: what the choice may spend.
      megabytes: 10^6 bytes that move before the first round.
    """

    settings: Mapping[str, Any]
    noise: float
    choice_epsilon: float
    megabytes: float

    @_one_thread
    def formed(self, dataset: Dataset, seed: int | None = None) -> noisy_prior.Blend:
        """The prior with the features of `dataset` that `fusion.modalities` leaves on.

        Where items came after training there is no second sum, and no second choice: the budget is for one of each.

        Args:
          dataset: interactions and features.
          seed: of noise and choice; None = that of the settings.
        """
        seed, on = self.settings["seed"] if seed is None else seed, parse_names(self.settings["fusion"]["modalities"])
        fields, before = prior.PriorSettings(**self.settings["prior"]), dataset.fewer_items or dataset
        released = noisy_prior.release(before, fields, self.noise, seed)
        maps = noisy_prior.item_maps(released, without_modalities(before, on))
        mixture = self._chosen(maps, before.ranked, fields, seed)
        if before is not dataset:
            maps = noisy_prior.item_maps(released.padded(dataset.num_items), without_modalities(dataset, on))
        return noisy_prior.Blend({name: maps[name] for name in mixture}, mixture, fields)

    def _chosen(
        self, maps: Mapping[str, np.ndarray], ranked: Dataset, fields: prior.PriorSettings, seed: int
    ) -> noisy_prior.Mixture:
        """The mixture of maps that a noised count of validation ranks finds best."""
        found = noisy_prior.mixtures(maps)
        scores, held = noisy_prior.view_scores(maps, ranked, fields), HeldBack(ranked, valid_targets(ranked))
        count = np.count_nonzero((held.target_um >= 0).any(axis=1))  # of clients who add a number within [0, 1]
        values = [count * mean_ndcg(noisy_prior.blended(scores, mixture), held, alone=True) for mixture in found]
        return found[noisy_prior.choose(values, self.choice_epsilon, seed)]

    @_one_thread
    def of(self, dataset: Dataset, seed: int | None = None) -> Prior:
        """`formed`, for the histories of `dataset` itself."""
        return self.formed(dataset, seed).of(dataset)


@_one_thread
def configured_prior(settings: Mapping[str, Any], dataset: Dataset) -> ConfiguredPrior | NoisedPrior:
    """Federates and solves the prior that ``config.prior`` describes, as far as that needs no features, or makes it
    of a noised sum where a budget of privacy has a share for that.

    Choosing takes three more sums, of the histories without what is held back, one for each pair of exponents, and
    two more as without times.
    """
    guarantee = guarantee_of(settings, dataset.num_users)
    if guarantee is not None and guarantee.prior_noise is not None:
        noise, choice = guarantee.prior_noise, guarantee.choice_epsilon
        return NoisedPrior(settings, noise, choice, noisy_prior.megabytes_once(dataset))
    fields, choose = prior.PriorSettings(**settings["prior"]), settings["host"]["choose_prior"]
    if not choose:  # else the run reads no order where there is none
        prior.warn_without_times(dataset, fields)
    weights = None if choose or fields.content else prior.federate(dataset, fields)
    return ConfiguredPrior(settings, weights, (1 + 5 * choose) * prior.megabytes_once(dataset))


def _features(settings: Mapping[str, Any], dataset: Dataset) -> Sequence[np.ndarray | None]:
    return without_imputed(without_modalities(dataset, parse_names(settings["fusion"]["modalities"])))


def _formed(
    histories: Dataset,
    fields: prior.PriorSettings,
    features: Sequence[np.ndarray | None],
    weights: prior.ItemWeights | None = None,
) -> prior.Shrunk:
    """The prior of some histories, with what is solved already where `weights` are given."""
    weights = weights or prior.federate(histories, fields, features)
    return prior.shrink(weights.weight_ii, weights.count_i, features, fields)
