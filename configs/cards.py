"""Cards: 377 users, 129 items, 2,429 ratings (Amazon Reviews 2023, Gift_Cards; sizes of table 1 of the paper).

python experiments/train.py --config=configs/cards.py
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """FCF + FedVLR on Cards."""
    config = base.get_config()
    config.data.name = "Cards"
    config.data.expect.users = 377
    config.data.expect.items = 129
    config.data.expect.ratings = 2429
    return config
