"""The two schemes in which CLIP checkpoints name their tensors, open_clip's and Hugging Face's."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Turn = Callable[[np.ndarray], np.ndarray]
Row = tuple[str, str, Turn]
SAME: Turn = np.asarray
TURNED: Turn = np.transpose


class Names(NamedTuple):
    """How one scheme names a tower: (parameter, tensor, how the tensor becomes the parameter)."""

    owned: str
    """Regular expression of the tensors that belong to the tower."""
    tower: tuple[Row, ...]
    layer: str
    """The prefix of layer N."""
    layers: tuple[Row, ...]
    unused: tuple[str, ...] = ()
    """Owned tensors that carry no parameter."""


def _norm(parameter: str, tensor: str) -> tuple[Row, ...]:
    return (f"{parameter}.scale", f"{tensor}.weight", SAME), (f"{parameter}.bias", f"{tensor}.bias", SAME)


def _dense(parameter: str, tensor: str) -> tuple[Row, ...]:
    return (f"{parameter}.kernel", f"{tensor}.weight", TURNED), (f"{parameter}.bias", f"{tensor}.bias", SAME)


OPEN_CLIP_LAYERS = (
    *_norm("ln_1", "ln_1"),
    ("qkv.kernel", "attn.in_proj_weight", TURNED),
    ("qkv.bias", "attn.in_proj_bias", SAME),
    *_dense("out", "attn.out_proj"),
    *_norm("ln_2", "ln_2"),
    *_dense("fc", "mlp.c_fc"),
    *_dense("proj", "mlp.c_proj"),
)
HUGGING_FACE_LAYERS = (
    *_norm("ln_1", "layer_norm1"),
    *(row for part in "qkv" for row in _dense(part, f"self_attn.{part}_proj")),
    *_dense("out", "self_attn.out_proj"),
    *_norm("ln_2", "layer_norm2"),
    *_dense("fc", "mlp.fc1"),
    *_dense("proj", "mlp.fc2"),
)
OPEN_CLIP = {
    "image": Names(
        r"visual\.",
        (
            ("patch", "visual.conv1.weight", SAME),
            ("class", "visual.class_embedding", SAME),
            ("position", "visual.positional_embedding", SAME),
            *_norm("ln_pre", "visual.ln_pre"),
            *_norm("ln_post", "visual.ln_post"),
            ("projection", "visual.proj", SAME),
        ),
        "visual.transformer.resblocks.",
        OPEN_CLIP_LAYERS,
    ),
    "text": Names(
        r"(transformer|token_embedding|positional_embedding|ln_final|text_projection|attn_mask)\b",
        (
            ("token", "token_embedding.weight", SAME),
            ("position", "positional_embedding", SAME),
            *_norm("ln_final", "ln_final"),
            ("projection", "text_projection", SAME),
        ),
        "transformer.resblocks.",
        OPEN_CLIP_LAYERS,
        ("attn_mask",),
    ),
}
HUGGING_FACE = {
    "image": Names(
        r"(vision_model|visual_projection)\.",
        (
            ("patch", "vision_model.embeddings.patch_embedding.weight", SAME),
            ("class", "vision_model.embeddings.class_embedding", np.ravel),
            ("position", "vision_model.embeddings.position_embedding.weight", SAME),
            *_norm("ln_pre", "vision_model.pre_layrnorm"),  # spelled so in every checkpoint
            *_norm("ln_post", "vision_model.post_layernorm"),
            ("projection", "visual_projection.weight", TURNED),
        ),
        "vision_model.encoder.layers.",
        HUGGING_FACE_LAYERS,
        ("vision_model.embeddings.position_ids",),
    ),
    "text": Names(
        r"(text_model|text_projection)\.",
        (
            ("token", "text_model.embeddings.token_embedding.weight", SAME),
            ("position", "text_model.embeddings.position_embedding.weight", SAME),
            *_norm("ln_final", "text_model.final_layer_norm"),
            ("projection", "text_projection.weight", TURNED),
        ),
        "text_model.encoder.layers.",
        HUGGING_FACE_LAYERS,
        ("text_model.embeddings.position_ids",),
    ),
}
SCHEMES = {"open_clip": OPEN_CLIP, "Hugging Face": HUGGING_FACE}
