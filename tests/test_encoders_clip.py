"""CLIP's towers against a forward pass in NumPy float64, from checkpoints under both naming schemes."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from clip_checkpoints import (
    CONTEXT,
    DIM,
    SIDE,
    hugging_face,
    image_oracle,
    random_tensors,
    text_oracle,
    write_checkpoint,
    write_tokenizer,
)
from commands import ROOT

from fedvlr_jax.data.encoders import clip, load_image_tower, load_text_tower
from fedvlr_jax.data.encoders.params import read_params
from fedvlr_jax.data.encoders.tokens import Tokens
from fedvlr_jax.data.encoders.weights import read_weights
from fedvlr_jax.errors import ConfigError, DataError

END = 55
HF_CONFIG = {
    "model_type": "clip",
    "vision_config": {"hidden_act": "gelu", "num_attention_heads": 4},
    "text_config": {"num_attention_heads": 2},
}


@pytest.fixture(scope="module")
def tensors():
    return random_tensors()


@pytest.fixture
def checkpoint(tmp_path, tensors):
    """A function that writes a checkpoint with a tokenizer: (naming, configuration, its name) -> file."""

    def write(naming=dict, config=None, name="config.json", changes=None):
        file = write_checkpoint(tmp_path / "clip", {**naming(tensors), **(changes or {})}, config, name)
        write_tokenizer(file.parent)
        return file

    return write


def pixels(count=3):
    return np.random.default_rng(1).normal(size=(count, 3, SIDE, SIDE)).astype(np.float32)


def tokens(count=4):
    generator, ids = np.random.default_rng(2), np.zeros((count, CONTEXT), np.int32)
    for k, row in enumerate(ids):
        row[: 3 + k] = [54, *generator.integers(0, 54, 1 + k), END]
    return Tokens(ids, (np.arange(CONTEXT)[None] < 3 + np.arange(count)[:, None]).astype(np.int32))


@pytest.mark.parametrize(
    ("naming", "config", "name", "image", "text"),
    [  # image and text: (heads, quick)
        (dict, {"model_cfg": {"quick_gelu": True}}, "open_clip_config.json", (1, True), (1, True)),
        (
            dict,
            {"model_cfg": {"vision_cfg": {"head_width": 16}, "text_cfg": {"heads": 2}}},
            "open_clip_config.json",
            (4, False),
            (2, False),
        ),
        (hugging_face, HF_CONFIG, "config.json", (4, False), (2, True)),
    ],
)
def test_towers_equal_the_forward_pass_in_numpy(checkpoint, tensors, naming, config, name, image, text):
    file = checkpoint(naming, config, name)
    got = np.asarray(load_image_tower(file).encode(pixels()))
    want = np.array([image_oracle(tensors, x, *image) for x in pixels()])
    assert got.shape == (3, DIM)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    got = np.asarray(load_text_tower(file).encode(tokens()))
    want = np.array([text_oracle(tensors, ids, END, *text) for ids in tokens().ids])
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_the_activations_differ_by_more_than_the_tolerance(tensors):
    quick, exact = (image_oracle(tensors, pixels()[0], 1, quick) for quick in (True, False))
    assert np.abs(quick - exact).max() > 1e-2


def test_both_schemes_give_the_same_parameters(tmp_path, tensors):
    files = [write_checkpoint(tmp_path / name, x) for name, x in (("a", tensors), ("b", hugging_face(tensors)))]
    for modality in ("image", "text"):
        first, second = (read_params(read_weights(file), modality) for file in files)
        jax.tree.map(np.testing.assert_array_equal, first, second)


def test_what_is_padding_and_what_comes_later_has_no_effect(checkpoint):
    tower = load_text_tower(checkpoint(), activation="gelu")
    ids, mask = tokens()
    other = Tokens(np.where(mask == 1, ids, 7).astype(np.int32), mask)
    np.testing.assert_array_equal(tower.encode(tokens()), tower.encode(other))


def test_one_trace_serves_all_batches(tensors, tmp_path):
    params = read_params(read_weights(write_checkpoint(tmp_path, tensors)), "image")
    traces = []

    @jax.jit
    def run(params, x):
        traces.append(0)
        return clip.image_features(params, x, clip.ClipSpec(1, "gelu"))

    for scale in (1.0, 2.0, 3.0):
        run(params, jnp.asarray(scale * pixels()))
    assert traces == [0]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_read_as_float32(tmp_path, tensors, dtype):
    file = write_checkpoint(tmp_path, {name: value.astype(dtype) for name, value in tensors.items()})
    params = read_params(read_weights(file), "image")
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(params["class"], tensors["visual.class_embedding"].astype(dtype))


def test_the_activation_is_never_guessed(checkpoint):
    with pytest.raises(DataError, match=r"expected config\.json or open_clip_config\.json .* OpenAI's weights need"):
        load_image_tower(checkpoint())
    with pytest.raises(DataError, match="the tensors do not tell"):
        load_image_tower(checkpoint(dict, {"model_type": "something else"}))
    with pytest.raises(ConfigError, match="expected one of quick_gelu, gelu, found 'relu'"):
        load_image_tower(checkpoint(), activation="relu")


@pytest.mark.parametrize(
    ("config", "name", "activation", "said"),
    [
        (None, "config.json", "gelu", "gelu (as asked for), 1 heads (width / 64)"),
        (HF_CONFIG, "config.json", None, "gelu (config.json), 4 heads (config.json)"),
        ({"model_type": "clip"}, "config.json", None, "quick_gelu (the default of config.json, which names none)"),
        ({"model_cfg": {}}, "open_clip_config.json", None, "gelu (open_clip_config.json)"),
    ],
)
def test_the_tower_says_how_it_was_decided(checkpoint, config, name, activation, said):
    assert said in load_image_tower(checkpoint(dict, config, name), activation=activation).note


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"visual.attn_pool.query": np.zeros(3, np.float32)}, "only the tensors of CLIP's .* visual.attn_pool.query"),
        ({"visual.ln_pre.bias": np.zeros(3, np.float32)}, r"shape \(64,\) of ln_pre.bias .* found \(3,\)"),
        ({"visual.transformer.resblocks.1.ln_1.bias": np.zeros(3, np.float32)}, r"resblocks.1.ln_1.bias of shape"),
        ({"visual.transformer.resblocks.3.ln_1.bias": np.zeros(64, np.float32)}, "a tensor visual.*resblocks.2"),
        ({"visual.positional_embedding": np.zeros((4, 64), np.float32)}, r"shape \(5, 64\) of position"),
    ],
)
def test_what_is_not_clip_is_refused(checkpoint, changes, message):
    with pytest.raises(DataError, match=message):
        load_image_tower(checkpoint(changes=changes), activation="gelu")


def test_heads_must_divide_the_width(checkpoint):
    config = {"model_type": "clip", "vision_config": {"num_attention_heads": 5}}
    with pytest.raises(DataError, match=r"heads that divide the width 64, found 5 \(config.json\)"):
        load_image_tower(checkpoint(hugging_face, config))


def test_another_model_is_refused(tmp_path):
    file = write_checkpoint(tmp_path, {"encoder.weight": np.zeros(3, np.float32)})
    with pytest.raises(DataError, match=r"conv1.weight \(open_clip\) or .*, found encoder.weight"):
        load_image_tower(file)


@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "ViT-B-32.pt"])
def test_a_torch_checkpoint_is_refused_with_the_line_that_converts_it(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(DataError) as caught:
            load_image_tower(path)
        message = str(caught.value)
        assert re.search(r'python -c "import torch, safetensors\.torch as s; .*"$', message)
        code = re.search(r'-c "(.*)"$', message)[1]
        compile(code, "<line>", "exec")
        assert "\n" not in message


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x10" + bytes(7) + b"{" * 16])
def test_damaged_weights_are_one_line(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(DataError, match="expected a safetensors file, found"):
        load_image_tower(tmp_path)


def test_several_or_no_weights_in_a_folder(tmp_path):
    with pytest.raises(DataError, match=r"expected weights .* found none"):
        load_image_tower(tmp_path)
    for name in ("a.safetensors", "b.onnx"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=r"one file of weights, .* found a.safetensors, b.onnx"):
        load_image_tower(tmp_path)


def test_a_vocabulary_that_does_not_fit_is_refused(checkpoint, tensors):
    few = {"token_embedding.weight": tensors["token_embedding.weight"][:50]}
    with pytest.raises(DataError, match="at most 50 tokens, as the weights have, found 58"):
        load_text_tower(checkpoint(changes=few), activation="gelu")


def test_the_checksum_covers_weights_and_decisions(checkpoint):
    sums = {load_image_tower(checkpoint(), activation=name).checksum for name in ("gelu", "quick_gelu")}
    file = checkpoint(changes={"visual.proj": np.ones((64, DIM), np.float32)})
    sums.add(load_image_tower(file, activation="gelu").checksum)
    config = {"model_cfg": {}, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    tower = load_image_tower(checkpoint(dict, config, "open_clip_config.json"), activation="gelu")
    assert tower.preprocessing.mean == (0.5, 0.5, 0.5)
    assert len(sums | {tower.checksum}) == 4


def test_another_resizing_is_refused(checkpoint):
    file = checkpoint()
    (file.parent / "preprocessor_config.json").write_text(json.dumps({"resample": 2}))
    with pytest.raises(DataError, match="bicubic"):
        load_image_tower(file, activation="gelu")


@pytest.mark.parametrize(("package", "load"), [("safetensors", load_image_tower), ("tokenizers", load_text_tower)])
def test_a_missing_package_names_the_extra(checkpoint, monkeypatch, package, load):
    file = checkpoint()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf'{package}.*pip install "fedvlr_jax\[features\]"'):
        load(file, activation="gelu")


@pytest.mark.slow
def test_training_imports_no_encoder():
    code = "import sys, fedvlr_jax.data, fedvlr_jax.training.job, fedvlr_jax.commands.train as t; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "fedvlr_jax.training.job" in loaded
    assert not {"fedvlr_jax.data.encoders", "onnxruntime", "safetensors", "tokenizers"} & loaded
