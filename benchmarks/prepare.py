"""Seconds and memory of preparing a table of random interactions, without features.

python benchmarks/prepare.py [--rows=10000000] [--folder=/tmp]
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import tempfile
import time
import warnings

import numpy as np

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1]), str(pathlib.Path(__file__).resolve().parent)]

import measure

from fedvlr_jax.data.messages import DataWarning
from fedvlr_jax.data.prepare.pipeline import prepare
from fedvlr_jax.data.prepare.settings import default_settings

ROWS_A_USER, ROWS_AN_ITEM, CHUNK = 50, 200, 1_000_000
LINE = "A%07d,B%06d,%d.0,%d"


def write_rows(file: pathlib.Path, rows: int, seed: int = 0) -> None:
    """Random users, items, ratings from 1 to 5 and times in milliseconds over ten years, in no order."""
    rng = np.random.default_rng(seed)
    below = (max(rows // ROWS_A_USER, 10), max(rows // ROWS_AN_ITEM, 10))
    with file.open("w") as stream:
        stream.write("userID,itemID,rating,timestamp\n")
        for start in range(0, rows, CHUNK):
            size = min(CHUNK, rows - start)
            low, high = (0, 0, 1, 1_300_000_000_000), (*below, 6, 1_600_000_000_000)
            np.savetxt(stream, rng.integers(low, high, (size, 4)), LINE)


def main() -> None:
    """Write, prepare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--folder", default=None, help="where the files lie meanwhile")
    arguments = parser.parse_args()
    settings = default_settings("csv")
    settings["read"] |= {"rating": "rating", "time": "timestamp"}
    begin = {}

    def report(line: str) -> None:
        begin[line] = time.perf_counter()

    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        folder = pathlib.Path(scratch)
        (folder / "raw").mkdir()
        write_rows(folder / "raw" / "rows.csv", arguments.rows)
        warnings.simplefilter("ignore", DataWarning)
        start = time.perf_counter()
        done = prepare(settings, folder / "raw", folder / "out", report)
        end = time.perf_counter()
    ends = [*list(begin.values())[1:], end]
    for line, first, last in zip(begin, begin.values(), ends, strict=True):
        print(f"{last - first:7.1f} s  {line.split('/')[0]}")
    kept = done.facts["statistics"]["ratings"]
    print(f"{end - start:7.1f} s  all of {arguments.rows:,} rows, {kept:,} of which stay")
    print(f"{measure.peak_gigabytes():7.1f} GB at most")


if __name__ == "__main__":
    main()
