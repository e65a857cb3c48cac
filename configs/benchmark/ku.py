"""The benchmark on KU (204 users, 560 items, 3,484 distinct ratings).

python experiments/benchmark.py --config=configs/benchmark/ku.py
"""

from ml_collections import ConfigDict

from configs.benchmark import base
from configs.benchmark.base import fields


def get_config() -> ConfigDict:
    """All methods on KU."""
    config = base.get_config()
    config.train.data.name = "KU"
    config.train.data.expect.users = 204
    config.train.data.expect.items = 560
    config.train.data.expect.ratings = 3488
    config.train.rounds = 150
    config.train.eval.patience = 8
    config.settings = {
        "*": fields(client__holdout=0.5, client__l2=0.01),
        "fedncf+*": fields(objective="bce", client__steps=1),
        "fedrap+*": fields(client__steps=2),
        "local-only": fields(client__steps=2),
    }
    config.grid = {"*+*": fields(client__lr=(1.0, 5.0), server__l2=(0.0, 0.001))}
    return config.lock()
