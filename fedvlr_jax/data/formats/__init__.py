"""Readers of raw data sets, one file a format, one table of them.

To add a format, write a module with a `FORMAT` and give it a row here; a configuration in configs/prepare/ makes it a
command. A reader takes ids as text and leaves every choice about rows to fedvlr_jax/data/prepare/.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

from fedvlr_jax.data.formats import (
    amazon2014,
    amazon2023,
    csv,
    microlens,
    mmrec,
    movielens,
    ninerec,
    recbole,
)
from fedvlr_jax.data.formats.raw import Coded, Format, RawData, Times
from fedvlr_jax.errors import choose
from fedvlr_jax.extras import require_extra

__all__ = ["FORMATS", "Coded", "Format", "RawData", "Times", "read_raw"]

FORMATS: dict[str, Format] = {
    "movielens": movielens.FORMAT,
    "amazon2023": amazon2023.FORMAT,
    "amazon2014": amazon2014.FORMAT,
    "ninerec": ninerec.FORMAT,
    "microlens": microlens.FORMAT,
    "mmrec": mmrec.FORMAT,
    "recbole": recbole.FORMAT,
    "csv": csv.FORMAT,
}


def read_raw(format_: str, folder: pathlib.Path, options: Mapping[str, str]) -> RawData:
    """The raw data of a folder.

    Args:
      format_: a row of `FORMATS`.
      folder: has the raw files.
      options: a value for each option of the format.

    Raises:
      ConfigError: an unknown format, or the extra ``prepare`` is not installed.
      DataError: a file that breaks a rule.
    """
    with require_extra("prepare", "reading raw files"):
        import pyarrow  # noqa: F401
    return choose(FORMATS, "format", format_).read(folder, options)
