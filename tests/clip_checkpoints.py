"""Tiny random CLIP checkpoints under both naming schemes, and CLIP's forward pass in NumPy float64.

Nothing here is shared with the library: the pass works on the open_clip tensors one by one, token by token.
"""

from __future__ import annotations

import json
import math
import pathlib

import numpy as np
import safetensors.numpy

WIDTH, LAYERS, SIDE, PATCH, CONTEXT, VOCABULARY, DIM = 64, 2, 32, 16, 12, 100, 24


def random_tensors(seed: int = 0, width: int = WIDTH) -> dict[str, np.ndarray]:
    """Both towers with open_clip's names."""
    generator = np.random.default_rng(seed)

    def normal(*shape):
        return (generator.normal(size=shape) * 0.4 / math.sqrt(shape[-1] ** 0.5)).astype(np.float32)

    tensors = {
        "logit_scale": np.full((1,), 2.6, np.float32),
        "visual.conv1.weight": normal(width, 3, PATCH, PATCH),
        "visual.class_embedding": normal(width),
        "visual.positional_embedding": normal((SIDE // PATCH) ** 2 + 1, width),
        "visual.proj": normal(width, DIM),
        "token_embedding.weight": normal(VOCABULARY, width),
        "positional_embedding": normal(CONTEXT, width),
        "text_projection": normal(width, DIM),
    }
    for norm in ("visual.ln_pre", "visual.ln_post", "ln_final"):
        tensors |= {f"{norm}.weight": 1 + normal(width), f"{norm}.bias": normal(width)}
    for n in range(LAYERS):
        for start in (f"visual.transformer.resblocks.{n}.", f"transformer.resblocks.{n}."):
            tensors |= {
                start + "ln_1.weight": 1 + normal(width),
                start + "ln_1.bias": normal(width),
                start + "ln_2.weight": 1 + normal(width),
                start + "ln_2.bias": normal(width),
                start + "attn.in_proj_weight": normal(3 * width, width),
                start + "attn.in_proj_bias": normal(3 * width),
                start + "attn.out_proj.weight": normal(width, width),
                start + "attn.out_proj.bias": normal(width),
                start + "mlp.c_fc.weight": normal(4 * width, width),
                start + "mlp.c_fc.bias": normal(4 * width),
                start + "mlp.c_proj.weight": normal(width, 4 * width),
                start + "mlp.c_proj.bias": normal(width),
            }
    return tensors


def hugging_face(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same weights with Hugging Face's names, one replacement after the other."""
    renamed = {}
    for name, value in tensors.items():
        if ".attn.in_proj_" in name:
            for part, piece in zip("qkv", np.split(value, 3), strict=True):
                renamed[name.replace("attn.in_proj_", f"self_attn.{part}_proj.")] = piece
        elif name in ("visual.proj", "text_projection"):
            new = "visual_projection.weight" if name == "visual.proj" else "text_projection.weight"
            renamed[new] = np.ascontiguousarray(value.T)
        else:
            renamed[name.replace("attn.out_proj", "self_attn.out_proj")] = value
    return {_renamed(name): value for name, value in renamed.items()}


def _renamed(name: str) -> str:
    whole = {
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
    }
    if name in whole:
        return whole[name]
    for old, new in (
        ("visual.transformer.resblocks", "vision_model.encoder.layers"),
        ("transformer.resblocks", "text_model.encoder.layers"),
        ("visual.ln_pre", "vision_model.pre_layrnorm"),
        ("visual.ln_post", "vision_model.post_layernorm"),
        ("ln_final", "text_model.final_layer_norm"),
        (".ln_", ".layer_norm"),
        ("mlp.c_fc", "mlp.fc1"),
        ("mlp.c_proj", "mlp.fc2"),
    ):
        name = name.replace(old, new)
    return name


def write_checkpoint(
    folder: pathlib.Path, tensors: dict[str, np.ndarray], config: dict | None = None, name: str = "config.json"
) -> pathlib.Path:
    """``model.safetensors`` and a configuration beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    if config is not None:
        (folder / name).write_text(json.dumps(config))
    return folder / "model.safetensors"


def write_tokenizer(folder: pathlib.Path) -> None:
    """``vocab.json`` and ``merges.txt`` of lower-case letters, a few pairs, start and end: below 100 tokens."""
    letters = [chr(k) for k in range(ord("a"), ord("z") + 1)]
    pairs = [("t", "e"), ("te", "a</w>"), ("p", "o"), ("po", "t</w>")]
    words = [*letters, *(f"{x}</w>" for x in letters), *("".join(pair) for pair in pairs)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: k for k, word in enumerate(words)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in pairs)]))


def image_oracle(tensors: dict[str, np.ndarray], pixels_3rr: np.ndarray, heads: int, quick: bool) -> np.ndarray:
    """The features [d] of one image."""
    w = {name: value.astype(np.float64) for name, value in tensors.items()}
    rows = [w["visual.class_embedding"]]
    for top in range(0, SIDE, PATCH):
        for left in range(0, SIDE, PATCH):
            piece = pixels_3rr[:, top : top + PATCH, left : left + PATCH].astype(np.float64)
            rows.append(np.array([(kernel * piece).sum() for kernel in w["visual.conv1.weight"]]))
    x = np.array(rows) + w["visual.positional_embedding"]
    x = np.array([_norm(w, "visual.ln_pre", row) for row in x])
    x = _layers(w, "visual.transformer.resblocks.", x, heads, quick, causal=False)
    return _norm(w, "visual.ln_post", x[0]) @ w["visual.proj"]


def text_oracle(tensors: dict[str, np.ndarray], ids_t: np.ndarray, end: int, heads: int, quick: bool) -> np.ndarray:
    """The features [d] of one title."""
    w = {name: value.astype(np.float64) for name, value in tensors.items()}
    x = w["token_embedding.weight"][ids_t] + w["positional_embedding"]
    x = _layers(w, "transformer.resblocks.", x, heads, quick, causal=True)
    return _norm(w, "ln_final", x[list(ids_t).index(end)]) @ w["text_projection"]


def _layers(w, start, x, heads, quick, causal):
    for n in range(LAYERS):
        p = f"{start}{n}."
        x = x + _attention(w, p, np.array([_norm(w, p + "ln_1", row) for row in x]), heads, causal)
        for t, row in enumerate(x):
            hidden = w[p + "mlp.c_fc.weight"] @ _norm(w, p + "ln_2", row) + w[p + "mlp.c_fc.bias"]
            if quick:
                hidden = hidden / (1 + np.exp(-1.702 * hidden))
            else:
                hidden = np.array([value * (1 + math.erf(value / math.sqrt(2))) / 2 for value in hidden])
            x[t] = row + w[p + "mlp.c_proj.weight"] @ hidden + w[p + "mlp.c_proj.bias"]
    return x


def _attention(w, p, x, heads, causal):
    three = np.split(x @ w[p + "attn.in_proj_weight"].T + w[p + "attn.in_proj_bias"], 3, axis=1)
    size = x.shape[1] // heads
    out = np.zeros_like(x)
    for h in range(heads):
        q, k, v = (part[:, h * size : (h + 1) * size] for part in three)
        for t in range(len(x)):
            seen = t + 1 if causal else len(x)
            weights = np.exp([q[t] @ k[s] / math.sqrt(size) for s in range(seen)])
            out[t, h * size : (h + 1) * size] = weights @ v[:seen] / weights.sum()
    return out @ w[p + "attn.out_proj.weight"].T + w[p + "attn.out_proj.bias"]


def _norm(w, name, row):
    centred = row - row.mean()
    return centred / np.sqrt((centred**2).mean() + 1e-5) * w[name + ".weight"] + w[name + ".bias"]
