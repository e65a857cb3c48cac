"""ONNX models built here: inputs and outputs told apart, pooled, or refused."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import tokenizers
from onnx import TensorProto, helper, numpy_helper

from fedvlr_jax.data.encoders import encode_texts, load_image_tower, load_text_tower
from fedvlr_jax.errors import ConfigError, DataError

DIM, SIDE, WORDS = 5, 8, ["[UNK]", "tea", "pot", "[PAD]"]
KERNEL = np.random.default_rng(0).normal(size=(3, DIM)).astype(np.float32)
TABLE = np.random.default_rng(1).normal(size=(len(WORDS), DIM)).astype(np.float32)


def save(path, nodes, inputs, outputs, constants=()):
    """A model of operator set 18."""
    named = [numpy_helper.from_array(value, name) for name, value in constants]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, named)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    return path


def value(name, kind, *shape):
    return helper.make_tensor_value_info(name, kind, shape)


def image_model(path, shape=("b", 3, SIDE, SIDE), outputs=("features",)):
    """The mean colour times `KERNEL`, once for every output."""
    nodes = [helper.make_node("ReduceMean", ["pixels", "axes"], ["colour"], keepdims=0)]
    nodes += [helper.make_node("MatMul", ["colour", "kernel"], [name]) for name in outputs]
    constants = [("axes", np.array([2, 3])), ("kernel", KERNEL)]
    named = [value(name, TensorProto.FLOAT, "b", DIM) for name in outputs]
    return save(path, nodes, [value("pixels", TensorProto.FLOAT, *shape)], named, constants)


def text_model(path, inputs=("input_ids", "attention_mask", "token_type_ids"), tokens="t"):
    """A row of `TABLE` for every token; the other inputs are counted in a second output."""
    nodes = [helper.make_node("Gather", ["table", inputs[0]], ["hidden"])]
    nodes += [helper.make_node("Identity", [name], [f"same_{name}"]) for name in inputs[1:]]
    values = [value(name, TensorProto.INT64, "b", tokens) for name in inputs]
    return save(path, nodes, values, [value("hidden", TensorProto.FLOAT, "b", tokens, DIM)], [("table", TABLE)])


def write_words(folder, limit=4):
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: k for k, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": limit}))


def test_an_image_model_gives_its_features(tmp_path):
    tower = load_image_tower(image_model(tmp_path / "x.onnx"))
    assert tower.preprocessing.side == SIDE
    pixels = np.random.default_rng(2).normal(size=(4, 3, SIDE, SIDE)).astype(np.float32)
    np.testing.assert_allclose(tower.encode(pixels), pixels.mean(axis=(2, 3)) @ KERNEL, rtol=1e-4, atol=1e-6)


def test_several_outputs_need_a_name_unless_one_is_the_usual_one(tmp_path):
    file = image_model(tmp_path / "x.onnx", outputs=("one", "two"))
    with pytest.raises(DataError, match=r"one output \[batch, d\]; name it, found one .*, two "):
        load_image_tower(file)
    assert load_image_tower(file, output="two").encode(np.zeros((1, 3, SIDE, SIDE))).shape == (1, DIM)
    with pytest.raises(ConfigError, match="expected one of one, two, found 'three'"):
        load_image_tower(file, output="three")
    load_image_tower(image_model(tmp_path / "y.onnx", outputs=("pooled", "image_embeds")))


def test_a_fixed_batch_and_an_open_side_are_read(tmp_path):
    assert load_image_tower(image_model(tmp_path / "x.onnx", shape=(2, 3, SIDE, SIDE))).batch == 2
    file = image_model(tmp_path / "y.onnx", shape=("b", 3, "h", "w"))
    with pytest.raises(DataError, match="the side of an image in preprocessor_config"):
        load_image_tower(file)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"crop_size": {"height": 9, "width": 9}}))
    assert load_image_tower(file).preprocessing.side == 9


@pytest.mark.parametrize(("pooling", "want"), [("mean", (TABLE[1] + TABLE[2]) / 2), ("first", TABLE[1])])
def test_hidden_states_are_pooled_as_asked(tmp_path, pooling, want):
    write_words(tmp_path)
    tower = load_text_tower(text_model(tmp_path / "x.onnx"), pooling=pooling)
    rows = tower.encode(tower.tokenize(["tea pot", "pot"]))
    np.testing.assert_allclose(rows, [want, TABLE[2]], rtol=1e-6)
    assert "4 tokens of tokenizer.json" in tower.note


def test_a_title_without_tokens_is_absent(tmp_path):
    write_words(tmp_path)
    tower = load_text_tower(text_model(tmp_path / "x.onnx"), pooling="mean")
    encoded = encode_texts(["tea", "", "pot"], tower, batch=2)
    np.testing.assert_allclose(encoded.rows, [TABLE[1], np.zeros(DIM), TABLE[2]], rtol=1e-6)
    assert encoded.reasons == ("", "no token", "")


def test_hidden_states_without_a_pooling_are_refused(tmp_path):
    write_words(tmp_path)
    file = text_model(tmp_path / "x.onnx")
    with pytest.raises(DataError, match=r"name the output, or give a pooling .* found hidden \['b', 't', 5\]"):
        load_text_tower(file)
    with pytest.raises(ConfigError, match="pooling: expected one of mean, first, found 'last'"):
        load_text_tower(file, pooling="last")


def test_ids_alone_and_a_fixed_length(tmp_path):
    write_words(tmp_path, limit=10**30)
    tower = load_text_tower(text_model(tmp_path / "x.onnx", ("input_ids",), tokens=3), pooling="mean")
    assert tower.tokenize(["tea"]).ids.tolist() == [[1, 3, 3]]
    with pytest.raises(DataError, match="a length in tokens"):
        load_text_tower(text_model(tmp_path / "x.onnx"), pooling="mean")


@pytest.mark.parametrize("inputs", [("ids", "more_ids"), ("mask", "attention_mask"), ("ids", "mask", "mask_2")])
def test_unclear_text_inputs_are_refused(tmp_path, inputs):
    write_words(tmp_path)
    with pytest.raises(DataError, match="ids, perhaps mask and token types, found"):
        load_text_tower(text_model(tmp_path / "x.onnx", inputs), pooling="mean")


def test_a_text_model_is_no_image_model_and_back(tmp_path):
    write_words(tmp_path)
    with pytest.raises(DataError, match=r"one input \[batch, 3, side, side\] of floats, found input_ids"):
        load_image_tower(text_model(tmp_path / "text.onnx"))
    with pytest.raises(DataError, match="of integers: ids"):
        load_text_tower(image_model(tmp_path / "image.onnx"))
    with pytest.raises(DataError, match="expected square images, found pixels"):
        load_image_tower(image_model(tmp_path / "wide.onnx", shape=("b", 3, SIDE, 2 * SIDE)))


def test_a_damaged_model_is_one_line(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"damaged")
    with pytest.raises(DataError, match="expected an ONNX model, found"):
        load_image_tower(tmp_path)
