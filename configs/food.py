"""Food: 5,990 users, 1,125 items, 36,482 ratings (NineRec Bili_Food; sizes of table 1 of the paper).

python experiments/train.py --config=configs/food.py
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """FCF + FedVLR on Food."""
    config = base.get_config()
    config.data.name = "Food"
    config.data.expect.users = 5990
    config.data.expect.items = 1125
    config.data.expect.ratings = 36482
    return config
