"""Segment files: the records of some clients, written once and never changed (the file format of `store.py`).

    header   72 bytes, little-endian: magic, version, record size, count, sequence number, digest of the layout,
             CRC-32 of ids and records, CRC-32 of the header so far
    ids      int64 [count], ascending
    records  uint8 [count, record size], in the order of the ids

A segment is written under a temporary name, synced, renamed, and the folder synced; whatever bears the name of a
segment is complete.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from fedvlr_jax.client_store.record import Layout
from fedvlr_jax.errors import CheckpointError

CHUNK_BYTES = 8 << 20  # read, written or rewritten at a time
_MAGIC, _VERSION = b"FVLRSEG\0", 1
_HEADER = struct.Struct("<8sIIQQ32sI")
_FIELDS = ("magic", "version", "bytes per record", "count", "sequence number", "digest of the layout", "checksum")
_CRC = struct.Struct("<I")
_HEADER_BYTES = _HEADER.size + _CRC.size
_ID_BYTES = 8
_NAME = re.compile(r"\.?segment-(\d{10})\.bin(\.tmp)?")


class Segment(NamedTuple):
    """What a manifest records of one segment.

    Attributes:
      name: name of its file.
      count: number of records.
      bytes: size of the file.
      checksum: CRC-32 of its ids and records.
    """

    name: str
    count: int
    bytes: int
    checksum: int


def write_segment(
    folder: pathlib.Path, sequence: int, layout: Layout, ids: np.ndarray, chunks: Iterable[np.ndarray]
) -> Segment:
    """Write one segment durably; memory holds one chunk at a time.

    Args:
      folder: where segments are stored.
      sequence: number of the segment, not used before by a segment of any manifest.
      layout: of the records.
      ids: int64 [n], ascending.
      chunks: the records in the order of `ids`, in chunks uint8 [m, layout.record_bytes], contiguous.

    Raises:
      CheckpointError: if it cannot be written (a full disk, for example); nothing half-written remains.
    """
    name = f"segment-{sequence:010d}.bin"
    temporary = folder / f".{name}.tmp"
    try:
        with temporary.open("wb") as file:
            file.write(bytes(_HEADER_BYTES))
            checksum = 0
            for chunk in itertools.chain([ids], chunks):
                file.write(chunk.data)
                checksum = zlib.crc32(chunk.data, checksum)
            size = file.tell()
            file.seek(0)
            file.write(_pack_header(layout, len(ids), sequence, checksum))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, folder / name)
        sync_folder(folder)
    except OSError as error:
        raise CheckpointError(
            f"expected room for {len(ids)} client states of {layout.record_bytes} bytes in {folder / name}, "
            f"found: {error.strerror}; earlier checkpoints are intact"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return Segment(name, len(ids), size, checksum)


def read_ids(folder: pathlib.Path, segment: Segment, layout: Layout, *, verify: bool) -> np.ndarray:
    """The clients of a segment, int64 [count], ascending.

    Args:
      verify: read the whole file and compare its checksum; else only its size and header are checked.

    Raises:
      CheckpointError: if the file is missing, truncated, damaged, of another layout, or not the one meant.
    """
    path = folder / segment.name
    with _reading(path), path.open("rb") as file:
        _require(path, "bytes", segment.bytes, os.fstat(file.fileno()).st_size)
        _require_header(path, segment, layout, file.read(_HEADER_BYTES))
        if verify:
            _require(path, "checksum", segment.checksum, _checksum(file))
            file.seek(_HEADER_BYTES)
        return np.frombuffer(file.read(segment.count * _ID_BYTES), "<i8")


def read_records(
    folder: pathlib.Path, segment: Segment, rows: np.ndarray, out: np.ndarray, slots: np.ndarray
) -> None:
    """Copy records `rows` int [m] of a segment to rows `slots` int [m] of `out` (uint8 [s, record size]).

    One positioned read per record, about 3 microseconds while the file is cached. A memory map takes a third of
    that, but keeps what it read resident, and ends the process where the file is damaged.

    Raises:
      CheckpointError: if the file is missing or too short.
    """
    path, size = folder / segment.name, out.shape[1]
    first, target = _HEADER_BYTES + segment.count * _ID_BYTES, memoryview(out.reshape(-1))
    with _reading(path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            for row, slot in zip(rows.tolist(), slots.tolist(), strict=True):
                record = target[slot * size : (slot + 1) * size]
                found = os.preadv(descriptor, [record], first + row * size)
                if found != size:
                    _require(path, f"bytes of record {row}", size, found)
        finally:
            os.close(descriptor)


def sequence_numbers(folder: pathlib.Path) -> dict[str, int]:
    """The sequence number of every segment in a folder, finished or not, by the name of its file."""
    matches = ((entry.name, _NAME.fullmatch(entry.name)) for entry in folder.iterdir())
    return {name: int(match[1]) for name, match in matches if match}


def sync_folder(folder: pathlib.Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def segments_of(manifest: Mapping[str, Any]) -> list[Segment]:
    """The segments of a manifest, oldest first."""
    return [Segment(**entry) for entry in manifest["segments"]]


def _pack_header(layout: Layout, count: int, sequence: int, checksum: int) -> bytes:
    fields = (_MAGIC, _VERSION, layout.record_bytes, count, sequence, layout.digest(), checksum)
    header = _HEADER.pack(*fields)
    return header + _CRC.pack(zlib.crc32(header))


def _require_header(path: pathlib.Path, segment: Segment, layout: Layout, found: bytes) -> None:
    """Refuse a header that is not exactly the one which `segment` and `layout` call for."""
    (sequence,) = re.findall(r"\d+", segment.name)
    expected = _pack_header(layout, segment.count, int(sequence), segment.checksum)
    if len(found) == len(expected) and found[-_CRC.size :] == _CRC.pack(zlib.crc32(found[: _HEADER.size])):
        pairs = zip(_HEADER.unpack_from(expected), _HEADER.unpack_from(found), _FIELDS, strict=True)
        for expected_field, found_field, name in pairs:
            _require(path, name, expected_field, found_field, problem="is not the segment meant")
    _require(path, "header", expected.hex(), found.hex())


def _checksum(file: BinaryIO) -> int:
    """CRC-32 of the rest of a file."""
    chunks: Iterator[bytes] = iter(lambda: file.read(CHUNK_BYTES), b"")
    checksum = 0
    for chunk in chunks:
        checksum = zlib.crc32(chunk, checksum)
    return checksum


def _require(path: pathlib.Path, what: str, expected: Any, found: Any, *, problem: str = "is damaged") -> None:
    if expected != found:
        raise CheckpointError(f"{path} {problem}: expected {what} {expected}, found {found}")


@contextlib.contextmanager
def _reading(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"expected client states in {path}, found: {error.strerror}") from error
