"""Which settings the analysis covers: what it refuses, and what it runs but labels as outside its assumptions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedvlr_jax.assembly import parse_names
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.models.model import Model
from fedvlr_jax.theory.objective import EXPECTED


def require_analysed(settings: Mapping[str, Any]) -> None:
    """Refuses settings under which the algorithm is not the one that docs/theory.md analyses.

    Raises:
      ConfigError: naming the field and the reason.
    """
    client, server, host = settings["client"], settings["server"], settings["host"]["name"]
    uploads, start = settings["aggregation"], settings["init_from"]
    rules = (
        (
            settings["objective"] in EXPECTED,
            f"objective: expected {' or '.join(EXPECTED)}, which draw afresh in every local step (softmax splits a "
            f"history once a round, squared solves instead of stepping), found {settings['objective']!r}",
        ),
        (
            host != "fedavg",
            "host.name: expected a host with equal client weights (fedavg weighs by history length, and weights "
            "normalised over a random cohort make the aggregated gradient biased), found 'fedavg'",
        ),
        (client["optimizer"] == "sgd", f"client.optimizer: expected sgd, found {client['optimizer']!r}"),
        (server["optimizer"] == "sgd", f"server.optimizer: expected sgd, found {server['optimizer']!r}"),
        (not client["move_items"], "client.move_items: expected False (Algorithm 1), found True"),
        (
            server["sampling"] == "fixed",
            f"server.sampling: expected fixed, cohorts of one size, found {server['sampling']!r}",
        ),
        (
            uploads["aggregator"] == "weighted_mean",
            f"aggregation.aggregator: expected weighted_mean, found {uploads['aggregator']!r}",
        ),
        (
            not parse_names(uploads["transforms"]),
            f"aggregation.transforms: expected none between clients and server, found {uploads['transforms']!r}",
        ),
        (not settings["secure"]["sum"], "secure.sum: expected False, sums that nothing rounds, found True"),
        (not start, f"init_from: expected none, since every seed has a start of its own, found {start!r}"),
    )
    for holds, message in rules:
        if not holds:
            raise ConfigError(message)


def require_own_loss(model: Model, settings: Mapping[str, Any]) -> None:
    """Refuses clients that learn from more than the objective, of whose expectation `objective.py` knows nothing.

    Raises:
      ConfigError: naming the field and the reason.
    """
    host, variant = settings["host"]["name"], settings["variant"]
    if model.host.evidence_loss is not None:
        raise ConfigError(f"host.name: expected a host whose clients learn by the objective alone, found {host!r}")
    if model.variant.teacher is not None:
        raise ConfigError(f"variant: expected one whose clients follow no teacher, found {variant!r}")


def outside(settings: Mapping[str, Any]) -> list[str]:
    """Reasons why a run is outside the assumptions; it is allowed, but its verdicts are observations only."""
    host, fusion, variant, router = (settings[name] for name in ("host", "fusion", "variant", "router"))
    relu, routed = fusion["activation"] == "relu", variant == "fedvlr"
    uses_mlp = variant == "mlp" or (routed and "mlp" in parse_names(fusion["operators"]))
    fedrap = host["name"] == "fedrap"
    curriculum = host["sparsity_weight"] > 0 or host["additive_weight"] > 0
    reasons = (
        (relu and uses_mlp, "operator mlp has a ReLU, so J_u is not smooth (--config.fusion.activation=softplus is)"),
        (relu and routed, "the router has a ReLU, so J_u is not smooth (--config.fusion.activation=softplus is)"),
        (routed and router["lr"] != 1, "router.lr gives some private parameters a rate of their own"),
        (
            routed and router["spread"] > 0 and router["spread_rounds"] > 0,
            "router.spread falls to zero over rounds: J changes from round to round",
        ),
        (host["name"] == "fedncf", "the layers of fedncf have ReLUs, so J_u is not smooth"),
        (fedrap and host["sparsity_weight"] > 0, "host.sparsity_weight adds an L1 term, which is not smooth"),
        (fedrap and curriculum, "fedrap's regularisers follow a curriculum: J changes from round to round"),
        (host["name"] == "pfedrec", "pfedrec takes the public gradient after the private step"),
    )
    return [text for found, text in reasons if found]
