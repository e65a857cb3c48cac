"""MovieLens: ml-latest-small, ml-1m, ml-100k and the other releases of GroupLens.

python experiments/prepare.py --config=configs/prepare/movielens.py --raw=ml-latest-small --out=data/ML
"""

from ml_collections import ConfigDict

from configs.prepare import base


def get_config() -> ConfigDict:
    """The paper's filters and split on MovieLens."""
    return base.get_config("movielens")
