"""Compute image_features.npy and text_features.npy of a data set, from encoders and files on disk.

python experiments/encode.py --weights=CLIP --images=DIR --ids=data/X/ids/items.csv --out=data/X [--titles=FILE]

--weights is a .safetensors of CLIP (names of open_clip or Hugging Face) or an .onnx, or a folder with one of them and
its tokenizer. --ids is a CSV file with the columns number, id and perhaps title. --images has a file ID.jpg for an
item; titles come from --titles (columns id, title), else from --ids. An item without an image gets the mean of the
others, one without a title the encoding of "The title is missing."; missing.npz names both. Finished blocks are kept
in OUT/.encoding, so that a stopped run goes on.
"""

from __future__ import annotations

import pathlib
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import flags

from fedvlr_jax.commands import cli
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.io.interrupt import Interrupt

if TYPE_CHECKING:
    from fedvlr_jax.data.encoders import Encoded
    from fedvlr_jax.io.feature_files import Items

TEXTS = {
    "weights": "a .safetensors of CLIP or an .onnx, or a folder with one",
    "text_weights": "the same for titles, if they have weights of their own, as in ONNX",
    "activation": "of CLIP: quick_gelu (OpenAI's weights) or gelu; else config.json beside the weights says",
    "tokenizer": "folder of the tokenizer's files, if it is not that of the weights",
    "output": "output of an ONNX model of images that has several",
    "text_output": "the same for titles",
    "pooling": "mean or first, for an ONNX model with a row for every token",
    "images": "folder of images ID.jpg",
    "titles": "CSV file with the columns id, title; else the titles are those of --ids",
    "ids": "CSV file with the columns number, id and perhaps title",
    "image_rows": "features to take instead of --images: FILE.npz (ids, features) or FILE.npy,IDS",
    "text_rows": "features to take instead of titles",
    "out": "folder of the features",
}


