"""What the tensors of a tower leave open, and from where each answer is taken; nothing is guessed in silence.

The activation, first that is there: the argument; ``config.json`` of Hugging Face (``hidden_act``, whose default is
quick_gelu); ``open_clip_config.json`` (``quick_gelu``, whose default is false, thus gelu); else the tower is refused,
because OpenAI's weights need quick_gelu, most others gelu, and their tensors look alike.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from fedvlr_jax.data.encoders.clip import ACTIVATIONS, ClipSpec
from fedvlr_jax.data.encoders.weights import read_json_beside
from fedvlr_jax.data.messages import problem
from fedvlr_jax.errors import require_one_of

HEAD_WIDTH = 64
BICUBIC = 3  # Pillow's number
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
SECTIONS = {"image": ("vision_config", "vision_cfg"), "text": ("text_config", "text_cfg")}


class Preprocessing(NamedTuple):
    """How an image becomes pixels: the side of the square, then mean and standard deviation of red, green, blue."""

    side: int
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD


class Decision(NamedTuple):
    """A value, and the sentence that says where it is from."""

    value: Any
    source: str


def decide_spec(file: pathlib.Path, width: int, modality: str, activation: str | None) -> tuple[ClipSpec, str]:
    """Heads, activation and epsilon of a tower, and one line that says where they are from.

    Args:
      file: the weights.
      width: of the tower.
      modality: "image" or "text".
      activation: a name in `ACTIVATIONS`, or None.

    Raises:
      DataError: nothing says which activation, or heads that do not divide the width.
      ConfigError: an activation that does not exist.
    """
    hugging_face, open_clip = SECTIONS[modality]
    section = _section(read_json_beside(file, "config.json") or {}, hugging_face)
    model = (read_json_beside(file, "open_clip_config.json") or {}).get("model_cfg")
    own = (model or {}).get(open_clip, {})
    chosen = _activation(file, activation, section, model)
    require_one_of(ACTIVATIONS, f"activation of {file.name}", chosen.value)
    heads = _heads(file, width, section, own)
    epsilon = float((section or {}).get("layer_norm_eps", ClipSpec._field_defaults["epsilon"]))
    note = f"{file.name}, {modality}: {chosen.value} ({chosen.source}), {heads.value} heads ({heads.source})"
    return ClipSpec(heads.value, chosen.value, epsilon), note


def decide_preprocessing(file: pathlib.Path, side: int | None) -> Preprocessing:
    """Mean and deviation that the files beside the weights name, else CLIP's own.

    Args:
      file: the weights.
      side: of the square that the tower takes, or None to take that of ``preprocessor_config.json``.

    Raises:
      DataError: another kind of resizing than bicubic, or no side.
    """
    config = read_json_beside(file, "preprocessor_config.json") or {}
    model = (read_json_beside(file, "open_clip_config.json") or {}).get("preprocess_cfg") or {}
    kind = config.get("resample", BICUBIC), model.get("interpolation", "bicubic")
    if kind != (BICUBIC, "bicubic"):
        raise problem(file.parent, f"bicubic resizing (resample {BICUBIC})", str(kind))
    if side is None:
        crop = config.get("crop_size", config.get("size"))
        side = crop.get("height", crop.get("shortest_edge")) if isinstance(crop, dict) else crop
    if side is None:
        raise problem(file, "the side of an image in preprocessor_config.json, where the model takes any", "none")
    mean = config.get("image_mean") or model.get("mean") or CLIP_MEAN
    std = config.get("image_std") or model.get("std") or CLIP_STD
    return Preprocessing(int(side), tuple(map(float, mean)), tuple(map(float, std)))


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """The tower's part of a Hugging Face configuration of CLIP, or None where it is not one."""
    kind = str(config.get("model_type"))
    if not kind.startswith("clip"):
        return None
    return config if kind.endswith("_model") else config.get(name) or {}


def _activation(
    file: pathlib.Path, asked: str | None, section: Mapping[str, Any] | None, model: Mapping[str, Any] | None
) -> Decision:
    if asked is not None:
        return Decision(asked, "as asked for")
    if section is not None:
        source = "config.json" if "hidden_act" in section else "the default of config.json, which names none"
        return Decision(section.get("hidden_act", "quick_gelu"), source)
    if model is not None:
        return Decision("quick_gelu" if model.get("quick_gelu") else "gelu", "open_clip_config.json")
    raise problem(
        file,
        f"config.json or open_clip_config.json beside it, or an activation ({' or '.join(ACTIVATIONS)})",
        "neither, and the tensors do not tell; OpenAI's weights need quick_gelu",
    )


def _heads(file: pathlib.Path, width: int, section: Mapping[str, Any] | None, own: Mapping[str, Any]) -> Decision:
    if section and "num_attention_heads" in section:
        found = Decision(int(section["num_attention_heads"]), "config.json")
    elif "heads" in own:
        found = Decision(int(own["heads"]), "open_clip_config.json")
    else:
        found = Decision(width // int(own.get("head_width", HEAD_WIDTH)), "width / 64")
    if found.value < 1 or width % found.value:
        raise problem(file, f"heads that divide the width {width}", f"{found.value} ({found.source})")
    return found
