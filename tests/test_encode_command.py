"""The command ``encode``: from weights, images and titles to the files of a canonical folder."""

from __future__ import annotations

import json
import os
import re
import signal
import time

import numpy as np
import pytest
from clip_checkpoints import DIM, random_tensors, write_checkpoint, write_tokenizer
from commands import run_here, start
from data_folders import write_folder
from PIL import Image

from fedvlr_jax.data.folder import read_folder
from fedvlr_jax.data.messages import DataWarning
from fedvlr_jax.io.files import read_arrays, write_csv

COUNT = 6


@pytest.fixture
def files(tmp_path):
    """Weights, images and items: no image of item 2, a damaged one of item 4, no title of item 3."""
    tensors = random_tensors()
    tensors["token_embedding.weight"] = np.resize(tensors["token_embedding.weight"], (100, 64))
    write_tokenizer(write_checkpoint(tmp_path / "clip", tensors).parent)
    (tmp_path / "images").mkdir()
    generator = np.random.default_rng(0)
    for k in set(range(COUNT)) - {2}:
        pixels = generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"B00{k}.jpg")
    (tmp_path / "images" / "B004.jpg").write_text("damaged")
    titles = ["tea", "pot", "tea pot", "", "cup", "jug"]
    rows = [(k, f"B00{k}", title) for k, title in enumerate(titles)]
    write_csv(tmp_path / "items.csv", ["number", "id", "title"], rows)
    return tmp_path


def flags(files, **changes):
    """All flags; a value of None leaves one out."""
    values = {
        "weights": files / "clip",
        "activation": "gelu",
        "images": files / "images",
        "ids": files / "items.csv",
        "out": files / "out",
        "batch": 2,
    }
    return [f"--{name}={value}" for name, value in (values | changes).items() if value is not None]


def features(folder):
    return [np.load(folder / f"{modality}_features.npy") for modality in ("image", "text")]


def snapshot(folder):
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir() if file.is_file()}


def test_features_come_in_the_order_of_the_items_with_a_mask(files, monkeypatch, capsys):
    assert run_here(monkeypatch, "encode", *flags(files)) == 0
    image, text = features(files / "out")
    assert image.shape == text.shape == (COUNT, DIM)
    assert image.dtype == text.dtype == np.float32
    present = [0, 1, 3, 5]
    np.testing.assert_allclose(image[[2, 4]], np.tile(image[present].mean(axis=0), (2, 1)), rtol=1e-5)
    missing = read_arrays(files / "out" / "missing.npz")
    assert {name: np.flatnonzero(mask).tolist() for name, mask in missing.items()} == {"image": [2, 4], "text": [3]}
    said = capsys.readouterr().out
    assert "model.safetensors, image: gelu (as asked for), 1 heads (width / 64)" in said
    assert "image_features.npy: 6 items, 2 of them imputed (1 x no file; 1 x Unidentified" in said
    assert "text_features.npy: 6 items, 1 of them imputed\n" in said


def test_the_folder_is_read_as_a_data_set(files, monkeypatch):
    folder = write_folder(files / "set")
    count = read_folder(folder).num_items
    for name in ("image_features.npy", "text_features.npy"):
        (folder / name).unlink()
    rows = [(k, f"B00{k}", "tea " * (1 + k % 3)) for k in range(count)]
    write_csv(files / "items.csv", ["number", "id", "title"], rows)
    assert run_here(monkeypatch, "encode", *flags(files, out=folder)) == 0
    with pytest.warns(DataWarning, match="2 of 5 items have no image of their own"):
        dataset = read_folder(folder)
    assert dataset.V.shape == dataset.C.shape == (count, DIM)
    assert dataset.missing_V.sum() == 2


def test_a_second_call_changes_nothing_and_computes_nothing(files, monkeypatch, capsys):
    assert run_here(monkeypatch, "encode", *flags(files)) == 0
    before = snapshot(files / "out")
    monkeypatch.setattr("fedvlr_jax.data.encoders.encode_images", None)
    monkeypatch.setattr("fedvlr_jax.data.encoders.encode_texts", None)
    with pytest.raises(TypeError):
        run_here(monkeypatch, "encode", *flags(files, out=files / "elsewhere"))
    monkeypatch.undo()
    capsys.readouterr()
    assert run_here(monkeypatch, "encode", *flags(files)) == 0
    assert snapshot(files / "out") == before
    assert capsys.readouterr().out.count("nothing to do") == 2


@pytest.mark.parametrize("change", ["activation", "weights", "title", "image", "features"])
def test_other_content_is_not_overwritten(files, monkeypatch, capsys, change):
    assert run_here(monkeypatch, "encode", *flags(files)) == 0
    other = {}
    if change == "activation":
        other = {"activation": "quick_gelu"}
    elif change == "weights":
        write_checkpoint(files / "clip", random_tensors(seed=1))
    elif change == "title":
        text = (files / "items.csv").read_text()
        (files / "items.csv").write_text(text.replace("cup", "mug"))
    elif change == "image":
        Image.new("RGB", (9, 9)).save(files / "images" / "B004.jpg")
    else:
        np.save(files / "out" / "image_features.npy", np.ones((COUNT, 3), np.float32))
    before = snapshot(files / "out")
    assert run_here(monkeypatch, "encode", *flags(files, **other)) == 2
    assert re.search(r"_features\.npy is there with other content; delete it", capsys.readouterr().err)
    assert snapshot(files / "out") == before


