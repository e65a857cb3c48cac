"""Hosts: one file per federated framework, one table."""

from __future__ import annotations

from collections.abc import Callable

from fedvlr_jax.models.hosts import fcf, fedavg, fedncf, fedprior, fedrap, pfedrec
from fedvlr_jax.models.hosts.host import Host, ItemRows

HOSTS: dict[str, Callable[..., Host]] = {
    "fedavg": fedavg.make,
    "fcf": fcf.make,
    "fedncf": fedncf.make,
    "pfedrec": pfedrec.make,
    "fedrap": fedrap.make,
    "fedprior": fedprior.make,
}
"""Factories by the name in the config; each takes the options it knows and ignores the others."""

__all__ = ["HOSTS", "Host", "ItemRows"]
