"""The benchmark on the embedded synthetic set: no files needed, one host in four variants, a few minutes.

python experiments/benchmark.py --config=configs/benchmark/quick.py
"""

from ml_collections import ConfigDict

from configs.benchmark import base
from configs.benchmark.base import fields


def get_config() -> ConfigDict:
    """FCF in all variants, its controls, and all baselines, three seeds."""
    config = base.get_config()
    config.hosts = "fcf"
    config.seeds = 3
    config.epochs = 100
    config.train.rounds = 100
    config.grid = {"*+*": fields(client__lr=(0.3, 1.0), server__l2=(0.0, 0.001))}
    return config.lock()
