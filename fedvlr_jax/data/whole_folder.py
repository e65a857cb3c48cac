"""Folders that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def whole_folder(out: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder to fill, which is called `out` when the block ends well, and deleted otherwise.

    Args:
      out: does not exist, or is an empty folder.

    Raises:
      OSError: the disk is full, `out` has content, or its parent cannot be written.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    made = pathlib.Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-preparing-"))
    try:
        yield made
        made.chmod(0o755)
        os.rename(made, out)
    finally:
        shutil.rmtree(made, ignore_errors=True)
