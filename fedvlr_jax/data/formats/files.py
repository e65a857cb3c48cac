"""Finding the files of a raw folder, and their checksums."""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Iterable, Sequence

from fedvlr_jax.data.formats.archives import is_archive
from fedvlr_jax.data.messages import problem
from fedvlr_jax.errors import DataError

COMPRESSED = ("", ".gz", ".bz2", ".zst", ".lz4")
"""Endings that the readers look through."""


def find(folder: pathlib.Path, *patterns: str) -> list[pathlib.Path]:
    """The files of a folder that match one of the patterns, compressed or not, in the order of their names.

    Raises:
      DataError: a path that does not begin in the folder, or what is no pattern.
    """
    try:
        found = {file for pattern in patterns for end in COMPRESSED for file in folder.glob(pattern + end)}
    except (NotImplementedError, ValueError) as error:
        raise problem(folder, "names of files below the raw folder, or patterns", " and ".join(patterns)) from error
    return sorted(file for file in found if file.is_file())


def find_one(folder: pathlib.Path, *patterns: str, option: str = "") -> pathlib.Path:
    """The only file that matches one of the patterns.

    Args:
      folder: the raw folder.
      patterns: as of `pathlib.Path.glob`.
      option: the setting that names a file where several match.

    Raises:
      DataError: no such folder, no such file, or several of them.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder}: expected a folder with raw files, found {'a file' if folder.exists() else 'none'}"
        )
    found, expected = find(folder, *patterns), " or ".join(patterns)
    if not found:
        names = sorted(path.name for path in folder.iterdir())
        archive = next((f"; give an archive itself, --raw={folder / name}" for name in names if is_archive(name)), "")
        raise problem(
            folder,
            f"a file {expected} (also compressed: {' '.join(COMPRESSED[1:])})",
            (", ".join(names[:8]) or "none") + archive,
        )
    if len(found) > 1:
        choice = f"; choose with --config.read.{option}" if option else ""
        raise problem(folder, f"one file {expected}", f"{', '.join(file.name for file in found)}{choice}")
    return found[0]


def find_optional(folder: pathlib.Path, named: str, *patterns: str) -> pathlib.Path | None:
    """The file that an option names, which must exist, else the one that matches a pattern, else None."""
    if named:
        return find_one(folder, named)
    return find_one(folder, *patterns) if find(folder, *patterns) else None


def checksums(files: Iterable[pathlib.Path], folder: pathlib.Path) -> dict[str, str]:
    """SHA-256 of files by their path relative to `folder`."""
    return {file.relative_to(folder).as_posix(): _sha256(file) for file in sorted(set(files))}


def _sha256(file: pathlib.Path) -> str:
    try:
        with open(file, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise problem(file, "a readable file", error.strerror or str(error)) from error


def present(files: Sequence[pathlib.Path | None]) -> tuple[pathlib.Path, ...]:
    """The files that are not None."""
    return tuple(file for file in files if file is not None)
