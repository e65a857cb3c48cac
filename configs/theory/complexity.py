"""The check of the complexity analysis (docs/theory.md): parameters, messages, and a round while one size grows.

python experiments/check_complexity.py --config=configs/theory/complexity.py [--config.measure=False]
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """FCF + FedVLR with bce as in the paper; the clients touch rows, not the whole catalogue."""
    config = base.get_config()
    config.unlock()
    config.objective = "bce"
    config.measure = True  # False: parameters and messages only, in seconds
    config.compute.path = "uploads"

    config.growth = ConfigDict()
    config.growth.operator = "gate"  # every one of the |G| operators is of this kind, so that each costs the same
    config.growth.length = 16  # train rows of every client
    config.growth.features = 64  # width of the raw features
    config.growth.repeats = 7  # timed repeats of every point; intervals are over them
    config.growth.base = ConfigDict({"G": 3, "I": 2048, "d": 64, "n_s": 64, "A": 4, "U": 256})
    config.growth.grow = ConfigDict()  # each size alone, from the base
    config.growth.grow.G = (2, 4, 8)
    config.growth.grow.I = (1024, 2048, 4096)
    config.growth.grow.d = (32, 64, 128)
    config.growth.grow.n_s = (32, 64, 128)
    config.growth.grow.A = (1, 2, 4, 8)
    config.growth.grow.U = (256, 512, 1024)
    return config.lock()
