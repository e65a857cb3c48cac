"""Hosts: one file per federated framework, one table, whose rows name the settings that a host alone reads.

The table loads a host's file when the host is made: the settings, and a slip in one of them, need no JAX.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fedvlr_jax.fields import NOT_NEGATIVE, Field

if TYPE_CHECKING:
    from fedvlr_jax.models.hosts.host import Host


@dataclasses.dataclass(frozen=True, eq=False)
class HostFactory:
    """A row of `HOSTS`; calling it makes the host.

    Attributes:
      module: the file with ``make(num_items, *, dim, init_scale, **options) -> Host``, ".fcf" for one in this folder.
      options: settings ``host.<name>`` that came with this host. Every host is given the options of all, takes those
        it knows and ignores the others, so that one host can be built on another.
      starts_ready: what it starts from ranks already: round 0 is evaluated too, and may be the best.
    """

    module: str
    options: Mapping[str, Field] = dataclasses.field(default_factory=dict)
    starts_ready: bool = False

    def __call__(self, num_items: int, **options: Any) -> Host:
        """The host for `num_items` items."""
        return importlib.import_module(self.module, __name__).make(num_items, **options)


def _number(default: float, about: str, source: str = "") -> Field:
    return Field(default, about, NOT_NEGATIVE, source=source, traceable=True)


HOSTS: dict[str, Callable[..., Host]] = {
    "fedavg": HostFactory(".fedavg"),
    "fcf": HostFactory(
        ".fcf",
        {
            "confidence": _number(1.0, "objective squared: extra weight of positives", "FCF, equation 2"),
            "ridge": _number(0.1, "objective squared: lambda of the user factor", "FCF, equation 5"),
        },
    ),
    "fedncf": HostFactory(".fedncf"),
    "pfedrec": HostFactory(
        ".pfedrec",
        {
            "tune_steps": Field(
                3,
                "pfedrec: local steps on the client's own item rows before scoring; 0 = off",
                NOT_NEGATIVE,
                unit="steps",
            ),
            "tune_lr": _number(0.1, "pfedrec: rate of these steps"),
        },
    ),
    "fedrap": HostFactory(
        ".fedrap",
        {
            "table_lr": _number(0.1, "fedrap: rate of the private item table"),
            "additive_weight": _number(0.001, "fedrap: lambda, pushes private and public tables apart", "FedRAP"),
            "sparsity_weight": _number(0.0, "fedrap: mu, L1 weight of the public table", "FedRAP"),
        },
    ),
    "fedprior": HostFactory(
        ".fedprior",
        {
            "model_weight": _number(
                0.3, "fedprior: weight of the trained logits beside the prior's, both standardised"
            ),
            "choose_prior": Field(
                False, "fedprior: choose the settings prior.* inside the run, by train items that clients hold back"
            ),
        },
    ),
    "fedblend": HostFactory(
        ".fedblend",
        {
            "loss_power": Field(  # read before the rounds, too, so that a program cannot take it as an argument
                0.5,
                "fedblend: q of the loss (1 - p^q) / q of a held-back item's probability p; 0 = -log p",
                NOT_NEGATIVE,
            ),
            "order": Field(True, "fedblend: use the order of time; False forms all views as without timestamps"),
            "choose_order": Field(
                True,
                "fedblend: with host.order, do without the order of time where a blend without it ranks validation "
                "items better; not tried where single views show what it is worth",
            ),
            "strongest": Field(
                0,
                "fedblend: entries of largest magnitude that a row of an item-item map keeps; 0 = all, or 500 in a "
                "catalogue of more than 4,000 items",
                NOT_NEGATIVE,
                unit="items",
            ),
            "deviation": _number(
                0.0, "fedblend: variance of a client's own weights around the shared ones; 0 = shared alone"
            ),
            "candidates": Field(
                1000,
                "fedblend: items that a client compares its held-back ones with, drawn once; 0 = all",
                NOT_NEGATIVE,
                unit="items",
            ),
            "swapped": Field(False, "fedblend, a control: clients rank with another client's deviation"),
            "fusion_weight": Field(
                0.0,
                "fedblend: weight of logits that are trained beside the views; 0 = none are trained",
                NOT_NEGATIVE,
            ),
        },
        starts_ready=True,
    ),
}
"""Federated frameworks by ``host.name``; the factory of one that brings no settings may be a plain function."""
