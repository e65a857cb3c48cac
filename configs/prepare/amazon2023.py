"""Amazon Reviews 2023: one category: reviews as csv or JSON lines, with its metadata.

python experiments/prepare.py --config=configs/prepare/amazon2023.py --raw=raw/Gift_Cards --out=data/Cards
"""

from ml_collections import ConfigDict

from configs.prepare import base


def get_config() -> ConfigDict:
    """The paper's filters and split on Amazon Reviews 2023."""
    return base.get_config("amazon2023")
