"""Images and titles per second of CLIP's towers with random weights, and of reading alone.

    python benchmarks/encoders.py [--images=512] [--batch=32] [--size=500] [--repeats=3] [--out=FOLDER]

ViT-B/32: 12 layers of width 768, 224 x 224 pixels; its text tower, 12 layers of width 512, 77 tokens. The images are
random JPEGs of --size pixels a side on disk. Sides: read (decode, resize, crop in threads), towers alone on arrays
that are there, and encode_images as it runs, reading while it computes.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import tempfile

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1]), str(pathlib.Path(__file__).resolve().parent)]

import jax
import measure
import numpy as np
from PIL import Image

from fedvlr_jax.data.encoders import ImageTower, encode_images
from fedvlr_jax.data.encoders.clip import ClipSpec, image_features, text_features
from fedvlr_jax.data.encoders.decisions import Preprocessing
from fedvlr_jax.data.encoders.images import read_pixels
from fedvlr_jax.data.encoders.ordered import ordered_map

LAYERS, DIM, CONTEXT, VOCABULARY, SIDE, PATCH = 12, 512, 77, 49_408, 224, 32
IMAGE_WIDTH, TEXT_WIDTH, WORKERS = 768, 512, 2
IMAGE_SPEC, TEXT_SPEC = ClipSpec(IMAGE_WIDTH // 64, "quick_gelu"), ClipSpec(TEXT_WIDTH // 64, "quick_gelu")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = write_images(pathlib.Path(folder), arguments.images, arguments.size)
        timing = measure.interleaved(sides(paths, arguments.batch), arguments.repeats)
    rows = [
        {"side": name, "items/s": len(paths) / t.median, "lowest": len(paths) / t.high, "highest": len(paths) / t.low}
        for name, t in timing.items()
    ]
    measure.write_results(arguments.out, "encoders", rows, {"peak GB": measure.peak_gigabytes()})
    print(f"peak {measure.peak_gigabytes():.1f} GB, ceiling {measure.measure_ceilings().flops / 1e9:,.0f} GFLOP/s")


def write_images(folder: pathlib.Path, count: int, size: int) -> list[pathlib.Path]:
    """JPEGs of smooth noise, which compress like photographs."""
    generator = np.random.default_rng(0)
    paths = [folder / f"{k}.jpg" for k in range(count)]
    for path in paths:
        coarse = generator.integers(0, 256, (size // 10, size // 10, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC).save(path, quality=85)
    return paths


def sides(paths: list[pathlib.Path], batch: int) -> dict:
    """A function for each side, over as many items as there are paths."""
    images, texts = jax.device_put((image_params(), text_params()))
    run_image = jax.jit(image_features, static_argnames="spec")
    run_text = jax.jit(text_features, static_argnames="spec")
    preprocessing = Preprocessing(SIDE)
    tower = ImageTower(lambda pixels: run_image(images, pixels, spec=IMAGE_SPEC), preprocessing, "", "")
    pixels_b3rr = np.ones((batch, 3, SIDE, SIDE), np.float32)
    ids_bt = np.ones((batch, CONTEXT), np.int32)
    batches = len(paths) // batch

    def read() -> None:
        stream = ordered_map(lambda path: read_pixels(path, preprocessing), paths, workers=WORKERS, ahead=2 * batch)
        assert all(pixels.pixels is not None for pixels in stream)

    return {
        "read images": read,
        "image tower": lambda: [tower.encode(pixels_b3rr) for _ in range(batches)],
        "encode_images": lambda: encode_images(paths, tower, batch=batch, workers=WORKERS).rows,
        "text tower": lambda: [run_text(texts, ids_bt, ids_bt, spec=TEXT_SPEC) for _ in range(batches)],
    }


def image_params() -> dict:
    """Random parameters of ViT-B/32, small enough that no layer overflows."""
    w = IMAGE_WIDTH
    arrays = {
        "patch": _random(w, 3, PATCH, PATCH),
        "class": _random(w),
        "position": _random((SIDE // PATCH) ** 2 + 1, w),
    }
    norms = {"ln_pre": _norm(w), "ln_post": _norm(w)}
    return {**arrays, **norms, "layers": layers(w), "projection": _random(w, DIM)}


def text_params() -> dict:
    """Random parameters of its text tower."""
    w = TEXT_WIDTH
    arrays = {"token": _random(VOCABULARY, w), "position": _random(CONTEXT, w), "ln_final": _norm(w)}
    return {**arrays, "layers": layers(w), "projection": _random(w, DIM)}


def layers(width: int) -> dict:
    """All layers, stacked."""
    dense = {"qkv": (width, 3 * width), "out": (width, width), "fc": (width, 4 * width), "proj": (4 * width, width)}
    kernels = {
        name: {"kernel": _random(LAYERS, *shape), "bias": _random(LAYERS, shape[1])} for name, shape in dense.items()
    }
    return {**kernels, "ln_1": _norm(LAYERS, width), "ln_2": _norm(LAYERS, width)}


def _norm(*shape: int) -> dict:
    return {"scale": np.ones(shape, np.float32), "bias": np.zeros(shape, np.float32)}


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32) * np.float32(0.02)


if __name__ == "__main__":
    main()
