"""KU: 204 users, 560 items, 3,488 ratings (NineRec KU; sizes of table 1 of the paper).

python experiments/train.py --config=configs/ku.py
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """FedAvg + FedVLR on KU; settings chosen on validation NDCG@50."""
    config = base.get_config()
    config.host.name = "fedavg"
    config.client.holdout = 0.8
    config.client.lr = 5.0
    config.client.l2 = 0.01
    config.rounds = 200
    config.eval.every = 5
    config.data.name = "KU"
    config.data.expect.users = 204
    config.data.expect.items = 560
    config.data.expect.ratings = 3488
    return config
