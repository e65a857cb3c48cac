"""The script for an accelerator runs where there is none, within its time, and says what it left out."""

from __future__ import annotations

import json
import time

import pytest

from benchmarks import accelerator


@pytest.mark.slow
def test_every_part_has_a_row_and_the_files_have_them_all(tmp_path, capsys):
    rows = accelerator.main(["--small", "--hosts=fcf", f"--out={tmp_path}"])
    names = ["round, KU, fcf", "round, 50 clients", "sweep", "sweep", "50 best, all at once", "50 best, 100 at once"]
    assert [row["what"] for row in rows] == names
    assert all(row["ms"] > 0 and row["compile s"] > 0 for row in rows)
    assert [row["points"] for row in rows if row["what"] == "sweep"] == [1, 2]
    assert all(row["share"] > 0 for row in rows if row["what"].startswith("round"))
    written = json.loads((tmp_path / "accelerator.json").read_text())
    assert written["rows"] == rows
    assert written["left out"] == {}
    assert {"flops", "bytes"} <= set(written["ceilings"])
    assert all(name in (tmp_path / "accelerator.md").read_text() for name in names)
    assert "| what" in capsys.readouterr().out


def test_what_fails_and_what_takes_too_long_is_named_and_the_rest_goes_on(capsys):
    def fails():
        raise ValueError("no memory")

    def slow():
        time.sleep(1.0)
        return list

    jobs = [
        accelerator.Job("fails", fails),
        accelerator.Job("quick", lambda: lambda: [{"ms": 1.0}]),
        accelerator.Job("slow", slow),
        accelerator.Job("never", slow),
    ]
    rows = accelerator.run_jobs(jobs, time.perf_counter() + 0.8, 1, None, {})
    assert [(row["what"], row["ms"]) for row in rows] == [("quick", 1.0)]
    told = capsys.readouterr().err
    assert "left out: fails: ValueError: no memory" in told
    assert "left out: slow: not compiled in half of the time" in told
    assert "left out: never: not compiled in half of the time" in told
