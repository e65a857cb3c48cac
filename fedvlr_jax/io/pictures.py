"""Pictures of items as parts of a page."""

from __future__ import annotations

import base64
import pathlib

TYPES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}
MOST_BYTES = 40_000  # of a picture that goes into a page


def picture_address(folder: pathlib.Path, item: str) -> str | None:
    """The picture ``<folder>/<item>.jpg`` (or another of `TYPES`) as an address that holds it whole.

    None where there is none, or where it has more than `MOST_BYTES`. An id with a path in it has no picture.
    """
    if pathlib.PurePath(item).name != item:
        return None
    for suffix, kind in TYPES.items():
        file = folder / f"{item}{suffix}"
        if file.is_file() and file.stat().st_size <= MOST_BYTES:
            return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
    return None
