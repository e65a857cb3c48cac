"""The embedded synthetic set: no files needed, planted modality preferences to recover.

python experiments/train.py --config=configs/quickstart.py
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """FCF + FedVLR on synthetic data of the size of KU."""
    config = base.get_config()
    config.data.name = "synthetic"
    return config
