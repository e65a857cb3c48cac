"""Images as CLIP takes them: RGB, shorter side resized bicubically, centre crop, mean and deviation of the channels.

What is done with images that differ from a plain RGB photograph:

| image | what is done |
|---|---|
| grey, palette, CMYK, YCbCr | converted to RGB before resizing |
| alpha, transparent palette | the alpha channel is dropped, as by CLIP's own code: the colours below it count |
| an EXIF rotation | applied: the picture as a viewer shows it |
| animation | the first frame |
| more than 8 bits a channel | unreadable, since Pillow would clip them |
| above Pillow's limit of pixels (`PIL.Image.MAX_IMAGE_PIXELS`) | unreadable |
| longer side over 50 times the shorter one | unreadable: nothing of it would be left after the crop |
| truncated, another kind of file, no file | unreadable |
"""

from __future__ import annotations

import contextlib
import pathlib
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from fedvlr_jax.data.encoders.decisions import Preprocessing

MAX_RATIO = 50
DEEP = ("I", "F")  # the first letter of Pillow's modes of more than eight bits


class Pixels(NamedTuple):
    """A normalised image [3, r, r] float32, or None and the reason why there is none."""

    pixels: np.ndarray | None
    reason: str = ""


def read_pixels(path: pathlib.Path | None, preprocessing: Preprocessing) -> Pixels:
    """One image file, read and normalised; whatever is wrong with it is the reason that comes back."""
    if path is None:
        return Pixels(None, "no file")
    try:
        with Image.open(path) as image:
            return _prepare(image, preprocessing)
    except FileNotFoundError:
        return Pixels(None, "no file")
    except Exception as error:  # decoders raise nearly every type of error on damaged bytes
        message = str(error).replace(repr(str(path)), "the file")  # equal reasons are counted together
        return Pixels(None, f"{type(error).__name__}: {message}".splitlines()[0])


@contextlib.contextmanager
def refuse_huge_images() -> Iterator[None]:
    """While active, Pillow raises, not warns, above its limit of pixels; around all threads that read."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _prepare(image: Image.Image, preprocessing: Preprocessing) -> Pixels:
    long, short = max(image.size), min(image.size)
    if long > MAX_RATIO * short:
        return Pixels(None, f"{image.width} x {image.height}: one side over {MAX_RATIO} times the other")
    if image.mode[0] in DEEP:
        return Pixels(None, f"mode {image.mode}: more than eight bits a channel")
    upright = ImageOps.exif_transpose(image)
    mean_c, std_c = (np.array(values, np.float32) for values in preprocessing[1:])
    square_rrc = np.asarray(crop(to_rgb(upright), preprocessing.side), np.float32) / 255
    normal_rrc = (square_rrc - mean_c[None, None]) / std_c[None, None]
    return Pixels(np.ascontiguousarray(normal_rrc.transpose(2, 0, 1)))


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in RGB, without its alpha channel."""
    transparent = image.mode == "P" and "transparency" in image.info
    return (image.convert("RGBA") if transparent else image).convert("RGB")


def crop(image: Image.Image, side: int) -> Image.Image:
    """The centre square of an image whose shorter side was made `side`, margins rounded as torchvision does."""
    short = min(image.size)
    width, height = (int(side * length / short) for length in image.size)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return resized.crop((left, top, left + side, top + side))
