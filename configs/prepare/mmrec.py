"""MMRec: interactions and features; its own split is --config.split.by=labels.

python experiments/prepare.py --config=configs/prepare/mmrec.py --raw=raw/baby --out=data/Baby
"""

from ml_collections import ConfigDict

from configs.prepare import base


def get_config() -> ConfigDict:
    """The paper's filters and split on MMRec."""
    return base.get_config("mmrec")
