"""Checkpoints on disk: safetensors are read, torch's own files are refused with the line that converts them."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax.data.messages import problem
from fedvlr_jax.extras import require_extra

TORCH = (".pt", ".pth", ".bin", ".ckpt")
SUFFIXES = (".safetensors", ".onnx")
CONVERT = (
    'python -c "import torch, safetensors.torch as s; w = torch.load({old!r}, map_location={cpu!r}); '
    "w = w.state_dict() if hasattr(w, {method!r}) else w.get({method!r}, w); "
    's.save_file({{k.removeprefix({module!r}): v.contiguous() for k, v in w.items()}}, {new!r})"'
)


class Weights(NamedTuple):
    """The tensors of a checkpoint by name; float16 and bfloat16 are read as float32."""

    file: pathlib.Path
    tensors: Mapping[str, np.ndarray]


def find_weights(path: pathlib.Path) -> pathlib.Path:
    """The file of weights that `path` means: itself, or the only one in the folder.

    Raises:
      DataError: nothing there, several files in a folder, or a format that is not read.
    """
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
        if len(found) > 1:
            names = ", ".join(file.name for file in found)
            raise problem(path, "one file of weights, or the name of one of several", names)
        path = found[0] if found else next((file for file in path.iterdir() if file.suffix in TORCH), path)
    if path.suffix in TORCH:
        raise problem(path, "safetensors or ONNX", f"a torch checkpoint; where torch is installed: {_convert(path)}")
    if not path.is_file() or path.suffix not in SUFFIXES:
        raise problem(path, f"weights ({' or '.join(SUFFIXES)})", "another format" if path.is_file() else "none")
    return path


def read_weights(file: pathlib.Path) -> Weights:
    """All tensors of a safetensors file.

    Raises:
      DataError: a file that is damaged.
      ConfigError: the extra ``features`` is not installed.
    """
    with require_extra("features", f"{file.name}"):
        import safetensors
        import safetensors.numpy
    try:
        tensors = safetensors.numpy.load_file(file)
    except (safetensors.SafetensorError, OSError) as error:
        raise problem(file, "a safetensors file", str(error)) from error
    return Weights(file, {name: _plain(np.asarray(value)) for name, value in tensors.items()})


def read_json_beside(file: pathlib.Path, name: str) -> dict[str, Any] | None:
    """A JSON file in the folder of the weights, or None if there is no such file.

    Raises:
      DataError: not a JSON object.
    """
    place = file.with_name(name)
    if not place.is_file():
        return None
    try:
        content = json.loads(place.read_text(encoding="utf-8"))
    except ValueError as error:
        raise problem(place, "JSON", str(error)) from error
    if not isinstance(content, dict):
        raise problem(place, "a JSON object", type(content).__name__)
    return content


def checksum(*files: pathlib.Path, also: object = None) -> str:
    """SHA-256 over the bytes of files and the text of `also`."""
    digest = hashlib.sha256(repr(also).encode())
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _plain(tensor: np.ndarray) -> np.ndarray:
    return tensor if tensor.dtype.kind in "iub" else tensor.astype(np.float32)


def _convert(path: pathlib.Path) -> str:
    new = str(path.with_suffix(".safetensors"))
    return CONVERT.format(old=str(path), new=new, cpu="cpu", method="state_dict", module="module.")
