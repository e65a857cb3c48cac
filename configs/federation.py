"""A federation of processes on one machine (docs/deployment.md): synthetic data of the size of KU, ten rounds.

make federation
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """FCF + FedVLR with 64 of 204 clients a round, validated by the clients after the fifth and the last."""
    config = base.get_config()
    config.rounds = 10
    config.eval.every = 5
    config.server.clients_per_round = 64
    return config
