"""Titles to token ids: CLIP's byte-level pairs by hand, the three kinds of files, truncation and padding."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import tokenizers
from clip_checkpoints import CONTEXT, write_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from fedvlr_jax.data.encoders.tokens import (
    byte_letters,
    clip_tokens,
    find_tokenizer,
    model_tokens,
    read_tokenizer,
)
from fedvlr_jax.errors import DataError

TEA, POT, START, END = 53, 55, 56, 57
MERGES = ["t e", "te a</w>", "p o", "po t</w>"]


def tokenize(folder, context=CONTEXT, vocabulary=100):
    files = find_tokenizer(folder)
    return clip_tokens(read_tokenizer(files), context, vocabulary, files[0])


@pytest.fixture
def folder(tmp_path):
    write_tokenizer(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("title", "ids"),
    [
        ("tea pot", [TEA, POT]),
        ("  TEA\t pot\n", [TEA, POT]),
        ("at", [0, 26 + 19]),
        ("", []),
        ("teapot", [52, 0, POT]),
        ("tea<|endoftext|>pot", [TEA, END, POT]),
    ],
)
def test_titles_are_split_and_merged_as_by_hand(folder, title, ids):
    got, mask = tokenize(folder)([title])
    assert got[0].tolist() == [START, *ids, END] + [0] * (CONTEXT - len(ids) - 2)
    assert mask[0].sum() == got[0].tolist().index(END) + 1
    assert mask[0].tolist() == sorted(mask[0], reverse=True)


def test_a_long_title_is_cut_and_still_ends(folder):
    ids, mask = tokenize(folder, context=5)(["tea " * 9, "pot"])
    assert ids.tolist() == [[START, TEA, TEA, TEA, END], [START, POT, END, 0, 0]]
    assert mask.sum(axis=1).tolist() == [5, 3]


def test_a_tokenizer_json_says_the_same(folder):
    want = tokenize(folder)(["tea pot", "Pot at tea"])
    read_tokenizer(find_tokenizer(folder)).save(str(folder / "tokenizer.json"))
    assert [file.name for file in find_tokenizer(folder)] == ["tokenizer.json"]
    for first, second in zip(want, tokenize(folder)(["tea pot", "Pot at tea"]), strict=True):
        np.testing.assert_array_equal(first, second)


def write_open_clip(folder):
    lines = ["a comment", *MERGES]
    (folder / "bpe_simple_vocab_16e6.txt.gz").write_bytes(gzip.compress("\n".join(lines).encode()))


def test_the_file_of_open_clip_numbers_bytes_then_pairs(tmp_path):
    write_open_clip(tmp_path)
    ids, _ = tokenize(tmp_path, vocabulary=600)(["tea at pot", "é!"])
    letters = byte_letters()
    end = [512 + len(MERGES), 512 + len(MERGES) + 1]
    assert ids[0, :6].tolist() == [end[0], 513, letters.index("a"), 256 + letters.index("t"), 515, end[1]]
    assert ids[1, :5].tolist() == [
        end[0],
        letters.index("Ã"),
        256 + letters.index("©"),
        256 + letters.index("!"),
        end[1],
    ]


def test_the_bytes_of_clip_are_in_its_order():
    letters = byte_letters()
    assert len(set(letters)) == 256
    assert letters[:3] == ["!", '"', "#"]
    assert letters[93:95] == ["~", "¡"]
    assert letters[188:190] == ["Ā", "ā"]


@given(st.lists(st.text(max_size=40), min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_any_text_has_a_start_an_end_and_known_tokens(any_tokenize, titles):
    ids, mask = any_tokenize(titles)
    assert (ids[:, 0] == 516).all()
    assert ((ids >= 0) & (ids < 518)).all()
    assert (ids[np.arange(len(titles)), mask.sum(axis=1) - 1] == 517).all()


@pytest.fixture(scope="module")
def any_tokenize(tmp_path_factory):
    folder = tmp_path_factory.mktemp("open_clip")
    write_open_clip(folder)
    return tokenize(folder, vocabulary=518)


def test_no_tokenizer_names_what_is_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"tokenizer\.json or vocab\.json with merges\.txt or bpe_simple_vocab"):
        find_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json", "bpe_simple_vocab_16e6.txt.gz"])
def test_damaged_files_are_one_line(tmp_path, name):
    for file in (name, "merges.txt"):
        (tmp_path / file).write_text("damaged")
    with pytest.raises(DataError, match=f"{name}: expected a tokenizer, found"):
        read_tokenizer(find_tokenizer(tmp_path))


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    _word_level().save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match=r"the tokens <\|startoftext\|> and <\|endoftext\|>"):
        tokenize(tmp_path)


def _word_level():
    words = {word: k for k, word in enumerate(["[UNK]", "[CLS]", "[SEP]", "tea", "pot", "[PAD]"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return tokenizer


def test_a_model_of_another_kind_keeps_its_own_special_tokens_and_padding():
    ids, mask = model_tokens(_word_level(), 5)(["tea", "pot tea cup pot"])
    assert ids.tolist() == [[1, 3, 2, 5, 5], [1, 4, 3, 0, 2]]
    assert mask.tolist() == [[1, 1, 1, 0, 0], [1] * 5]
