"""MicroLens: pairs and titles.

python experiments/prepare.py --config=configs/prepare/microlens.py --raw=raw/MicroLens-100k --out=data/MicroLens
"""

from ml_collections import ConfigDict

from configs.prepare import base


def get_config() -> ConfigDict:
    """The paper's filters and split on MicroLens."""
    return base.get_config("microlens")
