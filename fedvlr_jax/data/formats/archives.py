"""Downloads as they come: a folder of raw files may be in one .zip or .tar archive."""

from __future__ import annotations

import contextlib
import lzma
import pathlib
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator

from fedvlr_jax.data.messages import problem

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

# zipfile raises RuntimeError for a password, and its NotImplementedError for a method that it lacks.
FAULTS = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
)


def is_archive(name: str) -> bool:
    """Whether a file is called like an archive of several files."""
    return name.lower().endswith(ENDINGS)


@contextlib.contextmanager
def unpacked(raw: pathlib.Path, room: pathlib.Path) -> Iterator[pathlib.Path]:
    """The folder with the raw files: `raw` itself, or for an archive a copy that is deleted afterwards.

    Args:
      raw: a folder, or an archive.
      room: the folder where the copy is made; it is made too where there is none.

    Raises:
      DataError: a damaged archive, one with a password or a compression that Python lacks, one with names that lead
        out of it, or a full disk.
    """
    if not (raw.is_file() and is_archive(raw.name)):
        yield raw
        return
    room.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{raw.name}-", dir=room) as name:
        try:
            if raw.suffix.lower() == ".zip":
                shutil.unpack_archive(raw, name)
            else:
                shutil.unpack_archive(raw, name, filter="data")
        except FAULTS as error:
            raise problem(raw, "an archive that can be unpacked", str(error)) from error
        yield _innermost(pathlib.Path(name))


def _innermost(folder: pathlib.Path) -> pathlib.Path:
    """The first folder that has more than one other folder in it; what macOS adds does not count."""
    while True:
        inside = [path for path in folder.iterdir() if path.name not in ("__MACOSX", ".DS_Store")]
        if len(inside) != 1 or not inside[0].is_dir():
            return folder
        folder = inside[0]
