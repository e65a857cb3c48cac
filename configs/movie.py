"""Movie: 15,908 users, 2,528 items, 111,091 ratings (NineRec Bili_Movie; sizes of table 1 of the paper).

python experiments/train.py --config=configs/movie.py
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """FCF + FedVLR on Movie."""
    config = base.get_config()
    config.data.name = "Movie"
    config.data.expect.users = 15908
    config.data.expect.items = 2528
    config.data.expect.ratings = 111091
    return config
