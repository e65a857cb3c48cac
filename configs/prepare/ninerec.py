"""NineRec: one of its sets: pairs and titles.

python experiments/prepare.py --config=configs/prepare/ninerec.py --raw=raw/KU --out=data/KU
"""

from ml_collections import ConfigDict

from configs.prepare import base


def get_config() -> ConfigDict:
    """The paper's filters and split on NineRec."""
    return base.get_config("ninerec")
