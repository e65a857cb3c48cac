"""ML: 610 users, 3,650 items, 90,274 ratings (MovieLens latest-small; sizes of table 1 of the paper).

python experiments/train.py --config=configs/ml.py
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """FCF + FedVLR on ML."""
    config = base.get_config()
    config.data.name = "ML"
    config.data.expect.users = 610
    config.data.expect.items = 3650
    config.data.expect.ratings = 90274
    return config
