"""Random points of rates, regularisation, operators and the width of a model.

python experiments/sweep.py --config=configs/ku.py --sweep=configs/sweeps/random.py --shard=1/2   # 2/2 elsewhere
"""

from ml_collections import ConfigDict

from configs.sweeps import base


def get_sweep() -> ConfigDict:
    """Sixteen draws; the operators and the width keep programs apart, everything else is an argument of them."""
    sweep = base.get_sweep()
    sweep.kind = "random"
    sweep.samples = 16
    sweep.fields = {
        "server.lr": {"low": 0.001, "high": 0.1, "log": True},
        "client.lr": {"low": 0.3, "high": 5.0, "log": True},
        "server.l2": [0.0, 0.0003, 0.001, 0.003],
        "client.holdout": {"low": 0.2, "high": 0.8},
        "fusion.operators": ["sum,mlp,gate", "sum,attention"],
        "fusion.dim": [32, 64],
    }
    return sweep.lock()
