"""The environment of a process: one line and exit code 2 where it cannot work, and programs that are kept."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

import pytest
from commands import ROOT, arguments, run_here

from fedvlr_jax.io.compilation_cache import use_compilation_cache
from fedvlr_jax.io.elapsed import elapsed


def run(name, *flags, **changes):
    """Exit code, stdout and stderr of a command in a changed environment, in which None leaves a variable out."""
    environment = {key: value for key, value in (os.environ | changes).items() if value is not None}
    command = [sys.executable, str(ROOT / "experiments" / f"{name}.py"), *flags]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=300, check=False)
    return done.returncode, done.stdout.decode("ascii", "replace"), done.stderr.decode("ascii", "replace")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"JAX_PLATFORMS": "cuda"}, "JAX has no device of cuda (JAX_PLATFORMS)"),
        (
            {"JAX_PLATFORMS": "nonsense"},
            "JAX has no device of nonsense (JAX_PLATFORMS): Unable to initialize backend",
        ),
        ({"JAX_ENABLE_X64": "1"}, "JAX_ENABLE_X64: expected JAX in float32"),
    ],
)
def test_an_environment_that_cannot_work_is_one_line(tmp_path, changes, message):
    code, _, err = run("train", *arguments(tmp_path / "run"), **changes)
    assert code == 2, err
    (line,) = [line for line in err.splitlines() if line.startswith("error")]
    assert message in line
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}


@pytest.mark.slow
def test_a_locale_without_utf_8_prints_and_writes(tmp_path):
    code, out, err = run("train", *arguments(tmp_path / "run", rounds=10), **ASCII)
    assert code == 0, err
    assert "fcf + base" in out
    code, _, err = run("train", *arguments(tmp_path / "gru\u00df", rounds=10), **ASCII)
    assert code == 2
    assert "expected a name in UTF-8, see the locale" in err
    assert "Traceback" not in err
    script = "import sys; sys.argv = ['x.py', '--help']; from fedvlr_jax.commands import cli\n"
    script += "cli.run(None, about='\\u00b1 \\u2020', define=lambda values: None, with_config=False)"
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | ASCII | {"PYTHONUTF8": "0"}, capture_output=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"? ?")


@pytest.mark.parametrize("second", [["--config=ml"], ["--config", "ml"]])
def test_a_second_configuration_is_named(monkeypatch, capsys, second):
    assert run_here(monkeypatch, "train", "--config=ku", "--config.rounds=3", *second) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"error: --config: expected one configuration file, found .*ku\.py and ml", line)


# --- compiled programs ----------------------------------------------------------------------------------------


def test_programs_are_kept_below_the_cache_of_the_user(tmp_path):
    for name, expected in (("XDG_CACHE_HOME", tmp_path / "fedvlr_jax"), ("HOME", tmp_path / ".cache" / "fedvlr_jax")):
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setenv(name, str(tmp_path))
            environment = {name: str(tmp_path)}
            use_compilation_cache(environment, on=True)
        assert environment["JAX_COMPILATION_CACHE_DIR"].startswith(f"{expected}/")
        assert os.path.isdir(environment["JAX_COMPILATION_CACHE_DIR"])


def test_the_environment_wins_and_the_flag_switches_off(tmp_path):
    environment = {"JAX_COMPILATION_CACHE_DIR": "mine"}
    use_compilation_cache(environment, on=True)
    assert environment == {"JAX_COMPILATION_CACHE_DIR": "mine"}
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    use_compilation_cache(environment, on=False)
    assert environment == {"XDG_CACHE_HOME": str(tmp_path), "JAX_ENABLE_COMPILATION_CACHE": "false"}
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    environment = {"XDG_CACHE_HOME": str(tmp_path / "file")}
    use_compilation_cache(environment, on=True)
    assert environment == {"XDG_CACHE_HOME": str(tmp_path / "file")}


@pytest.mark.slow
def test_a_command_keeps_its_programs_by_default(tmp_path):
    cache = {"JAX_COMPILATION_CACHE_DIR": None, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    code, _, err = run("train", *arguments(tmp_path / "a"), "--nocompilation_cache", **cache)
    assert code == 0, err
    assert not (tmp_path / "cache").exists()
    assert run("train", *arguments(tmp_path / "b"), **cache)[0] == 0
    kept = set((tmp_path / "cache" / "fedvlr_jax").rglob("*-cache"))
    assert kept
    assert run("train", *arguments(tmp_path / "c"), **cache)[0] == 0
    assert set((tmp_path / "cache" / "fedvlr_jax").rglob("*-cache")) == kept


# --- what says nothing itself ---------------------------------------------------------------------------------


def test_time_that_passes_is_shown():
    lines = []
    with elapsed(lines.append, "compiling", every=0.01):
        end = time.monotonic() + 5
        while len(lines) < 3 and time.monotonic() < end:
            time.sleep(0.005)
    assert lines[0] == "compiling"
    assert re.fullmatch(r"compiling, \d+ s so far", lines[1])
    count = len(lines)
    time.sleep(0.03)
    assert len(lines) == count


def test_where_nobody_listens_nothing_is_said():
    with elapsed(None, "compiling", every=0.001):
        time.sleep(0.01)
