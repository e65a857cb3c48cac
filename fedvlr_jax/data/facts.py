"""What identifies a data set: the hash of its content, and its sizes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from fedvlr_jax.types import Dataset


def fingerprint(dataset: Dataset) -> str:
    """SHA-256 over sizes, ids, split and features; its name and what was dropped while reading do not count."""
    digest = hashlib.sha256(f"{dataset.num_users},{dataset.num_items}".encode())
    for name in ("train_user", "train_item", "valid_item", "test_item", "V", "C", "planted"):
        array = getattr(dataset, name)
        digest.update(f";{name}:".encode())
        if array is not None:
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def count_ratings(dataset: Dataset) -> int:
    """Distinct interactions over all splits."""
    held_out = (dataset.valid_item >= 0).sum() + (dataset.test_item >= 0).sum()
    return len(dataset.train_item) + int(held_out)


def check_sizes(dataset: Dataset, expected: Mapping[str, int | None] | None) -> list[str]:
    """One sentence for each size that differs from what is expected.

    Args:
      dataset: what was read.
      expected: any of `users`, `items` and `ratings`; 0, None and absent mean unknown.
    """
    found = {"users": dataset.num_users, "items": dataset.num_items, "ratings": count_ratings(dataset)}
    dropped = dataset.dropped_duplicates
    note = {"ratings": f" distinct ratings ({dropped} repeated rows were dropped)"} if dropped else {}
    return [
        f"{dataset.name}: expected {number} {name}, found {found[name]}{note.get(name, '')}"
        for name, number in (expected or {}).items()
        if number and number != found[name]
    ]
