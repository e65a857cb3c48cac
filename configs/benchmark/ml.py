"""The benchmark on ML (610 users, 3,650 items, 90,274 ratings): docs/reproduction.md has its table and its time.

python experiments/benchmark.py --config=configs/benchmark/ml.py
"""

from ml_collections import ConfigDict

from configs.benchmark import base
from configs.benchmark.base import BLEND, ONE_WEIGHTING, fields
from fedvlr_jax.benchmark.published import PAPER_HOSTS


def get_config() -> ConfigDict:
    """All methods on ML, two points each, judged by three of the five seeds; fewer rounds and epochs than on KU."""
    config = base.get_config()
    config.own = "fcf+attention,fcf+gfmfr,fedprior+base,fedprior+fedvlr,fedblend+base"
    config.controls = "shuffled features, random features"
    config.search_seeds = 3
    config.baseline_points = 2
    config.baseline_points_of = {"bpr_mf": 0, "vbpr": 0}  # cheap, and two points leave out every good one
    config.epochs = 40
    config.epochs_every = 8
    config.epochs_patience = 2
    config.changed["one weighting"] = ONE_WEIGHTING
    config.changed_of = ",".join(f"{host}+fedvlr" for host in PAPER_HOSTS)
    config.train.data.name = "ML"
    config.train.data.expect.users = 610
    config.train.data.expect.items = 3650
    config.train.data.expect.ratings = 90274
    config.train.rounds = 60
    config.train.eval.every = 10
    config.train.eval.patience = 2
    # A round over all clients costs too much here; with 100 of them, these two still gain after 60 rounds.
    few = {"objective": "bce", "client__steps": 1, "client__negatives": 2, "server__clients_per_round": 100}
    longer = {"rounds": 100, "eval__every": 20}
    config.settings = {
        "*": fields(client__lr=2.0, client__l2=0.03, client__steps=2),
        "fedncf+*": fields(**few, **longer),
        "fedrap+*": fields(**few, **longer),
        "local-only": fields(**few),
        "fedprior+*": fields(server__l2=0.001, host__choose_prior=True),
        "fedblend+*": BLEND,
        "*+gfmfr": fields(server__l2=0.001),
    }
    config.grid = {
        "*+*": fields(server__l2=(0.0003, 0.001)),
        "*+gfmfr": fields(fusion__distil=(0.01, 0.1)),
        "fedncf+*": fields(server__lr=(0.01, 0.03)),
        "fedrap+*": fields(server__lr=(0.01, 0.03)),
        "fedprior+*": fields(host__model_weight=(0.1, 0.3)),
        "fedblend+*": fields(host__deviation=(0.0, 0.01)),
        "local-only": fields(host__table_lr=(0.1, 1.0)),
    }
    return config.lock()
