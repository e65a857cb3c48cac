"""Ranking and recommending among very many items: all scores of a chunk of users at once, or some items at a time.

    python benchmarks/catalogue.py [--items=10000,100000,1000000] [--item-chunk=10000] [--users=256] [--repeats=3]
        [--tasks=rank,best] [--out=FOLDER]

FCF + FedVLR, d = 16, random data without training. "at once" is `eval.item_chunk` 0, "in blocks" the given number of
items. `rank` ranks two held-out items of every user, `best` finds the 50 best items. MB are the temporary arrays.
Scores of a matrix product may differ in their last bits with its shape, and with so many items some are that close:
the last two columns are how many of the ranks differ, and by how much at most.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1]), str(pathlib.Path(__file__).resolve().parent)]

import jax
import measure
import numpy as np
from random_data import random_dataset

from configs.base import get_config
from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.compiling import compile_ahead
from fedvlr_jax.data.buckets import make_client_data
from fedvlr_jax.evaluation.ranking import rank_all
from fedvlr_jax.evaluation.top import top_items
from fedvlr_jax.types import Dataset, Score

BEST = 50


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", default="10000,100000,1000000")
    parser.add_argument("--item-chunk", type=int, default=10_000)
    parser.add_argument("--users", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tasks", default="rank,best")
    parser.add_argument("--out", default=None)
    arguments = parser.parse_args()
    rows = []
    for num_items in map(int, arguments.items.split(",")):
        rows.append({"items": num_items, **_row(num_items, arguments)})
        print(rows[-1], file=sys.stderr, flush=True)
    measure.write_results(arguments.out, "catalogue", rows, {"arguments": vars(arguments)})


def _row(num_items: int, arguments: argparse.Namespace) -> dict[str, float]:
    """One row of the table."""
    dataset = random_dataset("random", arguments.users, num_items, 8 * arguments.users, width=16)
    sides, megabytes, ranks = {}, {}, {}
    for name, item_chunk in (("at once", 0), ("in blocks", arguments.item_chunk)):
        config = get_config()
        config.fusion.dim, config.eval.item_chunk = 16, item_chunk
        algorithm, data = make_algorithm(config.to_dict(), dataset), jax.device_put(make_client_data(dataset))
        state = jax.jit(algorithm.init)(jax.random.key(0))
        params = jax.jit(algorithm.snapshot)(state, data.content)
        functions = make_tasks(algorithm.rank_score, dataset)
        for task in arguments.tasks.split(","):
            program, _ = compile_ahead(jax.jit(functions[task]), params, data.buckets)
            sides[f"{task} {name}"] = lambda program=program, params=params, data=data: program(params, data.buckets)
            megabytes[f"{task} {name}"] = program.memory_analysis().temp_size_in_bytes / 1e6
        if "rank" in arguments.tasks:
            ranks[name] = sides[f"rank {name}"]()
    differ = {}
    if ranks:
        distance = np.abs(np.subtract(*(np.asarray(found.greater) for found in ranks.values())))
        differ = {"ranks that differ": int((distance > 0).sum()), "by at most": int(distance.max())}
    timing = measure.interleaved(sides, arguments.repeats)
    seconds = {f"{name}, s": timing[name].median for name in sides}
    return seconds | {f"{name}, MB": size for name, size in megabytes.items()} | differ


def make_tasks(score: Score, dataset: Dataset) -> dict:
    """``(params, buckets) -> `` ranks, and best items, of all users at once."""
    held_tu = np.random.default_rng(1).integers(0, dataset.num_items, (2, dataset.num_users)).astype(np.int32)

    def rank(params, buckets):
        return rank_all(score, params, buckets, held_tu, chunk=dataset.num_users)

    def top(params, buckets):
        return [top_items(score, params, slots, num_items=dataset.num_items, k=BEST) for slots in buckets]

    return {"rank": rank, "best": top}


if __name__ == "__main__":
    main()
