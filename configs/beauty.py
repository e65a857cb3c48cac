"""Beauty: 253 users, 356 items, 2,535 ratings (Amazon Reviews 2023, All_Beauty; sizes of table 1 of the paper).

python experiments/train.py --config=configs/beauty.py
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """FCF + FedVLR on Beauty."""
    config = base.get_config()
    config.data.name = "Beauty"
    config.data.expect.users = 253
    config.data.expect.items = 356
    config.data.expect.ratings = 2535
    return config
