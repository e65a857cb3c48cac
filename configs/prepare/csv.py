"""Any text table: name its columns, separator and encoding.

python experiments/prepare.py --config=configs/prepare/csv.py --raw=raw/mine --out=data/mine
"""

from ml_collections import ConfigDict

from configs.prepare import base


def get_config() -> ConfigDict:
    """The paper's filters and split on a table."""
    return base.get_config("csv")
