"""What is trained on what: settings, data, and the algorithm that they describe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.assembly import parse_names
from fedvlr_jax.data.buckets import make_client_data
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.federated.noisy_prior import Blend
from fedvlr_jax.federated.prior import Shrunk
from fedvlr_jax.models.hosts.host import Host
from fedvlr_jax.privacy.accounting import guarantee_of, warn_of_a_weak_guarantee
from fedvlr_jax.training.priors import ConfiguredPrior, NoisedPrior, configured_prior
from fedvlr_jax.training.score_views import ConfiguredViews, FormedViews
from fedvlr_jax.training.uncovered import leaves_out_sums, warn_of_no_noise, warn_of_sums
from fedvlr_jax.types import ClientData, Dataset, content_of

NEW_WORTH = 1 << 18
"""Of `make_histories` for newcomers: their local rounds are a part of every bucket's program, slow to compile."""

Formed = Shrunk | Blend | FormedViews
"""What the server hands out before the first round, for the histories of anybody."""

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
    agreed = before_rounds(settings, dataset, algorithm.model.host)
    _warn_of_privacy(settings, dataset)
    formed = None if agreed is None else agreed.formed(dataset)
    if formed is not None:
        clients = clients._replace(prior=formed.of(dataset))
    if dataset.newcomers is not None:
        require_one_device(settings, "data.split users")
        if settings["eval"]["lists"]:
            raise ConfigError("eval.lists: whole lists of users who are left out are not judged (data.split users)")
        clients = clients._replace(newcomers=client_data_of(dataset.newcomers, formed))
    return Experiment(settings, dataset, clients, algorithm)


def client_data_of(histories: Dataset, formed: Formed | None) -> ClientData:
    """What users bring, trained or not: their histories, and their own part of what was agreed on before the rounds.

    Args:
      histories: the users; numbers of items and features are those of the training.
      formed: what the server handed out before the rounds, None where the host needs nothing.
    """
    clients = make_client_data(histories, worth=NEW_WORTH)
    return clients if formed is None else clients._replace(prior=formed.of(histories))


def make_join(experiment: Experiment) -> Callable[[Dataset], ClientData]:
    """`client_data_of` of users whom a run never saw; what was agreed on before its rounds is formed again, once."""
    settings, dataset, _, algorithm = experiment
    agreed = before_rounds(settings, dataset, algorithm.model.host)
    formed = None if agreed is None else agreed.formed(dataset)
    return lambda histories: client_data_of(histories, formed)


def on_one_device(settings: Mapping[str, Any]) -> bool:
    """Whether all private states are on one device, and not in a store or on several."""
    return (settings["compute"]["store"], settings["compute"]["devices"]) == ("device", 1)


def require_one_device(settings: Mapping[str, Any], what: str) -> None:
    """Refuses private states in a store or on several devices.

    Raises:
      ConfigError: naming `what` needs them on one device.
    """
    if not on_one_device(settings):
        compute = settings["compute"]
        raise ConfigError(
            f"{what}: expected compute.store device and compute.devices 1, found {compute['store']} and "
            f"{compute['devices']}"
        )


def _require_features(settings: Mapping[str, Any], dataset: Dataset) -> None:
    """Refuses to fuse nothing: a variant other than those of `WITHOUT_FEATURES` on data without any features."""
    variant, on = settings["variant"], set(parse_names(settings["fusion"]["modalities"]))
    if dataset.V is None and dataset.C is None and variant not in WITHOUT_FEATURES and on != {"D"}:
        raise ConfigError(
            f"variant {variant}: expected visual or textual features of the items, found none in {dataset.name}; "
            f"without features train variant {' or '.join(WITHOUT_FEATURES)}, or set fusion.modalities to D"
        )


def _warn_of_privacy(settings: Mapping[str, Any], dataset: Dataset) -> None:
    """Says what a guarantee is not worth, and where noise was asked for and none is added."""
    if (guarantee := guarantee_of(settings, dataset.num_users)) is not None:
        warn_of_a_weak_guarantee(guarantee, dataset.num_users)
    if leaves_out_sums(settings, dataset):
        warn_of_sums([settings["host"]["name"]])
    warn_of_no_noise(settings)


def before_rounds(
    settings: Mapping[str, Any], dataset: Dataset, host: Host
) -> ConfiguredPrior | NoisedPrior | ConfiguredViews | None:
    """What the host needs beside rounds, for the interactions of a data set; None for most hosts.

    Raises:
      ConfigError: where a budget of privacy has a share for a noised sum that the host would not make.
    """
    if host.view_weights is not None:
        agreed: Any = ConfiguredViews(settings, dataset)
    else:
        agreed = None if host.combine is None else configured_prior(settings, dataset)
    guarantee = guarantee_of(settings, dataset.num_users)
    if guarantee is not None and guarantee.prior_noise is not None and not isinstance(agreed, NoisedPrior):
        raise ConfigError(
            f"privacy.prior_share: host fedprior alone makes its prior of one noised sum, so expected 0 with "
            f"host.name {settings['host']['name']}, found {settings['privacy']['prior_share']:g}"
        )
    return agreed
