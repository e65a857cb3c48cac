"""Files of a workdir: written whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import pathlib
import platform
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, TextIO

import numpy as np

from fedvlr_jax.errors import CheckpointError, ConfigError

ROW_FORMATS = ("csv", "jsonl")


def prepare_workdir(workdir: pathlib.Path) -> pathlib.Path:
    """Create the folder and prove that it can be written.

    Returns:
      The absolute path.

    Raises:
      ConfigError: if the folder cannot be created or written, with the reason of the operating system; or if its
        name has characters that the locale cannot spell, which a checkpoint could not be written to.
    """
    workdir = workdir.resolve()
    try:
        str(workdir).encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"--workdir={workdir}: expected a name in UTF-8, see the locale (LC_ALL=C.UTF-8)"
        ) from error
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir):
            pass
    except OSError as error:
        raise ConfigError(
            f"--workdir={workdir} cannot be written ({error.strerror}); choose a folder that can, for example "
            "--workdir=runs/first"
        ) from error
    return workdir


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Replace `path` in one step, so that a reader (or a killed run) never sees half a file.

    Several processes may write one file at a time: each has a temporary of its own, and the last one stays.

    Raises:
      OSError: with the name of the file; nothing of it is left, and what was there before is whole.
    """
    temporary = path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_json(path: pathlib.Path, value: Any) -> None:
    """Write indented JSON in one step; numbers that JSON lacks (NaN, infinities) become null."""
    text = json.dumps(json_ready(value), indent=2, allow_nan=False)
    write_bytes(path, f"{text}\n".encode())


def read_json(path: pathlib.Path, kind: type = dict) -> Any | None:
    """The content of a JSON file, or None if there is no such file.

    Args:
      path: of the file.
      kind: what it holds, dict or list.

    Raises:
      ConfigError: a file that is cut short, empty, or holds something else.
    """
    if not path.is_file():
        return None
    content = path.read_bytes()
    try:
        value = json.loads(content)
        found = f"a {type(value).__name__}"
    except ValueError as error:
        value, found = None, str(error) if content.strip() else "an empty file"
    if not isinstance(value, kind):
        name = {dict: "object", list: "array"}[kind]
        raise ConfigError(
            f"{path}: expected a JSON {name}, found {found}; delete this file, or choose another --workdir"
        )
    return value


def read_content(path: pathlib.Path) -> bytes:
    """All bytes of a file.

    Raises:
      OSError: it is not there, or cannot be read.
    """
    return path.read_bytes()


@contextlib.contextmanager
def appended(path: pathlib.Path) -> Iterator[BinaryIO]:
    """A log that is open at its end, which processes that are started now go on writing to."""
    with path.open("ab") as file:
        yield file


def read_lines(path: pathlib.Path) -> list[str]:
    """The lines of a log that somebody may be writing; none where there is no such file."""
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []


def read_csv(path: pathlib.Path) -> list[dict[str, str]]:
    """The rows of a CSV file with a header line, as text by column."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_csv(path: pathlib.Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file in one step; floats in full precision, None as an empty field."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_bytes(path, buffer.getvalue().encode())


def write_rows(path: pathlib.Path, rows: np.ndarray, format: str) -> None:
    """Write a structured array in one step, one of `ROW_FORMATS`; ids that JSON lacks become text.

    Raises:
      ConfigError: an unknown format.
    """
    if format not in ROW_FORMATS:
        raise ConfigError(f"format: expected one of {', '.join(ROW_FORMATS)}, found {format!r}")
    names = rows.dtype.names or ()
    if format == "csv":
        write_csv(path, names, rows.tolist())
        return
    lines = (json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False, default=str) for row in rows.tolist())
    write_bytes(path, "".join(f"{line}\n" for line in lines).encode())


def write_arrays(path: pathlib.Path, arrays: Mapping[str, np.ndarray], *, compress: bool = True) -> None:
    """Write a ``.npz`` in one step; compressing takes longer than anything else."""
    buffer = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a ``.npz``, by name.

    Raises:
      CheckpointError: no such file, no such archive, or one that is cut short.
    """
    try:
        with path.open("rb") as file, np.load(file) as arrays:  # closed even if NumPy finds no archive in it
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise CheckpointError(
            f"{path}: expected an archive of arrays, found {error or 'an empty file'}; delete it"
        ) from error


def discard_output(stream: TextIO) -> None:
    """Send what is printed to a stream from now on, and at the end of the process, nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def json_ready(value: Any) -> Any:
    """The value in types that JSON has; non-finite floats become None, NumPy scalars Python numbers."""
    if isinstance(value, Mapping):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
