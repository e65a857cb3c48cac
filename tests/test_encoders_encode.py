"""Features of all items: order, batches, absent ones, blocks that are kept, and rows of the user's own by id."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from PIL import Image

from fedvlr_jax.data.encoders import (
    Encoded,
    ImageTower,
    TextTower,
    encode_images,
    encode_texts,
    fill_absent,
    join,
    read_table,
    seal_images,
    seal_table,
)
from fedvlr_jax.data.encoders.blocks import BLOCK_BATCHES
from fedvlr_jax.data.encoders.decisions import Preprocessing
from fedvlr_jax.data.encoders.tokens import Tokens
from fedvlr_jax.errors import ConfigError, DataError
from fedvlr_jax.io.array_cache import ArrayCache

SIDE, BATCH = 4, 3
BLOCK = BATCH * BLOCK_BATCHES
COUNT = 2 * BLOCK + 5


class Stop(Exception):
    """Raised by a callback."""


def image_tower(calls=None, seal="seal", batch=None):
    """The first pixel's colour; `calls` collects the shapes."""

    def encode(pixels_b3rr):
        if calls is not None:
            calls.append(pixels_b3rr.shape)
        return pixels_b3rr[:, :, 0, 0]

    return ImageTower(encode, Preprocessing(SIDE, (0, 0, 0), (1, 1, 1)), seal, "a note", batch)


def text_tower(calls=None):
    """The length of a title."""

    def encode(tokens):
        if calls is not None:
            calls.append(tokens.ids.shape)
        return tokens.ids.astype(np.float32)

    def tokenize(titles):
        ids = np.array([[len(title)] for title in titles], np.int32)
        return Tokens(ids, np.ones_like(ids))

    return TextTower(encode, tokenize, "seal", "a note")


@pytest.fixture
def paths(tmp_path):
    """An image of its own grey for every item, but for a missing and a damaged one."""
    files = [tmp_path / f"{k}.png" for k in range(COUNT)]
    for k, file in enumerate(files):
        Image.new("RGB", (5, 5), (k, k, k)).save(file)
    files[2] = None
    files[7].write_text("damaged")
    return files


def test_rows_are_in_the_order_of_the_items_and_absent_ones_are_named(paths):
    calls, seen = [], []
    encoded = encode_images(paths, image_tower(calls), batch=BATCH, on_progress=seen.append)
    want = np.repeat(np.arange(COUNT)[:, None] / 255, 3, axis=1)
    want[[2, 7]] = 0
    np.testing.assert_allclose(encoded.rows, want, atol=1e-6)
    assert encoded.rows.dtype == np.float32
    assert np.flatnonzero(~encoded.present).tolist() == [2, 7]
    assert encoded.reasons[2] == "no file"
    assert "cannot identify" in encoded.reasons[7]
    assert set(calls) == {(BATCH, 3, SIDE, SIDE)}  # the last one is padded
    assert [x.done for x in seen] == [*range(BATCH, COUNT, BATCH), COUNT]
    assert seen[0].seconds_left is None
    assert seen[-1].seconds_left == 0


def test_titles_are_encoded_an_empty_one_too():
    calls = []
    encoded = encode_texts([k * "x" for k in range(COUNT)], text_tower(calls), batch=BATCH)
    np.testing.assert_array_equal(encoded.rows[:, 0], np.arange(COUNT))
    assert encoded.present.all()
    assert set(calls) == {(BATCH, 1)}


