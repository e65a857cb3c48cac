"""RecBole atomic files: its own split in three files is --config.split.by=labels.

python experiments/prepare.py --config=configs/prepare/recbole.py --raw=raw/ml-100k --out=data/ML100K
"""

from ml_collections import ConfigDict

from configs.prepare import base


def get_config() -> ConfigDict:
    """The paper's filters and split on RecBole atomic files."""
    return base.get_config("recbole")
