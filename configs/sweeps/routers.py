"""FedVLR's router and its alternatives, three seeds: docs/routers.md has what came out.

python experiments/sweep.py --config=configs/ku.py:fcf+fedvlr --sweep=configs/sweeps/routers.py
"""

from ml_collections import ConfigDict

from configs.sweeps import base


def get_sweep() -> ConfigDict:
    """Every router, with a view of D alone among the views."""
    sweep = base.get_sweep()
    routers = ["mlp", "bias", "uniform", "common", "shared", "shared_bias", "shared_low_rank"]
    sweep.fields = {
        "fusion.operators": ["id,sum,mlp,gate"],
        "fusion.router": [*routers, "statistics", "statistics_bias"],
    }
    sweep.seeds = (0, 1, 2)
    return sweep.lock()
