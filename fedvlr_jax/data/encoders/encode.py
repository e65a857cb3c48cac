"""One image file, or one title, of every item to one row of features."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np

from fedvlr_jax.data.encoders.blocks import Cache, Encoded, Plan, Progress, encode_all
from fedvlr_jax.data.encoders.images import Pixels, read_pixels, refuse_huge_images
from fedvlr_jax.data.encoders.ordered import ordered_map
from fedvlr_jax.data.encoders.towers import ImageTower, TextTower
from fedvlr_jax.errors import ConfigError

BATCH = 32
Item = TypeVar("Item")


def encode_images(
    paths: Sequence[pathlib.Path | None],
    tower: ImageTower,
    *,
    batch: int | None = None,
    workers: int | None = None,
    cache: Cache | None = None,
    on_progress: Callable[[Progress], object] = lambda progress: None,
) -> Encoded:
    """The features of one image file for every item; images are read in threads, at most two batches ahead.

    Args:
      paths: a file for each item, None where there is none.
      tower: see `towers.load_image_tower`.
      batch: images at a time; it changes no feature by more than rounding.
      workers: threads that read; None takes the number of processors.
      cache: keeps finished blocks; their keys have the tower's checksum and name, size and time of each file.
      on_progress: called after every batch; what it raises ends the run, finished blocks stay.

    Raises:
      DataError: no items, or features that are not finite.
      ConfigError: a batch that the tower does not take.
    """
    batch = _batch(batch, tower.batch)
    read = partial(read_pixels, preprocessing=tower.preprocessing)
    stream = partial(ordered_map, read, workers=workers or os.cpu_count() or 1, ahead=2 * batch)
    side = tower.preprocessing.side

    def encode(group: Sequence[Pixels]) -> tuple[np.ndarray, list[str]]:
        pixels_b3rr = np.zeros((batch, 3, side, side), np.float32)
        for k, pixels in enumerate(group):
            pixels_b3rr[k] = 0 if pixels.pixels is None else pixels.pixels
        return np.asarray(tower.encode(pixels_b3rr)), [pixels.reason for pixels in group]

    plan = _image_plan(paths, tower, batch)
    with refuse_huge_images():
        return encode_all(paths, plan, stream, encode, cache, on_progress)


def encode_texts(
    titles: Sequence[str],
    tower: TextTower,
    *,
    batch: int | None = None,
    cache: Cache | None = None,
    on_progress: Callable[[Progress], object] = lambda progress: None,
) -> Encoded:
    """The features of one title for every item; a placeholder for an empty one is the caller's.

    A title is absent only if it has no token, which with CLIP, where start and end count, does not happen.

    Args:
      titles: of the items.
      tower: see `towers.load_text_tower`.
      batch, cache, on_progress: as `encode_images`; keys have the titles themselves.

    Raises:
      DataError, ConfigError: as `encode_images`.
    """
    batch = _batch(batch, tower.batch)

    def encode(group: Sequence[str]) -> tuple[np.ndarray, list[str]]:
        tokens = tower.tokenize([*group, *[""] * (batch - len(group))])
        reasons = ["" if count else "no token" for count in tokens.mask.sum(axis=1)[: len(group)]]
        return np.asarray(tower.encode(tokens)), reasons

    return encode_all(titles, _text_plan(titles, tower, batch), _each, encode, cache, on_progress)


def seal_images(paths: Sequence[pathlib.Path | None], tower: ImageTower) -> str:
    """A key of everything that the features of these images depend on; files are known by name, size and time."""
    return _image_plan(paths, tower, BATCH).key(range(len(paths)))


def seal_texts(titles: Sequence[str], tower: TextTower) -> str:
    """A key of everything that the features of these titles depend on."""
    return _text_plan(titles, tower, BATCH).key(range(len(titles)))


def _image_plan(paths: Sequence[pathlib.Path | None], tower: ImageTower, batch: int) -> Plan:
    return Plan(tower.checksum, [_file_identity(path) for path in paths], batch)


def _text_plan(titles: Sequence[str], tower: TextTower, batch: int) -> Plan:
    return Plan(tower.checksum, list(titles), batch)


def _each(items: Iterable[Item]) -> Generator[Item, None, None]:
    yield from items


def _batch(asked: int | None, only: int | None) -> int:
    if asked is not None and asked < 1:
        raise ConfigError(f"batch: expected at least 1, found {asked}")
    if only is not None and asked not in (None, only):
        raise ConfigError(f"batch: expected {only}, the only one that this model takes, found {asked}")
    return asked or only or BATCH


def _file_identity(path: pathlib.Path | None) -> str:
    """Changes when the file does."""
    try:
        stat = path and path.stat()
    except OSError:
        stat = None
    return f"{path.name} {stat.st_size} {stat.st_mtime_ns}" if path and stat else ""
