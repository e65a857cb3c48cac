"""Every setting and its default. A configuration file starts from these and changes a few.

The fields, with their meaning, unit, range and source, are in docs/settings.md and in ``--help``; they come from one
table, fedvlr_jax/settings/table.py, and a host's own ones from its row of ``HOSTS``. Any field can be set on the
command line: ``python experiments/train.py --config=configs/ku.py --config.host.name=fedrap --config.rounds=100``.
"""

from ml_collections import ConfigDict

from fedvlr_jax.settings import default_settings


def get_config() -> ConfigDict:
    """The default configuration, locked: fields that do not exist here are refused."""
    return ConfigDict(default_settings()).lock()
