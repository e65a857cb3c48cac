"""Dance: 10,231 users, 1,676 items, 80,086 ratings (NineRec Bili_Dance; sizes of table 1 of the paper).

python experiments/train.py --config=configs/dance.py
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """FCF + FedVLR on Dance."""
    config = base.get_config()
    config.data.name = "Dance"
    config.data.expect.users = 10231
    config.data.expect.items = 1676
    config.data.expect.ratings = 80086
    return config
