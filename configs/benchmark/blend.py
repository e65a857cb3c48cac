"""FedBlend with its controls beside the linear models that it is made of: five seeds, minutes a set.

python experiments/benchmark.py --config=configs/benchmark/blend.py --config.train.data.name=KU [--workdir=runs/b]

Any set of the data folder serves, with or without times and features. The controls are in docs/concepts.md, Score
views; deviations are on in the search, so that swapping them can matter where validation prefers them.
"""

from ml_collections import ConfigDict

from configs.benchmark import base
from configs.benchmark.base import BLEND, fields


def get_config() -> ConfigDict:
    """FedBlend and its controls, FedPrior with its own choices, and the linear models."""
    config = base.get_config()
    config.own = "fedblend+base,fedprior+base"
    config.controls = "shuffled features, random features"
    config.methods = "fedblend+*, fedprior+base, ease, fed_ease, content_ease, fed_content_ease, popularity, item_knn"
    config.train.rounds = 30
    config.settings = {
        "*": fields(client__lr=2.0, client__l2=0.02, client__steps=2),
        "fedprior+*": fields(server__l2=0.001, host__choose_prior=True),
        "fedblend+*": BLEND,
    }
    config.grid = {
        "fedprior+*": fields(host__model_weight=(0.003, 0.3)),
        "fedblend+*": fields(host__deviation=(0.0, 0.01)),
    }
    return config.lock()
