"""Lower bounds on the epsilon of one round, measured with canaries on a problem of eight clients.

python experiments/audit.py --config=configs/audit/canaries.py
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Three noise multipliers, 10,000 rounds each with the canary and without it."""
    config = base.get_config()
    with config.unlocked():
        config.audit = ConfigDict()
        config.audit.kind = "canaries"
        config.audit.noise_multipliers = (0.6, 1.0, 2.0)
        config.audit.delta = 1e-5
        config.audit.trials = 10_000
        config.audit.confidence = 0.99  # of each bound, and of the test of each variance
        config.audit.seed = 0
    return config