def test_a_stopped_run_goes_on_and_gives_the_same(paths, tmp_path):
    cache, calls = ArrayCache(tmp_path / "cache"), []
    whole = encode_images(paths, image_tower(), batch=BATCH)

    def stop(progress):
        if progress.done > BLOCK + BATCH:
            raise Stop

    with pytest.raises(Stop):
        encode_images(paths, image_tower(), batch=BATCH, cache=cache, on_progress=stop)
    seen = []
    again = encode_images(paths, image_tower(calls), batch=BATCH, cache=cache, on_progress=seen.append)
    assert len(calls) == -(-(COUNT - BLOCK) // BATCH)
    assert seen[0].done == BLOCK + BATCH
    for first, second in zip(whole, again, strict=True):
        np.testing.assert_array_equal(first, second)
    calls.clear()
    encode_images(paths, image_tower(calls), batch=BATCH, cache=cache)
    assert calls == []


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 damaged"])
def test_a_damaged_block_is_computed_again(paths, tmp_path, damage):
    cache, calls = ArrayCache(tmp_path / "cache"), []
    whole = encode_images(paths, image_tower(), batch=BATCH, cache=cache)
    sorted(cache.folder.iterdir())[0].write_bytes(damage)
    again = encode_images(paths, image_tower(calls), batch=BATCH, cache=cache)
    assert 0 < len(calls) <= BLOCK_BATCHES
    np.testing.assert_array_equal(whole.rows, again.rows)


def test_other_weights_items_or_files_are_other_blocks(paths, tmp_path):
    cache = ArrayCache(tmp_path / "cache")
    encode_images(paths, image_tower(), batch=BATCH, cache=cache)

    def batches(files, **tower):
        calls = []
        encode_images(files, image_tower(calls, **tower), batch=BATCH, cache=cache)
        return len(calls)

    assert batches(paths, seal="other") == -(-COUNT // BATCH)
    assert batches([*paths, paths[0]]) == 2  # the last block alone
    assert batches([paths[1], paths[0], *paths[2:]]) == BLOCK_BATCHES
    seal = seal_images(paths, image_tower())
    Image.new("RGB", (9, 9), "red").save(paths[0])
    assert seal_images(paths, image_tower()) != seal
    assert batches(paths) == BLOCK_BATCHES


def test_batches_and_numbers_that_cannot_be(paths):
    with pytest.raises(ConfigError, match="batch: expected 2, the only one that this model takes, found 3"):
        encode_images(paths, image_tower(batch=2), batch=3)
    assert encode_images(paths[:3], image_tower(batch=2)).rows.shape == (3, 3)
    with pytest.raises(ConfigError, match="batch: expected at least 1, found 0"):
        encode_texts(["x"], text_tower(), batch=0)
    with pytest.raises(DataError, match="at least one item"):
        encode_texts([], text_tower())
    broken = text_tower()._replace(encode=lambda tokens: np.full((2, 3), np.nan))
    with pytest.raises(DataError, match="finite numbers, found others; are the weights damaged"):
        encode_texts(["x"], broken, batch=2)


def table(tmp_path, ids=("b", "a", "c"), rows=((1.0, 2.0), (3.0, 4.0), (0.0, 0.0))):
    np.savez(tmp_path / "x.npz", ids=np.array(ids), features=np.array(rows))
    return read_table(tmp_path / "x.npz")


def test_rows_of_the_users_are_joined_by_id(tmp_path):
    encoded = join(["a", "x", "b", "c"], table(tmp_path))
    np.testing.assert_array_equal(encoded.rows, [[3, 4], [0, 0], [1, 2], [0, 0]])
    assert encoded.present.tolist() == [True, False, True, False]
    assert encoded.reasons == ("", "no row", "", "only zeros")
    np.testing.assert_array_equal(fill_absent(encoded), [[3, 4], [2, 3], [1, 2], [2, 3]])


def test_ids_may_be_a_text_file_or_integers(tmp_path):
    rows = np.arange(6, dtype=np.float16).reshape(3, 2)
    np.save(tmp_path / "rows.npy", rows)
    np.save(tmp_path / "ids.npy", np.array([30, 10, 20]))
    (tmp_path / "ids.txt").write_text("30\n10\n20\n")
    tables = [read_table(tmp_path / "rows.npy", tmp_path / name) for name in ("ids.npy", "ids.txt")]
    for found in tables:
        np.testing.assert_array_equal(join(["10", "20"], found).rows, rows[1:])
    assert len({seal_table(["10"], found) for found in tables}) == 1
    assert seal_table(["20"], tables[0]) != seal_table(["10"], tables[0])


@pytest.mark.parametrize("text", ["\ufeffa\nb\nc\n", "a \n\tb\r\n c", "a\nb\nc\n\n \n"])
def test_marks_and_blanks_around_ids_are_no_part_of_them(tmp_path, text):
    np.save(tmp_path / "rows.npy", np.eye(3))
    (tmp_path / "ids.txt").write_bytes(text.encode())
    assert join(["a", "b", "c"], read_table(tmp_path / "rows.npy", tmp_path / "ids.txt")).present.all()
    assert join(["a", "b", "c"], table(tmp_path, ("a ", " b", "c"), np.eye(3))).present.all()


@pytest.mark.parametrize(
    ("ids", "rows", "message"),
    [
        (["a", "b"], [[1.0], [2.0], [3.0]], "3 ids, one for each row of x.npz, found 2"),
        (["a", "a"], [[1.0], [2.0]], "every id once, found 'a' again"),
        ([1.0, 2.0], [[1.0], [2.0]], "integers or text, found float64"),
        (["a", "b"], [[1], [2]], "finite floats .*, found int64"),
        (["a", "b"], [[1.0], [np.nan]], "finite floats"),
        (["a", "b"], [1.0, 2.0], r"finite floats .* \(2,\)"),
    ],
)
def test_rows_that_do_not_fit_are_refused(tmp_path, ids, rows, message):
    with pytest.raises(DataError, match=message):
        table(tmp_path, ids, rows)


def test_files_that_are_no_arrays_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((2, 2)))
    with pytest.raises(DataError, match="a second file with the ids"):
        read_table(tmp_path / "x.npy")
    np.savez(tmp_path / "y.npz", rows=np.ones((2, 2)))
    with pytest.raises(DataError, match="arrays ids and features, found rows"):
        read_table(tmp_path / "y.npz")
    (tmp_path / "z.npz").write_text("damaged")
    (tmp_path / "zip.npz").write_bytes(b"PK\x03\x04 damaged")
    for name in ("z.npz", "none.npz", "zip.npz"):
        with pytest.raises(DataError, match="expected a NumPy file"):
            read_table(tmp_path / name)


def test_ids_of_another_kind_and_features_of_nobody_are_refused(tmp_path):
    with pytest.raises(DataError, match="the ids of the items, such as 'x', found 'b' and none of them"):
        join(["x", "y"], table(tmp_path))
    nobody = Encoded(np.zeros((2, 3), np.float32), np.zeros(2, bool), ("no file", "no file"))
    with pytest.raises(DataError, match=r"found none \(no file\)"):
        fill_absent(nobody)


def test_a_cache_holds_what_was_written(tmp_path):
    cache = ArrayCache(tmp_path / "deep" / "cache")
    key = hashlib.sha256(b"x").hexdigest()
    assert cache.read(key) is None
    cache.write(key, {"x": np.arange(3)})
    np.testing.assert_array_equal(cache.read(key)["x"], np.arange(3))
    assert [file.name for file in cache.folder.iterdir()] == [f"{key}.npz"]
