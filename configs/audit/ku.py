"""The audit on KU.

python experiments/audit.py --config=configs/audit/ku.py
"""

from ml_collections import ConfigDict

from configs import ku
from configs.audit.base import audited


def get_config() -> ConfigDict:
    """All hosts with KU's settings."""
    return audited(ku.get_config())
