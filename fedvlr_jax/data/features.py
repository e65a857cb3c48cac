"""Reading item features: one ``.npy`` file per modality, row = itemID."""

from __future__ import annotations

import pathlib
import warnings

import numpy as np

from fedvlr_jax.data.messages import DataWarning, problem

EQUAL = 1e-6  # unit rows that are nowhere further apart differ by rounding alone


def read_features(file: pathlib.Path) -> np.ndarray:
    """The rows of a feature file at unit norm, float32 [i, d]; features that tell no items apart are a `DataWarning`.

    Raises:
      DataError: no array file, a dtype other than float16, float32 or float64, not two dimensions, or a row with
        NaN, infinity or only zeros.
    """
    try:
        with open(file, "rb") as stream:
            raw = np.lib.format.read_array(stream, allow_pickle=False)
    except OSError as error:
        raise problem(file, "a readable file", error.strerror or str(error)) from error
    except (ValueError, EOFError, MemoryError) as error:
        raise problem(
            file, "a NumPy array file (.npy) of floats", (str(error) or "a broken header").splitlines()[0]
        ) from error
    if raw.dtype.kind != "f" or raw.dtype.itemsize not in (2, 4, 8):
        raise problem(file, "dtype float16, float32 or float64", str(raw.dtype))
    if raw.ndim != 2 or 0 in raw.shape:
        raise problem(file, "an array [items, dimensions] of at least one each", f"shape {raw.shape}")
    features = raw.astype(np.float64)
    _check_rows(file, features)
    features = unit_rows(features)
    _warn_of_poor_features(file, features)
    return features


def unit_rows(features: np.ndarray) -> np.ndarray:
    """Rows [i, d] scaled to unit Euclidean norm, float32; no row may be zero."""
    features = features / np.max(np.abs(features), axis=1, keepdims=True)  # squares neither overflow nor vanish
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)


def _check_rows(file: pathlib.Path, features: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if bad.size:
        values = features[bad[0]]
        value = values[~np.isfinite(values)][0]
        raise problem(file, "finite features", f"{value} ({bad.size} such rows)", row=int(bad[0]) + 1)
    zero = np.flatnonzero(~features.any(axis=1))
    if zero.size:
        raise problem(file, "features of non-zero norm", f"only zeros ({zero.size} such rows)", row=int(zero[0]) + 1)


def _warn_of_poor_features(file: pathlib.Path, features: np.ndarray) -> None:
    """Unit rows that are all one, or of one column, which the norm leaves nothing but a sign."""
    if features.shape[1] == 1:
        found = "a single column, of which the unit norm leaves nothing but the sign"
    elif len(features) > 1 and np.ptp(features, axis=0).max() <= EQUAL:
        found = "the same row for all items"
    else:
        return
    warnings.warn(f"{file}: expected features that tell items apart, found {found}", DataWarning, stacklevel=2)
