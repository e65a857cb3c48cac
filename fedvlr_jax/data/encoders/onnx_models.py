"""Towers exported to ONNX: inputs and outputs are told apart by names and shapes, or refused where these do not."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax.data.encoders.tokens import Tokens
from fedvlr_jax.data.messages import problem
from fedvlr_jax.errors import ConfigError, choose
from fedvlr_jax.extras import require_extra

FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
INTEGERS = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
TEXT_INPUTS = (["ids"], ["ids", "mask"], ["ids", "mask", "types"], ["ids", "types"])


class Model(NamedTuple):
    """A model that runs, and the sizes that it fixes; None where it takes any."""

    encode: Callable[..., np.ndarray]
    batch: int | None
    size: int | None
    """Side of its images, or tokens of its texts."""


def _mean(hidden_btd: np.ndarray, mask_bt: np.ndarray) -> np.ndarray:
    weights_bt1 = mask_bt[..., None].astype(np.float32)
    return (hidden_btd * weights_bt1).sum(axis=1) / np.maximum(weights_bt1.sum(axis=1), 1)


POOLINGS = {"mean": _mean, "first": lambda hidden_btd, mask_bt: hidden_btd[:, 0]}
"""From the hidden states of all tokens [b, t, d] and their mask [b, t] to one row for a title."""


def open_model(file: pathlib.Path) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU.

    Raises:
      DataError: a file that is damaged.
      ConfigError: the extra ``features`` is not installed.
    """
    with require_extra("features", file.name):
        import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common base but this one
        raise problem(file, "an ONNX model", " ".join(str(error).split())[:200]) from error


def image_model(session: Any, file: pathlib.Path, output: str | None = None) -> Model:
    """A model of one input [b, 3, r, r] of floats.

    Args:
      session: see `open_model`.
      file: named in errors.
      output: the name of the output [b, d], where there are several.

    Raises:
      DataError: other inputs, or no output that is clearly the one.
    """
    inputs = session.get_inputs()
    if len(inputs) != 1 or not _is_image(inputs[0]):
        raise problem(file, "one input [batch, 3, side, side] of floats", _describe(inputs))
    (pixels,) = inputs
    name = _output(session, file, "image", output, ranks=(2,))

    def encode(pixels_b3rr: np.ndarray) -> np.ndarray:
        (rows_bd,) = session.run([name], {pixels.name: pixels_b3rr.astype(FLOATS[pixels.type])})
        return rows_bd.astype(np.float32)

    batch, _, *sides = (length if isinstance(length, int) else None for length in pixels.shape)
    if len(fixed := {side for side in sides if side is not None}) > 1:
        raise problem(file, "square images", _describe(inputs))
    return Model(encode, batch, next(iter(fixed), None))


def text_model(session: Any, file: pathlib.Path, output: str | None = None, pooling: str | None = None) -> Model:
    """A model of token ids, and a mask and token types where it has inputs of these names.

    Args:
      session, file, output: as `image_model`.
      pooling: a name in `POOLINGS`, for an output [b, t, d].

    Raises:
      DataError: other inputs, or no output that is clearly the one.
      ConfigError: a pooling that does not exist.
    """
    pool = None if pooling is None else choose(POOLINGS, "pooling", pooling)
    roles = _text_roles(session.get_inputs(), file)
    types = {x.name: INTEGERS[x.type] for x in session.get_inputs()}
    name = _output(session, file, "text", output, ranks=(2,) if pool is None else (3,))

    def encode(tokens: Tokens) -> np.ndarray:
        values = {"ids": tokens.ids, "mask": tokens.mask, "types": np.zeros_like(tokens.ids)}
        (found,) = session.run([name], {x: values[role].astype(types[x]) for x, role in roles.items()})
        return (found if pool is None else pool(found, tokens.mask)).astype(np.float32)

    (ids,) = (x for x in session.get_inputs() if roles[x.name] == "ids")
    batch, size = (length if isinstance(length, int) else None for length in ids.shape)
    return Model(encode, batch, size)


def _text_roles(inputs: Sequence[Any], file: pathlib.Path) -> dict[str, str]:
    """ "ids", "mask" or "types" for the name of every input."""
    roles = {x.name: "mask" if "mask" in x.name else "types" if "type" in x.name else "ids" for x in inputs}
    fits = all(len(x.shape) == 2 and x.type in INTEGERS for x in inputs)
    if not fits or sorted(roles.values()) not in TEXT_INPUTS:
        expected = "inputs [batch, tokens] of integers: ids, perhaps mask and token types"
        raise problem(file, expected, _describe(inputs))
    return roles


def _output(session: Any, file: pathlib.Path, modality: str, asked: str | None, ranks: tuple[int, ...]) -> str:
    """The name of the output that has the features."""
    outputs = session.get_outputs()
    if asked is not None and asked not in [x.name for x in outputs]:
        raise ConfigError(f"output: expected one of {', '.join(x.name for x in outputs)}, found {asked!r}")
    fit = [x for x in outputs if len(x.shape) in ranks and asked in (None, x.name)]
    named = [x for x in fit if x.name == f"{modality}_embeds"]
    if len(fit) != 1 and len(named) != 1:
        shape = "[batch, d]" if ranks == (2,) else "[batch, tokens, d]"
        hint = "; name the output, or give a pooling for [batch, tokens, d]" if modality == "text" else "; name it"
        raise problem(file, f"one output {shape}{hint}", _describe(outputs))
    return (named or fit)[0].name


def _is_image(node: Any) -> bool:
    """[batch, 3, side, side], where a length that the model leaves open is text."""
    return node.type in FLOATS and len(node.shape) == 4 and (node.shape[1] == 3 or not isinstance(node.shape[1], int))


def _describe(nodes: Sequence[Any]) -> str:
    return ", ".join(f"{x.name} {list(x.shape)} {x.type}" for x in nodes)
