"""The parameters of a CLIP tower from the tensors of a checkpoint, each with its shape checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fedvlr_jax.data.encoders.names import SCHEMES, Names
from fedvlr_jax.data.encoders.weights import Weights
from fedvlr_jax.data.messages import problem
from fedvlr_jax.fields import nest


def read_params(weights: Weights, modality: str) -> dict[str, Any]:
    """The parameters of one tower as nested dicts of float32 arrays, see `clip`.

    Args:
      weights: tensors of a checkpoint.
      modality: "image" or "text".

    Raises:
      DataError: tensors of neither scheme, one that is missing, has another shape than its neighbours ask for, or
        is not a part of CLIP's tower, whose output would then be another one.
    """
    names = _scheme(weights, modality)
    layers = _layer_numbers(weights, names)
    rows = [(parameter, [tensor], turn) for parameter, tensor, turn in names.tower]
    rows += [
        (f"layers.{parameter}", [f"{names.layer}{n}.{tensor}" for n in layers], turn)
        for parameter, tensor, turn in names.layers
    ]
    _require_exactly(weights, names, [tensor for _, tensors, _ in rows for tensor in tensors])
    stacked = {parameter: _stack(weights, tensors, turn) for parameter, tensors, turn in rows}
    flat = {name: value if name.startswith("layers.") else value[0] for name, value in stacked.items()}
    params = _with_qkv(nest(flat))
    _check_shapes(weights, params, modality)
    return params


def _scheme(weights: Weights, modality: str) -> Names:
    for scheme in SCHEMES.values():
        if scheme[modality].tower[0][1] in weights.tensors:
            return scheme[modality]
    first = [f"{scheme[modality].tower[0][1]} ({name})" for name, scheme in SCHEMES.items()]
    some = ", ".join(sorted(weights.tensors)[:3])
    raise problem(weights.file, f"the {modality} tower of CLIP, with a tensor {' or '.join(first)}", f"{some}, ...")


def _layer_numbers(weights: Weights, names: Names) -> range:
    pattern = re.compile(re.escape(names.layer) + r"(\d+)\.")
    found = {int(match[1]) for tensor in weights.tensors if (match := pattern.match(tensor))}
    return range(max(found, default=0) + 1)


def _require_exactly(weights: Weights, names: Names, needed: Sequence[str]) -> None:
    missing = [tensor for tensor in needed if tensor not in weights.tensors]
    if missing:
        raise problem(weights.file, f"a tensor {missing[0]}", f"none ({len(missing)} such tensors)")
    owned = {tensor for tensor in weights.tensors if re.match(names.owned, tensor)}
    if other := sorted(owned - set(needed) - set(names.unused)):
        raise problem(
            weights.file, "only the tensors of CLIP's transformer", f"{other[0]} ({len(other)} such tensors)"
        )


def _stack(weights: Weights, tensors: Sequence[str], turn: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    parts = [turn(weights.tensors[tensor]) for tensor in tensors]
    for tensor, part in zip(tensors, parts, strict=True):
        if part.shape != parts[0].shape:
            raise problem(weights.file, f"{tensor} of shape {parts[0].shape}", str(part.shape))
    return np.stack(parts)


def _with_qkv(params: dict[str, Any]) -> dict[str, Any]:
    """Queries, keys and values side by side in one layer, where a scheme has three."""
    layers = params["layers"]
    if "qkv" not in layers:
        three = [layers.pop(part) for part in "qkv"]
        layers["qkv"] = {leaf: np.concatenate([part[leaf] for part in three], axis=-1) for leaf in three[0]}
    return params


def _check_shapes(weights: Weights, params: dict[str, Any], modality: str) -> None:
    """Every array against the width of the tower."""
    expected = {**_layer_shapes(params), **(_image_shapes if modality == "image" else _text_shapes)(params)}
    for name, shape in expected.items():
        value: Any = params
        for part in name.split("."):
            value = value[part]
        if value.shape != shape:
            raise problem(weights.file, f"shape {shape} of {name} in the {modality} tower", str(value.shape))


def _layer_shapes(params: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    depth, width = len(params["layers"]["ln_1"]["scale"]), params["position"].shape[-1]
    hidden = params["layers"]["fc"]["bias"].shape[-1]
    dense = {"qkv": (width, 3 * width), "out": (width, width), "fc": (width, hidden), "proj": (hidden, width)}
    kernels = {f"layers.{name}.kernel": (depth, *shape) for name, shape in dense.items()}
    biases = {f"layers.{name}.bias": (depth, shape[1]) for name, shape in dense.items()}
    norms = {f"layers.{name}.{leaf}": (depth, width) for name in ("ln_1", "ln_2") for leaf in ("scale", "bias")}
    return {**kernels, **biases, **norms}


def _image_shapes(params: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    (count, width), p = params["position"].shape, params["patch"].shape[-1]
    side = round((count - 1) ** 0.5)
    norms = {f"{name}.{leaf}": (width,) for name in ("ln_pre", "ln_post") for leaf in ("scale", "bias")}
    projection = (width, params["projection"].shape[-1])
    arrays = {"patch": (width, 3, p, p), "class": (width,), "position": (side**2 + 1, width)}
    return {**arrays, **norms, "projection": projection}


def _text_shapes(params: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    width = params["position"].shape[-1]
    norm = {f"ln_final.{leaf}": (width,) for leaf in ("scale", "bias")}
    return {"token": (len(params["token"]), width), **norm, "projection": (width, params["projection"].shape[-1])}
