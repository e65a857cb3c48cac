"""A trained model as safetensors: a file of public parameters, and a file for every client with its private ones."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from fedvlr_jax.data.ids import ids_or_numbers
from fedvlr_jax.data.whole_folder import whole_folder
from fedvlr_jax.deploy.export import flat
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.extras import require_extra
from fedvlr_jax.io.files import write_csv
from fedvlr_jax.types import Bucket, Dataset, FedState, PyTree

PUBLIC, CLIENTS, USERS = "public.safetensors", "clients", "users.csv"


def export_tensors(
    folder: pathlib.Path, parts: Iterable[tuple[FedState, Bucket]], dataset: Dataset, about: Mapping[str, Any]
) -> int:
    """Writes ``public.safetensors``, ``clients/<number>.safetensors``, and ``users.csv`` with the id of every number.

    Optimizer states are not written. Names are paths in the model, such as "variant/D" [i, d].

    Args:
      folder: is made; must not exist, or be empty.
      parts: the state and all clients, some at a time (`training.backend.Backend.parts`).
      dataset: whose users have ids.
      about: of the model, for the metadata of ``public.safetensors``.

    Returns:
      The number of clients.

    Raises:
      ConfigError: the extra ``features`` is not installed, or the folder has content or cannot be written.
    """
    with require_extra("features", "exporting safetensors"):
        from safetensors.numpy import save_file
    ids = ids_or_numbers(dataset.user_ids, dataset.num_users).tolist()
    count = 0
    try:
        with whole_folder(folder) as made:
            (made / CLIENTS).mkdir()
            for state, bucket in parts:
                if not (made / PUBLIC).exists():
                    save_file(_arrays(state.public.params), made / PUBLIC, {k: str(v) for k, v in about.items()})
                private = _arrays(state.private.params)
                for user, row in zip(np.asarray(bucket.user), np.asarray(bucket.state_row), strict=True):
                    if user < dataset.num_users:
                        own = {name: np.array(x[row], order="C") for name, x in private.items()}
                        save_file(own, made / CLIENTS / f"{user}.safetensors", {"user": str(ids[user])})
                        count += 1
            write_csv(made / USERS, ("number", "id"), list(enumerate(ids)))
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"--out={folder}: expected a free folder that can be written, found {reason}") from error
    return count


def _arrays(params: PyTree) -> dict[str, np.ndarray]:
    """All arrays by name, in CPU memory."""
    return {name: np.asarray(jax.device_get(leaf), order="C") for name, leaf in flat(params).items()}
