"""Sixteen points of the two rates: one compiled program.

python experiments/sweep.py --config=configs/ku.py --sweep=configs/sweeps/rates.py
"""

from ml_collections import ConfigDict

from configs.sweeps import base


def get_sweep() -> ConfigDict:
    """A grid of the server's and the clients' rate, two seeds each."""
    sweep = base.get_sweep()
    sweep.fields = {"server.lr": [0.003, 0.01, 0.03, 0.1], "client.lr": [0.5, 1.0, 2.0, 4.0]}
    sweep.seeds = (0, 1)
    return sweep.lock()
