"""ML: 610 users, 3,650 items, 90,274 ratings (MovieLens latest-small; sizes of table 1 of the paper).

python experiments/train.py --config=configs/ml.py
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """FCF + FedVLR on ML."""
    config = base.get_config()
    config.client.lr = 1.0
    config.client.l2 = 0.03
    config.server.l2 = 0.001
    config.rounds = 150
    config.eval.every = 5
    config.eval.patience = 6
    config.data.name = "ML"
    config.data.expect.users = 610
    config.data.expect.items = 3650
    config.data.expect.ratings = 90274
    return config
