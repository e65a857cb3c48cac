"""Images with faults, and pixels against the steps of CLIP's own preprocessing written out."""

from __future__ import annotations

import struct
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from fedvlr_jax.data.encoders.decisions import CLIP_MEAN, CLIP_STD, Preprocessing
from fedvlr_jax.data.encoders.images import crop, read_pixels, refuse_huge_images
from fedvlr_jax.data.encoders.ordered import ordered_map

SIDE = 32
PLAIN = Preprocessing(SIDE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def colours(width, height, channels=3):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def read(path, preprocessing=PLAIN):
    with refuse_huge_images():
        return read_pixels(path, preprocessing)


def flat(path):
    """The one colour of an image that has one."""
    pixels = read(path).pixels
    assert pixels.shape == (3, SIDE, SIDE)
    assert np.ptp(pixels, axis=(1, 2)).max() < 0.03
    return pixels[:, SIDE // 2, SIDE // 2]


@pytest.mark.parametrize(("width", "height"), [(50, 41), (41, 50), (32, 32), (33, 97), (1, 1), (5, 3)])
def test_pixels_follow_the_steps_of_clip(tmp_path, width, height):
    image = Image.fromarray(colours(width, height))
    image.save(tmp_path / "x.png")
    short = min(width, height)
    wide, high = int(SIDE * width / short), int(SIDE * height / short)
    left, top = int(np.rint((wide - SIDE) / 2)), int(np.rint((high - SIDE) / 2))
    resized = np.asarray(image.resize((wide, high), Image.Resampling.BICUBIC))
    square = resized[top : top + SIDE, left : left + SIDE] / 255
    want = ((square - CLIP_MEAN) / CLIP_STD).transpose(2, 0, 1)
    got = read(tmp_path / "x.png", Preprocessing(SIDE)).pixels
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize(
    ("mode", "suffix", "colour", "want"),
    [
        ("CMYK", "jpg", (0, 255, 255, 0), (1, 0, 0)),
        ("L", "png", 128, (0.5, 0.5, 0.5)),
        ("LA", "png", (128, 7), (0.5, 0.5, 0.5)),
        ("RGBA", "png", (0, 255, 0, 0), (0, 1, 0)),
        ("1", "png", 1, (1, 1, 1)),
        ("RGB", "webp", (0, 0, 255), (0, 0, 1)),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, mode, suffix, colour, want):
    Image.new(mode, (40, 30), colour).save(tmp_path / f"x.{suffix}", quality=100)
    np.testing.assert_allclose(flat(tmp_path / f"x.{suffix}"), want, atol=0.03)


@pytest.mark.parametrize("transparency", [None, 1, b"\x00\x80"])
def test_palettes_become_rgb_before_resizing(tmp_path, transparency):
    image = Image.new("P", (40, 30), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.save(tmp_path / "x.png", **({} if transparency is None else {"transparency": transparency}))
    np.testing.assert_allclose(flat(tmp_path / "x.png"), (1, 0, 0), atol=0.03)


def test_an_exif_rotation_is_applied(tmp_path):
    image = Image.fromarray(colours(SIDE, SIDE))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    image.save(tmp_path / "turned.png", exif=exif)
    image.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "upright.png")
    np.testing.assert_array_equal(read(tmp_path / "turned.png").pixels, read(tmp_path / "upright.png").pixels)


def test_the_first_frame_of_an_animation_counts(tmp_path):
    first, second = (Image.new("RGB", (40, 40), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "x.gif", save_all=True, append_images=[second])
    np.testing.assert_allclose(flat(tmp_path / "x.gif"), (1, 0, 0), atol=0.03)


def _truncated(path):
    Image.fromarray(colours(200, 200)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _png_header(path, width, height):
    """A file that says how large it is, and has nothing else."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + bytes(4) + b"IDAT"
    )


FAULTS = {
    "truncated": (_truncated, "truncated"),
    "text": (lambda path: path.write_text("not an image"), "cannot identify image file the file"),
    "empty": (lambda path: path.write_bytes(b""), "cannot identify image file"),
    "folder": (lambda path: path.mkdir(), "directory"),
    "absent": (lambda path: None, "no file"),
    "huge": (lambda path: _png_header(path, 60_000, 60_000), "DecompressionBomb"),
    "large": (lambda path: _png_header(path, 10_000, 10_000), "DecompressionBomb"),
    "thin": (lambda path: Image.new("RGB", (1, 51)).save(path, "png"), "1 x 51: one side over 50 times"),
    "deep": (lambda path: Image.new("I;16", (9, 9)).save(path, "png"), "mode I;16: more than eight bits"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_a_reason(tmp_path, name):
    write, reason = FAULTS[name]
    path = tmp_path / "x.jpg"
    write(path)
    found = read(path)
    assert found.pixels is None
    assert reason in found.reason
    assert "\n" not in found.reason


def test_an_item_without_a_file_has_no_pixels():
    assert read(None) == (None, "no file")


def test_the_crop_keeps_the_middle():
    image = Image.fromarray(np.repeat(np.arange(96, dtype=np.uint8)[None], 32, axis=0))
    np.testing.assert_array_equal(np.asarray(crop(image, 32))[0], np.arange(32, 64))


def test_an_ordered_map_keeps_the_order_and_stays_close():
    begun, lock = set(), threading.Lock()

    def slow(k):
        with lock:
            begun.add(k)
        time.sleep(0.002 * (k % 3))
        return k

    for taken, k in enumerate(ordered_map(slow, iter(range(40)), workers=4, ahead=6)):
        assert k == taken
        assert len(begun) <= taken + 6
    assert begun == set(range(40))


def test_an_ordered_map_that_is_left_stops_reading():
    begun = []
    results = ordered_map(lambda k: begun.append(k) or k, iter(range(1000)), workers=2, ahead=4)
    assert next(results) == 0
    results.close()
    assert len(begun) <= 5


def test_an_error_of_an_ordered_map_comes_at_its_item():
    results = ordered_map(lambda k: 1 // (2 - k), range(9), workers=2, ahead=4)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
