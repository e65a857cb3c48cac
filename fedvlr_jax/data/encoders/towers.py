"""Encoders that are ready to run: a tower of CLIP in JAX, or a model in onnxruntime, behind one pair of types."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from fedvlr_jax.data.encoders import clip
from fedvlr_jax.data.encoders.decisions import Preprocessing, decide_preprocessing, decide_spec
from fedvlr_jax.data.encoders.onnx_models import image_model, open_model, text_model
from fedvlr_jax.data.encoders.params import read_params
from fedvlr_jax.data.encoders.tokens import (
    Tokenize,
    Tokens,
    clip_tokens,
    find_tokenizer,
    model_tokens,
    read_tokenizer,
)
from fedvlr_jax.data.encoders.weights import checksum, find_weights, read_json_beside, read_weights
from fedvlr_jax.data.messages import problem

ONNX = ".onnx"
NO_LIMIT = 10**6  # tokenizer_config.json writes a huge number for "any"


class ImageTower(NamedTuple):
    """From pixels to features."""

    encode: Callable[[np.ndarray], Any]
    """Pixels [b, 3, r, r] float32 to features [b, d] float32."""
    preprocessing: Preprocessing
    checksum: str
    """Of everything that decides the features: weights, activation, heads, preprocessing."""
    note: str
    """One line: what was decided about the tower, and by what."""
    batch: int | None = None
    """The only batch that it takes, or None."""


class TextTower(NamedTuple):
    """From titles to features."""

    encode: Callable[[Tokens], Any]
    """Tokens [b, t] to features [b, d] float32."""
    tokenize: Tokenize
    checksum: str
    note: str
    batch: int | None = None


def load_image_tower(
    path: str | pathlib.Path, *, activation: str | None = None, output: str | None = None
) -> ImageTower:
    """The image tower of a checkpoint.

    Args:
      path: ``.safetensors`` (open_clip's or Hugging Face's names) or ``.onnx``, or a folder with one of them.
      activation: "quick_gelu" or "gelu"; None takes what the configuration beside the weights says.
      output: of an ONNX model with several.

    Raises:
      DataError: weights that are missing, damaged, of another format, or no transformer of CLIP; or an open decision.
      ConfigError: a name that does not exist, or the extra ``features`` is not installed.
    """
    file = find_weights(pathlib.Path(path))
    if file.suffix == ONNX:
        return _image_onnx(file, output)
    params = read_params(read_weights(file), "image")
    spec, note = decide_spec(file, params["position"].shape[1], "image", activation)
    side = round((len(params["position"]) - 1) ** 0.5) * params["patch"].shape[-1]
    preprocessing = decide_preprocessing(file, side)
    run, held = jax.jit(clip.image_features, static_argnames="spec"), jax.device_put(params)
    return ImageTower(
        lambda pixels_b3rr: run(held, pixels_b3rr, spec=spec),
        preprocessing,
        checksum(file, also=("image", spec, preprocessing)),
        note,
    )


def load_text_tower(
    path: str | pathlib.Path,
    *,
    activation: str | None = None,
    tokenizer: str | pathlib.Path | None = None,
    output: str | None = None,
    pooling: str | None = None,
) -> TextTower:
    """The text tower of a checkpoint, with its tokenizer.

    Args:
      path, activation, output: as `load_image_tower`.
      tokenizer: the folder of its files (see `tokens`), if it is not that of the weights.
      pooling: "mean" or "first", for an ONNX model that gives a row for every token.

    Raises:
      DataError, ConfigError: as `load_image_tower`, and for a tokenizer that is missing or does not fit the weights.
    """
    file = find_weights(pathlib.Path(path))
    files = find_tokenizer(pathlib.Path(tokenizer or file.parent))
    if file.suffix == ONNX:
        return _text_onnx(file, files, output, pooling)
    params = read_params(read_weights(file), "text")
    context, width = params["position"].shape
    spec, note = decide_spec(file, width, "text", activation)
    tokenize = clip_tokens(read_tokenizer(files), context, len(params["token"]), files[0])
    run, held = jax.jit(clip.text_features, static_argnames="spec"), jax.device_put(params)
    return TextTower(
        lambda tokens: run(held, tokens.ids, tokens.mask, spec=spec),
        tokenize,
        checksum(file, *files, also=("text", spec)),
        f"{note}, tokens of {files[0].name}",
    )


def _image_onnx(file: pathlib.Path, output: str | None) -> ImageTower:
    model = image_model(open_model(file), file, output)
    preprocessing = decide_preprocessing(file, model.size)
    side, mean, std = preprocessing
    note = f"{file.name}, image: {side} x {side} pixels, mean {mean}, deviation {std}"
    return ImageTower(
        model.encode, preprocessing, checksum(file, also=("image", output, preprocessing)), note, model.batch
    )


def _text_onnx(
    file: pathlib.Path, files: tuple[pathlib.Path, ...], output: str | None, pooling: str | None
) -> TextTower:
    model, tokenizer = text_model(open_model(file), file, output, pooling), read_tokenizer(files)
    context = model.size or _context(file, tokenizer)
    note = f"{file.name}, text: {context} tokens of {files[0].name}, pooling {pooling or 'in the model'}"
    seal = checksum(file, *files, also=("text", output, pooling, context))
    return TextTower(model.encode, model_tokens(tokenizer, context), seal, note, model.batch)


def _context(file: pathlib.Path, tokenizer: Any) -> int:
    """The longest title in tokens that the tokenizer's files name."""
    config = read_json_beside(file, "tokenizer_config.json") or {}
    limits = [(tokenizer.truncation or {}).get("max_length"), config.get("model_max_length")]
    for limit in limits:
        if limit and limit < NO_LIMIT:
            return int(limit)
    raise problem(file, "a length in tokens, in the model, tokenizer.json or tokenizer_config.json", "none")
