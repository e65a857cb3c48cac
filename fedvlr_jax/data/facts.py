"""What identifies a data set: the hashes of its content, and its sizes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from fedvlr_jax.types import Dataset


def fingerprint(dataset: Dataset) -> dict[str, Any]:
    """Sizes and SHA-256 sums of a data set, ready for JSON: equal exactly where ids, split and features are.

    Its name and what was dropped while reading do not count. An array that the set lacks is None.
    """
    arrays = ["train_user", "train_item", "valid_item", "test_item", "V", "C", "planted", "train_age"]
    arrays += [name for name in ("held_user", "missing_V", "missing_C") if getattr(dataset, name) is not None]
    return {
        "num_users": int(dataset.num_users),
        "num_items": int(dataset.num_items),
        "num_train": len(dataset.train_item),
        **{name: _digest(getattr(dataset, name)) for name in arrays},
        **({} if dataset.newcomers is None else {"newcomers": fingerprint(dataset.newcomers)}),
    }


def _digest(array: np.ndarray | None) -> str | None:
    """SHA-256 over dtype, shape and content; None for an absent array."""
    if array is None:
        return None
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
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
