"""The benchmark on KU (204 users, 560 items, 3,484 distinct ratings): docs/reproduction.md has its table.

python experiments/benchmark.py --config=configs/benchmark/ku.py

Two cores, from scratch: under 45 minutes. The grids lie around points that a search over FCF's variants found on
validation NDCG@50 (three seeds; server.lr .003 to .03, server.l2 0 to .01, client.lr 1 to 5, client.l2 .001 to .05,
client.holdout .2 to .8).
"""

from ml_collections import ConfigDict

from configs.benchmark import base
from configs.benchmark.base import BLEND, ONE_WEIGHTING, fields
from fedvlr_jax.benchmark.published import PAPER_HOSTS


def get_config() -> ConfigDict:
    """All methods on KU, four points each, five seeds, three of which judge the points."""
    config = base.get_config()
    config.own = "fcf+attention,fcf+gfmfr,fedprior+base,fedprior+fedvlr,fedblend+base"
    config.changed["one weighting"] = ONE_WEIGHTING
    config.changed_of = ",".join(f"{host}+fedvlr" for host in PAPER_HOSTS)
    config.train.data.name = "KU"
    config.train.data.expect.users = 204
    config.train.data.expect.items = 560
    config.train.data.expect.ratings = 3488
    config.search_seeds = 3
    config.train.rounds = 100
    config.train.eval.patience = 6
    config.settings = {
        "*": fields(client__lr=2.0, client__l2=0.01),
        # These two read and write far more numbers a client; sampled negatives and one step keep a round cheap.
        "fedncf+*": fields(objective="bce", client__steps=1),
        "fedrap+*": fields(objective="bce", client__steps=1),
        "local-only": fields(objective="bce", client__steps=1),
        "fedprior+*": fields(server__lr=0.01, server__l2=0.001),
        "fedblend+*": BLEND,
        "*+gfmfr": fields(server__l2=0.001),
    }
    config.grid = {
        "*+*": fields(server__lr=(0.01, 0.03), server__l2=(0.0, 0.001)),
        "*+gfmfr": fields(server__lr=(0.01, 0.03), fusion__distil=(0.01, 0.1)),
        "fedprior+*": fields(host__model_weight=(0.003, 0.3), host__choose_prior=(False, True)),
        "fedblend+*": fields(host__deviation=(0.0, 0.01)),
        "local-only": fields(host__table_lr=(0.1, 1.0), client__l2=(0.01, 0.1)),
    }
    return config.lock()
