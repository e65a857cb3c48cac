"""A data set of yours: the folder X below the data root (README, Data), with neutral settings and no expected sizes.

python experiments/train.py --config=configs/own.py --config.data.name=X [--config.host.name=fedprior]

Rounds are chosen on validation. Without features, or to leave them out: --config.variant=base.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """FCF + FedVLR at rates that suit sets of tens to tens of thousands of users."""
    config = base.get_config()
    config.data.name = "own"
    config.rounds = 150
    config.client.lr = 2.0
    config.client.l2 = 0.02
    config.client.steps = 2
    config.server.l2 = 0.001
    return config
