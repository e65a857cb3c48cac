"""What is trained on what: settings, data, and the algorithm that they describe."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.assembly import parse_names
from fedvlr_jax.data.buckets import heldout_targets, make_buckets, make_client_data
from fedvlr_jax.errors import ConfigError, RunWarning
from fedvlr_jax.evaluation.metrics import SELECTION_METRIC, summarise, warm_items
from fedvlr_jax.evaluation.ranking import rank_all, without_test
from fedvlr_jax.federated import noisy_prior, prior
from fedvlr_jax.privacy.accounting import guarantee_of, warn_of_a_weak_guarantee
from fedvlr_jax.types import Array, Bucket, ClientData, Dataset, Prior, content_of

WITHOUT_FEATURES = ("base",)
"""Variants that read no item features."""


class Experiment(NamedTuple):
    """What is trained on what.

    Attributes:
      settings: nested, with all fields.
      dataset: interactions, splits and features.
      clients: the same interactions and features as the rounds read them. There are no buckets in it where private
        states lie in a store (``compute.store``): each round then has buckets of its own.
      algorithm: the `algorithm.Algorithm` that the settings describe for this data set.
    """

    settings: Mapping[str, Any]
    dataset: Dataset
    clients: ClientData
    algorithm: Any


def make_experiment(settings: Mapping[str, Any], dataset: Dataset) -> Experiment:
    """The algorithm that the settings describe, with everything that it reads of a data set.

    Raises:
      ConfigError: as `algorithm.make_algorithm`, and for a variant that fuses features which the data set lacks.
    """
    _require_features(settings, dataset)
    algorithm = make_algorithm(settings, dataset)
    has_prior = algorithm.model.host.combine is not None
    _warn_of_privacy(settings, dataset, has_prior)
    if settings["compute"]["store"] == "device":
        clients = make_client_data(dataset)
    else:
        clients = ClientData((), content_of(dataset))
    if has_prior:
        clients = clients._replace(prior=configured_prior(settings, dataset).of(dataset))
    return Experiment(settings, dataset, clients, algorithm)


def _require_features(settings: Mapping[str, Any], dataset: Dataset) -> None:
    """Refuses to fuse nothing: a variant other than those of `WITHOUT_FEATURES` on data without any features."""
    variant, on = settings["variant"], set(parse_names(settings["fusion"]["modalities"]))
    if dataset.V is None and dataset.C is None and variant not in WITHOUT_FEATURES and on != {"D"}:
        raise ConfigError(
            f"variant {variant}: expected visual or textual features of the items, found none in {dataset.name}; "
            f"without features train variant {' or '.join(WITHOUT_FEATURES)}, or set fusion.modalities to D"
        )


def _warn_of_privacy(settings: Mapping[str, Any], dataset: Dataset, has_prior: bool) -> None:
    """Says what a guarantee is not worth."""
    if (guarantee := guarantee_of(settings, dataset.num_users)) is None:
        return
    warn_of_a_weak_guarantee(guarantee, dataset.num_users)
    if has_prior and guarantee.prior_noise is None:
        warnings.warn(
            f"privacy.prior_share: the guarantee is about rounds; the prior of host {settings['host']['name']} is an "
            f"exact sum over all histories, and not covered",
            RunWarning,
            stacklevel=3,
        )


class ConfiguredPrior(NamedTuple):
    """A prior that is solved; only the shrinking of rare items is left, which depends on the features.

    Of several candidates the one that ranks validation items best, by itself, is taken.
    """

    settings: Mapping[str, Any]
    candidates: tuple[prior.ItemWeights, ...]

    def of(self, dataset: Dataset) -> Prior:
        """The prior with the features of `dataset` (same interactions) that `fusion.modalities` leaves on."""
        on = parse_names(self.settings["fusion"]["modalities"])
        features = [x if letter in on else None for letter, x in (("V", dataset.V), ("C", dataset.C))]
        asked = prior.PriorSettings(**self.settings["prior"])
        made = [prior.make_prior(dataset, weights, features, asked) for weights in self.candidates]
        if len(made) == 1:
            return made[0]
        values = [_valid_value(one, dataset, self.settings["eval"]["chunk"]) or 0.0 for one in made]
        return made[values.index(max(values))]


def configured_prior(settings: Mapping[str, Any], dataset: Dataset) -> ConfiguredPrior:
    """Federates and solves the prior that ``config.prior`` describes, or makes it of a noised sum where a budget of
    privacy has a share for that.
    """
    guarantee = guarantee_of(settings, dataset.num_users)
    if guarantee is not None and guarantee.prior_noise is not None:
        released = noisy_prior.release(dataset, guarantee.prior_noise, settings["seed"])
        return ConfiguredPrior(settings, tuple(noisy_prior.item_weights(released).values()))
    prior_settings = prior.PriorSettings(**settings["prior"])
    prior.warn_without_times(dataset, prior_settings)
    return ConfiguredPrior(settings, (prior.federate(dataset, prior_settings),))


_rank = jax.jit(rank_all, static_argnames=("score", "chunk"))


def _own_row(score_ui: Array, clients: Bucket) -> Array:
    return score_ui.at[clients.user].get(mode="fill", fill_value=0.0)


def _valid_value(made: Prior, dataset: Dataset, chunk: int) -> float | None:
    """Validation NDCG@50 of a prior alone."""
    targets = without_test(heldout_targets(dataset))
    ranks = jax.device_get(_rank(_own_row, made.score_ui, make_buckets(dataset), targets, chunk=chunk))
    return summarise(ranks, warm_items(dataset.train_item, dataset.num_items))["valid"][SELECTION_METRIC]
