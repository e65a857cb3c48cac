"""A federation of processes on one machine (docs/deployment.md): synthetic data of the size of KU, six rounds.

make federation
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """FCF + FedVLR with bce, 32 of 204 clients a round, validated by the clients after the third and the last."""
    config = base.get_config()
    config.objective = "bce"
    config.rounds = 6
    config.eval.every = 3
    config.server.clients_per_round = 32
    return config
