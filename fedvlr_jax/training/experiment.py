"""What is trained on what: settings, data, and the algorithm that they describe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.assembly import parse_names
from fedvlr_jax.data.buckets import make_client_data
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.federated import prior
from fedvlr_jax.types import ClientData, Dataset, Prior, content_of

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
    if settings["compute"]["store"] == "device":
        clients = make_client_data(dataset, worth=settings["compute"]["bucket_worth"])
    else:
        clients = ClientData((), content_of(dataset))
    if algorithm.model.host.combine is not None:
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


class ConfiguredPrior(NamedTuple):
    """A prior that is solved; only the shrinking of rare items is left, which depends on the features."""

    settings: Mapping[str, Any]
    weights: prior.ItemWeights

    def of(self, dataset: Dataset) -> Prior:
        """The prior with the features of `dataset` (same interactions) that `fusion.modalities` leaves on."""
        on = parse_names(self.settings["fusion"]["modalities"])
        features = [x if letter in on else None for letter, x in (("V", dataset.V), ("C", dataset.C))]
        return prior.make_prior(dataset, self.weights, features, prior.PriorSettings(**self.settings["prior"]))


def configured_prior(settings: Mapping[str, Any], dataset: Dataset) -> ConfiguredPrior:
    """Federates and solves the prior that ``config.prior`` describes."""
    prior_settings = prior.PriorSettings(**settings["prior"])
    prior.warn_without_times(dataset, prior_settings)
    return ConfiguredPrior(settings, prior.federate(dataset, prior_settings))
