"""Amazon 2014: one category: ratings, metadata, image features.

python experiments/prepare.py --config=configs/prepare/amazon2014.py --raw=raw/Baby --out=data/Baby
"""

from ml_collections import ConfigDict

from configs.prepare import base


def get_config() -> ConfigDict:
    """The paper's filters and split on Amazon 2014."""
    return base.get_config("amazon2014")
