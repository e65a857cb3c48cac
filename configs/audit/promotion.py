"""Promoters of unpopular items on KU, against every aggregator.

python experiments/audit.py --config=configs/audit/promotion.py
"""

from ml_collections import ConfigDict

from configs import ku


def get_config(method: str = "fcf+base") -> ConfigDict:
    """FCF with KU's settings for it, a hundred rounds, five targets."""
    config = ku.get_config(method)
    with config.unlocked():
        config.audit = ConfigDict()
        config.audit.kind = "promotion"
        config.audit.aggregators = ""  # comma list; empty = all
        config.audit.attackers = "twins,noisy,divided,quiet,fans"  # what promoters know of the server's defence
        config.audit.seeds = (0,)
        config.audit.promoters = (0.0, 0.01, 0.05, 0.1)  # clients beside the honest ones, as shares of these
        config.audit.train_rounds = 100
        config.audit.every = 10  # rounds between two looks; the best one on validation items counts
        config.audit.targets = 5  # the least popular items that anybody has
        config.audit.popular = 20  # the most popular ones, which targets shall be like
    return config