def test_modalities_one_after_the_other_keep_both_masks(files, monkeypatch):
    assert run_here(monkeypatch, "encode", *flags(files, only="text")) == 0
    assert sorted(snapshot(files / "out")) == ["encoded.json", "missing.npz", "text_features.npy"]
    assert run_here(monkeypatch, "encode", *flags(files, only="image")) == 0
    assert run_here(monkeypatch, "encode", *flags(files, out=files / "both")) == 0
    alone, both = (snapshot(files / name) for name in ("out", "both"))
    assert {name: content for name, (content, _) in alone.items() if name.endswith(".npy")} == {
        name: content for name, (content, _) in both.items() if name.endswith(".npy")
    }
    assert set(read_arrays(files / "out" / "missing.npz")) == {"image", "text"}
    assert set(json.loads((files / "out" / "encoded.json").read_text())) == {"image", "text"}


def test_rows_of_the_users_and_titles_of_another_file(files, monkeypatch):
    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    np.save(files / "rows.npy", rows)
    (files / "names.txt").write_text("B005\nB001\nB000\nother\n")
    write_csv(files / "titles.csv", ["id", "title"], [("B001", "tea")])
    joined = flags(files, images=None, image_rows=f"{files}/rows.npy,{files}/names.txt", titles=files / "titles.csv")
    assert run_here(monkeypatch, "encode", *joined) == 0
    image, _ = features(files / "out")
    np.testing.assert_array_equal(image, [[4, 5], [2, 3], [2, 3], [2, 3], [2, 3], [0, 1]])
    masks = read_arrays(files / "out" / "missing.npz")
    assert masks["image"].tolist() == [False, False, True, True, True, False]
    assert masks["text"].tolist() == [True, False, True, True, True, True]
    assert run_here(monkeypatch, "encode", *joined) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": None}, "--ids is missing: CSV file"),
        ({"out": None}, "--out is missing"),
        ({"weights": None}, "--weights is missing: a .safetensors"),
        ({"weights": None, "images": None}, "nothing to encode: give --weights"),
        ({"activation": None}, "the tensors do not tell"),
        ({"ids": "nowhere.csv"}, "nowhere.csv: expected a CSV file in UTF-8, found .*No such file"),
        ({"images": "nowhere"}, "nowhere: expected a folder of images, found nothing"),
        ({"image_rows": "a,b,c"}, "b,c: expected a UTF-8 text file of ids, one a line"),
    ],
)
def test_what_is_wrong_is_one_line(files, monkeypatch, capsys, changes, message):
    assert run_here(monkeypatch, "encode", *flags(files, **changes)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(message, line)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(0, "a", ""), (2, "b", "")], "items.csv, line 3: expected number 1, found '2'"),
        ([(0, "a", ""), (1, "a", "")], "expected every id once, found 1 again"),
        ([], "expected the columns number, id and at least one row, found no row"),
        ([(0, "a", ""), (1, "B009", "")], "expected images named by id, such as a.jpg, found none"),
    ],
)
def test_items_that_are_wrong_are_refused(files, monkeypatch, capsys, rows, message):
    write_csv(files / "items.csv", ["number", "id", "title"], rows)
    assert run_here(monkeypatch, "encode", *flags(files)) == 2
    assert message in capsys.readouterr().err


def test_two_images_of_one_item_are_refused(files, monkeypatch, capsys):
    Image.new("RGB", (9, 9)).save(files / "images" / "B001.png")
    assert run_here(monkeypatch, "encode", *flags(files)) == 2
    assert "expected one image of B001, found B001.jpg and B001.png" in capsys.readouterr().err


def many(files, count=400):
    """Enough items for some blocks."""
    image = (files / "images" / "B000.jpg").read_bytes()
    for k in range(count):
        (files / "images" / f"x{k}.jpg").write_bytes(image)
    write_csv(files / "items.csv", ["number", "id", "title"], [(k, f"x{k}", f"tea {k}") for k in range(count)])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_goes_on_and_ends_with_the_same_files(files, number):
    many(files)
    process = start("encode", *flags(files))
    blocks = files / "out" / ".encoding"
    until = time.monotonic() + 60
    while len(list(blocks.glob("*.npz"))) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 128 + signal.SIGTERM)
    assert number == signal.SIGKILL or "finished blocks are kept\nto go on: python" in said
    assert not (files / "out" / "image_features.npy").exists()
    kept = {file: file.stat().st_mtime_ns for file in blocks.glob("*.npz")}
    for out in ("out", "whole"):
        again = start("encode", *flags(files, out=files / out))
        _, said = again.communicate()
        assert again.returncode == 0, said
    assert kept == {file: file.stat().st_mtime_ns for file in kept}
    for first, second in zip(features(files / "out"), features(files / "whole"), strict=True):
        np.testing.assert_array_equal(first, second)
    assert not [name for name in os.listdir(blocks) if not name.endswith((".npz", ".tmp")) and name != "lock"]


@pytest.mark.slow
def test_processes_at_the_same_time_do_not_harm_each_other(files):
    many(files, 100)
    only = [None, None, "image", "text"]
    processes = [start("encode", *flags(files, only=modality)) for modality in only]
    for process in processes:
        _, said = process.communicate()
        assert process.returncode == 0, said
    whole = start("encode", *flags(files, out=files / "whole"))
    whole.communicate()
    for first, second in zip(features(files / "out"), features(files / "whole"), strict=True):
        np.testing.assert_array_equal(first, second)
    assert set(read_arrays(files / "out" / "missing.npz")) == {"image", "text"}
    assert set(json.loads((files / "out" / "encoded.json").read_text())) == {"image", "text"}
