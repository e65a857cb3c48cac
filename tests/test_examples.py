"""The scripts in examples/ run and print what they promise."""

from __future__ import annotations

import pathlib
import re
import runpy

import pytest

EXAMPLES = pathlib.Path(__file__).resolve().parents[1] / "examples"


def run(name: str, capsys, **arguments) -> str:
    runpy.run_path(str(EXAMPLES / name))["main"](**arguments)
    return capsys.readouterr().out


def test_quickstart(capsys):
    out = run("quickstart.py", capsys, **{"rounds": 4, "client.steps": 1, "fusion.operators": "id,visual,text"})
    assert len(re.findall(r"round 4/4 \| loss", out)) == 1
    assert re.search(r"test NDCG@50: \d+\.\d %", out)
    assert len(re.findall(r"\d\. item \d+ \(score", out)) == 5
    assert re.search(r"user 0 goes by id \d+ %, visual \d+ %, text \d+ %", out)


@pytest.mark.slow
def test_own_data(capsys):
    out = run("own_data.py", capsys)
    assert "recipes: 30 users, 61 items" in out
    assert "stopped after round 50" in out
    assert re.findall(r"(user-\d\d) (\d) recipe-\d+\n", out) == [
        (u, r) for u in ("user-00", "user-07") for r in "123"
    ]


def test_every_example_is_run():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {"quickstart.py", "own_data.py"}