def define(values: flags.FlagValues) -> None:
    """All flags."""
    for name, about in TEXTS.items():
        flags.DEFINE_string(name, None, about, flag_values=values)
    flags.DEFINE_enum("only", None, ["image", "text"], "one modality alone", flag_values=values)
    flags.DEFINE_integer("batch", None, "items at a time", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("workers", None, "threads that read images", lower_bound=1, flag_values=values)


def body(values: flags.FlagValues, interrupt: Interrupt) -> None:
    """Encode what is asked for, one modality after the other."""
    from fedvlr_jax.io.feature_files import read_items
    from fedvlr_jax.io.files import prepare_workdir

    for name in ("ids", "out"):
        if values[name].value is None:
            raise ConfigError(f"--{name} is missing: {TEXTS[name]}")
    items = read_items(pathlib.Path(values.ids), values.titles and pathlib.Path(values.titles))
    asked = _asked(values, items)
    out = prepare_workdir(pathlib.Path(values.out))
    for modality in asked:
        _write(modality, SOURCES[modality](values, items), out, interrupt)


def _asked(values: flags.FlagValues, items: Items) -> list[str]:
    """The modalities that the flags give an encoder and something to encode, or rows, for."""
    if values.images and not (values.weights or values.image_rows):
        raise ConfigError(f"--weights is missing: {TEXTS['weights']}")
    chosen = {
        "image": values.image_rows or values.images,
        "text": values.text_rows or (any(items.titles) and _text_weights(values)),
    }
    asked = [modality for modality, given in chosen.items() if given and values.only in (None, modality)]
    if not asked:
        raise ConfigError("nothing to encode: give --weights with --images or titles, or --image_rows, --text_rows")
    return asked


def _text_weights(values: flags.FlagValues) -> Any:
    """Those of the images where both towers are in one file; an ONNX model is one tower."""
    from fedvlr_jax.data.encoders import find_weights

    if values.text_weights or not (values.weights and values.images):
        return values.text_weights or values.weights
    return None if find_weights(pathlib.Path(values.weights)).suffix == ".onnx" else values.weights


class _Source(NamedTuple):
    """Where the features of one modality are from."""

    seal: str
    """Names everything that they depend on."""
    note: str
    encode: Callable[..., Encoded]
    """With the arguments cache and on_progress."""
    replaced: tuple[bool, ...]
    """The items whose input is a placeholder."""


def _write(modality: str, source: _Source, out: pathlib.Path, interrupt: Interrupt) -> None:
    """The features of one modality, unless they are there already."""
    from fedvlr_jax.data.encoders import fill_absent
    from fedvlr_jax.io.array_cache import ArrayCache
    from fedvlr_jax.io.feature_files import FILES, is_written, write_features
    from fedvlr_jax.io.progress import counting_line

    print(source.note)
    if is_written(out, modality, source.seal):
        print(f"{out / FILES[modality]} is there, from the same inputs; nothing to do")
        return
    line = counting_line(modality)

    def on_progress(progress: Any) -> None:
        line(*progress)
        interrupt.stop_if_signalled("stopped; finished blocks are kept")

    encoded = source.encode(cache=ArrayCache(out / ".encoding"), on_progress=on_progress)
    missing = ~encoded.present | source.replaced
    reasons = dict(Counter(reason for reason in encoded.reasons if reason).most_common())
    facts = {"note": source.note, "items": len(missing), "missing": int(missing.sum()), "reasons": reasons}
    write_features(out, modality, source.seal, fill_absent(encoded), missing, facts)
    print(f"{out / FILES[modality]}: {len(missing):,} items, {missing.sum():,} of them imputed{_listed(reasons)}")


def _listed(reasons: dict[str, int], most: int = 3) -> str:
    """The commonest reasons, after a colon."""
    shown = [f"{count:,} x {reason}" for reason, count in list(reasons.items())[:most]]
    return f" ({'; '.join(shown)}{'; ...' if len(reasons) > most else ''})" if shown else ""


def _images(values: flags.FlagValues, items: Items) -> _Source:
    from fedvlr_jax.data.encoders import encode_images, load_image_tower, seal_images
    from fedvlr_jax.io.feature_files import find_images

    if values.image_rows:
        return _joined(values.image_rows, items)
    paths = find_images(pathlib.Path(values.images), items.ids)
    tower = load_image_tower(values.weights, activation=values.activation, output=values.output)
    settings = {"batch": values.batch, "workers": values.workers}
    encode = partial(encode_images, paths, tower, **settings)
    return _Source(seal_images(paths, tower), tower.note, encode, (False,) * len(paths))


def _titles(values: flags.FlagValues, items: Items) -> _Source:
    from fedvlr_jax.data.encoders import encode_texts, load_text_tower, seal_texts
    from fedvlr_jax.io.feature_files import NO_TITLE

    if values.text_rows:
        return _joined(values.text_rows, items)
    tower = load_text_tower(
        _text_weights(values),
        activation=values.activation,
        tokenizer=values.tokenizer,
        output=values.text_output,
        pooling=values.pooling,
    )
    titles = [title or NO_TITLE for title in items.titles]
    encode = partial(encode_texts, titles, tower, batch=values.batch)
    return _Source(seal_texts(titles, tower), tower.note, encode, tuple(not title for title in items.titles))


def _joined(rows: str, items: Items) -> _Source:
    """Features of the user's own, FILE.npz or FILE.npy,IDS."""
    from fedvlr_jax.data.encoders import join, read_table, seal_table

    file, _, ids = rows.partition(",")
    table = read_table(pathlib.Path(file), pathlib.Path(ids) if ids else None)
    note = f"{table.file.name}: {len(table.ids):,} rows of {table.rows.shape[1]} numbers, joined by id"
    return _Source(seal_table(items.ids, table), note, lambda **_: join(items.ids, table), (False,) * len(items.ids))


SOURCES = {"image": _images, "text": _titles}


def main() -> int:
    """Run the command line of this process; its exit code, see `cli`."""
    return cli.run(body, about=__doc__, define=define, with_config=False)
