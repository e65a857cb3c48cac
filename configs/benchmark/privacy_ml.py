"""The benchmark of privacy_ku.py on ML.

python experiments/benchmark.py --config=configs/benchmark/privacy_ml.py
"""

from ml_collections import ConfigDict

from configs.benchmark import ml
from configs.benchmark.privacy_ku import private


def get_config() -> ConfigDict:
    """As on KU."""
    return private(ml.get_config())
