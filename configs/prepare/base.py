"""The settings of a preparation: the paper's filters and split, for one format.

The fields are in fedvlr_jax/data/prepare/settings.py and in ``--help``; those under ``read`` are the format's own.
"""

from ml_collections import ConfigDict

from fedvlr_jax.data.prepare.settings import default_settings


def get_config(format_: str = "csv") -> ConfigDict:
    """The defaults of a format, locked: fields that do not exist here are refused."""
    return ConfigDict(default_settings(format_)).lock()
