"""Time and memory of a run of host fedblend, from start to result, in a large catalogue of random interactions.

    python benchmarks/item_maps.py [--items=10000] [--users=2000] [--rows=50] [--width=64] [--rounds=2]

Train rows of a client are distinct, of a popularity that falls as rank^-0.7, and their times are random; two further
items are held out. Settings of configs/benchmark/ml.py, without the trial of doing without times. Prints seconds,
seconds of the processor and the peak of resident memory after each part.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import time

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1]), str(pathlib.Path(__file__).resolve().parent)]

import measure
import numpy as np
from random_data import random_features

from configs.benchmark.base import BLEND
from fedvlr_jax.settings import default_settings, override
from fedvlr_jax.training.experiment import make_experiment
from fedvlr_jax.training.loop import train_in_memory
from fedvlr_jax.types import Dataset


def main() -> None:
    """Draws the data, makes the experiment, which forms the maps, and trains the shared weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("items", 10_000), ("users", 2_000), ("rows", 50), ("width", 64), ("rounds", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    dataset = popular_items(args.users, args.items, args.rows, args.width)
    ours = {"host.name": "fedblend", "variant": "base", "host.choose_order": False}
    length = {"rounds": args.rounds, "eval.every": 1, "baselines": False}
    settings = override(default_settings(), BLEND.to_dict() | ours | length)
    start = time.perf_counter()
    experiment = make_experiment(settings, dataset)
    report("maps formed", start)
    trained = train_in_memory(experiment)
    report(f"trained, best validation NDCG@50 {trained.progress.best_value:.6f}", start)


def popular_items(num_users: int, num_items: int, num_rows: int, width: int, seed: int = 0) -> Dataset:
    """`num_rows` train rows for every user, as the module says."""
    rng = np.random.default_rng(seed)
    V, C = random_features(rng, num_items, width)
    share_i = 1 / np.arange(1, num_items + 1) ** 0.7
    share_i /= share_i.sum()
    drawn_un = np.stack([rng.choice(num_items, num_rows + 2, replace=False, p=share_i) for _ in range(num_users)])
    return Dataset(
        name="popular items",
        num_users=num_users,
        num_items=num_items,
        train_user=np.repeat(np.arange(num_users), num_rows).astype(np.int32),
        train_item=np.sort(drawn_un[:, :num_rows], axis=1).ravel().astype(np.int32),
        valid_item=drawn_un[:, num_rows].astype(np.int32),
        test_item=drawn_un[:, num_rows + 1].astype(np.int32),
        V=V,
        C=C,
        train_age=np.concatenate([rng.permutation(num_rows) for _ in range(num_users)]).astype(np.int32),
    )


def report(part: str, start: float) -> None:
    """What it took up to here."""
    seconds, processor, peak = time.perf_counter() - start, time.process_time(), measure.peak_gigabytes()
    print(f"{part}: {seconds:.0f} s, {processor:.0f} s of the processor, peak {peak:.2f} GB", flush=True)


if __name__ == "__main__":
    main()
