"""Titles as token ids: CLIP's byte-level pairs, or whatever a tokenizer.json beside a model says.

Files beside the weights, first that is there: ``tokenizer.json``; ``vocab.json`` and ``merges.txt``;
``bpe_simple_vocab_16e6.txt.gz``, open_clip's.
"""

from __future__ import annotations

import gzip
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax.data.messages import problem
from fedvlr_jax.extras import require_extra

START, END = "<|startoftext|>", "<|endoftext|>"
PADS = ("[PAD]", "<pad>", END)
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
OPEN_CLIP_FILE = "bpe_simple_vocab_16e6.txt.gz"
OPEN_CLIP_MERGES = 49152 - 256 - 2
FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"), (OPEN_CLIP_FILE,))


class Tokens(NamedTuple):
    """Token ids [b, t] int32 and the mask [b, t] int32 of those that are no padding."""

    ids: np.ndarray
    mask: np.ndarray


Tokenize = Callable[[Sequence[str]], Tokens]


def find_tokenizer(folder: pathlib.Path) -> tuple[pathlib.Path, ...]:
    """The files of the tokenizer in a folder.

    Raises:
      DataError: none of them.
    """
    for names in FILES:
        if all((folder / name).is_file() for name in names):
            return tuple(folder / name for name in names)
    raise problem(folder, " or ".join(" with ".join(names) for names in FILES), "none of them")


def read_tokenizer(files: Sequence[pathlib.Path]) -> Any:
    """A `tokenizers.Tokenizer` of the files that `find_tokenizer` names.

    Raises:
      DataError: files that are damaged.
      ConfigError: the extra ``features`` is not installed.
    """
    with require_extra("features", files[0].name):
        import tokenizers
    try:
        if files[0].name == "tokenizer.json":
            return tokenizers.Tokenizer.from_file(str(files[0]))
        if len(files) == 2:
            vocabulary = json.loads(files[0].read_text(encoding="utf-8"))
            return _byte_level(vocabulary, _merges(files[1].read_text(encoding="utf-8")))
        merges = _merges(gzip.decompress(files[0].read_bytes()).decode())[:OPEN_CLIP_MERGES]
        return _byte_level(_vocabulary(merges), merges)
    except Exception as error:  # the library raises Exception itself
        raise problem(files[0], "a tokenizer", " ".join(str(error).split())) from error


def clip_tokens(tokenizer: Any, context: int, vocabulary: int, file: pathlib.Path) -> Tokenize:
    """Start, the title's tokens, end, padded to `context`; too long a title is cut, and its last token is the end.

    Args:
      tokenizer: see `read_tokenizer`.
      context: tokens that the tower takes.
      vocabulary: rows of the tower's table of tokens.
      file: named in errors.

    Raises:
      DataError: a tokenizer without start and end tokens, or with more tokens than the tower knows.
    """
    start, end = tokenizer.token_to_id(START), tokenizer.token_to_id(END)
    if start is None or end is None:
        raise problem(file, f"the tokens {START} and {END}", "a tokenizer without them")
    if tokenizer.get_vocab_size() > vocabulary:
        raise problem(file, f"at most {vocabulary} tokens, as the weights have", str(tokenizer.get_vocab_size()))
    tokenizer.no_padding()
    tokenizer.no_truncation()

    def tokenize(titles: Sequence[str]) -> Tokens:
        ids_bt = np.zeros((len(titles), context), np.int32)
        for row, encoding in zip(ids_bt, tokenizer.encode_batch(list(titles), add_special_tokens=False), strict=True):
            tokens = [start, *encoding.ids[: context - 2], end]
            row[: len(tokens)] = tokens
        first_end_b = (ids_bt == end).argmax(axis=1)  # a title may spell it out
        return Tokens(ids_bt, (np.arange(context)[None] <= first_end_b[:, None]).astype(np.int32))

    return tokenize


def model_tokens(tokenizer: Any, context: int) -> Tokenize:
    """Tokens with the special ones that tokenizer.json itself adds, cut and padded to `context`."""
    pads = [token for token in PADS if tokenizer.token_to_id(token) is not None]
    pad = {"pad_id": tokenizer.token_to_id(pads[0]), "pad_token": pads[0]} if pads else {}
    given = tokenizer.padding or {}
    pad |= {name: given[name] for name in ("pad_id", "pad_token") if name in given}
    tokenizer.enable_truncation(context)
    tokenizer.enable_padding(length=context, **pad)

    def tokenize(titles: Sequence[str]) -> Tokens:
        found = tokenizer.encode_batch(list(titles))
        ids_bt, mask_bt = ([getattr(x, name) for x in found] for name in ("ids", "attention_mask"))
        return Tokens(np.asarray(ids_bt, np.int32), np.asarray(mask_bt, np.int32))

    return tokenize


def _byte_level(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Any:
    """CLIP's tokenizer: lower case, one space, words by `WORDS`, byte-level pairs with </w> at the end of a word."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

    pairs = models.BPE(vocabulary, merges, end_of_word_suffix="</w>", unk_token=END)
    tokenizer = Tokenizer(pairs)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in (START, END)])
    return tokenizer


def _merges(text: str) -> list[tuple[str, str]]:
    """Pairs in order; the first line is a comment."""
    pairs = [tuple(line.split()) for line in text.splitlines()[1:] if line.strip()]
    return [(a, b) for a, b in pairs]


def _vocabulary(merges: list[tuple[str, str]]) -> dict[str, int]:
    """open_clip's numbering: bytes, bytes that end a word, merged pairs, start, end."""
    letters = byte_letters()
    words = [*letters, *(f"{letter}</w>" for letter in letters), *(a + b for a, b in merges), START, END]
    return {word: k for k, word in enumerate(words)}


def byte_letters() -> list[str]:
    """A printable letter for every byte, in the order in which CLIP numbers them.

    Printable bytes stand for themselves and come first, the others follow as letters from U+0100 on.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = len(set(range(256)) - set(printable))
    return [chr(byte) for byte in printable] + [chr(256 + k) for k in range(others)]
