"""FedVLR with all modalities and without each of them, three seeds: the runs of the paper's Figure 3 for one host.

python experiments/sweep.py --config=configs/ku.py:fcf+fedvlr --sweep=configs/sweeps/modalities.py --workdir=runs/w
python experiments/analyze.py --runs=runs/w --out=runs/w
"""

from ml_collections import ConfigDict

from configs.sweeps import base


def get_sweep() -> ConfigDict:
    """Four points, one program each."""
    sweep = base.get_sweep()
    sweep.fields = {"fusion.modalities": ["D,V,C", "V,C", "D,C", "D,V"]}
    sweep.seeds = (0, 1, 2)
    return sweep.lock()
