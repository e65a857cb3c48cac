"""The benchmark on a data set of yours, within a number of minutes.

python experiments/benchmark.py --config=configs/benchmark/own.py --config.data.name=X [--config.minutes=60]

Everything that a set decides is chosen on its validation rows: rounds, epochs, points of the grids. Where the minutes
do not suffice, points, seeds and then methods are cut, the last ones of `priority` first, and the report says which.
The same command with more minutes goes on from there.
"""

from ml_collections import ConfigDict

from configs.benchmark import base
from configs.benchmark.base import BLEND, fields

FIRST = (
    "popularity, item_knn, ease, constant, cold_first, content_knn, fed_prior, fed_ease, "
    "fcf+base, fedprior+base, fedblend+base, fedprior+fedvlr, fcf+fedvlr, bpr_mf, fedavg+base, fedavg+fedvlr, "
    "content_ease, fed_content_ease, vbpr, fcf+*, fedavg+*, local-only, pfedrec+*, bm3, mgcn, pgl, "
    "lightgcn, multvae, freedom, fedncf+*, fedrap+*"
)


def get_config() -> ConfigDict:
    """All methods, at most four points and three seeds each."""
    config = base.get_config()
    config.minutes = 30.0
    config.priority = FIRST
    config.own = "fcf+attention,fcf+gfmfr,fedprior+base,fedprior+fedvlr,fedblend+base"
    config.controls = "shuffled features, random features"
    config.seeds = 3
    config.search_seeds = 2
    config.baseline_points = 4
    config.epochs = 100
    config.data = config.train.data  # so that --config.data.name means the same as for train.py
    config.train.rounds = 150
    config.train.eval.every = 10
    config.train.eval.patience = 4
    # These two read and write far more numbers a client; sampled negatives and one step keep a round cheap.
    few = fields(objective="bce", client__steps=1, client__negatives=2)
    config.settings = {
        "*": fields(client__lr=2.0, client__l2=0.02, client__steps=2),
        "fedncf+*": few,
        "fedrap+*": few,
        "local-only": few,
        "fedprior+*": fields(server__l2=0.001),
        "fedblend+*": BLEND,
    }
    config.grid = {
        "*+*": fields(server__lr=(0.01, 0.03), server__l2=(0.0001, 0.001)),
        "*+gfmfr": fields(server__lr=(0.01, 0.03), fusion__distil=(0.1, 1.0)),
        "fedprior+*": fields(host__model_weight=(0.003, 0.3), host__choose_prior=(False, True)),
        "fedblend+*": fields(host__deviation=(0.0, 0.01)),
        "local-only": fields(host__table_lr=(0.1, 1.0), client__l2=(0.01, 0.1)),
    }
    return config.lock()
