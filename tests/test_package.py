"""The package: its requirements and extras, and its commands from a checkout and as a wheel lays it out."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
from commands import ROOT, arguments, run_here
from data_folders import write_folder
from test_imports import files, imported_names

import fedvlr_jax
from fedvlr_jax.commands import config_files
from fedvlr_jax.data.tfds_builder import load_prepared
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.extras import require_extra

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DISTRIBUTIONS = {  # where they are called otherwise than what is imported
    "PIL": "pillow",
    "absl": "absl-py",
    "mlflow": "mlflow-skinny",
    "orbax": "orbax-checkpoint",
    "tensorflow_datasets": "tensorflow-datasets",
}
BEHIND_TFDS = {"array-record", "importlib-resources"}  # it needs them for these files, but does not require them
BEHIND_JAX = {"zstandard"}  # it keeps compiled programs with it, and with zlib where it is not installed
EXTRAS = ("tfds", "optuna", "prepare", "features", "secure", "deploy", "onnx", "serve", "flower", "wandb", "mlflow")
SCRIPTS = (
    *("train", "evaluate", "judge", "analyze", "benchmark", "sweep", "prepare", "encode", "export", "serve"),
    *("client", "federation", "report", "explain"),
)
COMMANDS = sorted(path.stem for path in (ROOT / "experiments").glob("*.py"))


def normal(name: str) -> str:
    """The name of a distribution, as package indices compare them."""
    return re.sub(r"[-_.]+", "-", name).lower()


def required(*paths: str) -> set[str]:
    """The distributions that requirement files name, without their versions."""
    lines = [line for path in paths for line in (ROOT / path).read_text().splitlines()]
    return {normal(re.match(r"[\w.-]+", line)[0]) for line in lines if re.match(r"\w", line)}


def imported(*folders: str) -> set[str]:
    """The distributions that the files of some folders import."""
    trees = [(path, ast.parse((ROOT / path).read_text())) for path in files(*folders)]
    names = {name.split(".")[0] for path, tree in trees for _, name in imported_names(tree, path)}
    foreign = names - sys.stdlib_module_names - {"fedvlr_jax", "configs"}
    return {normal(DISTRIBUTIONS.get(name, name)) for name in foreign}


def test_what_runs_is_required_and_nothing_else():
    extras = required(*(f"requirements/{name}.txt" for name in EXTRAS))
    used = imported("fedvlr_jax", "configs", "experiments") | BEHIND_TFDS | BEHIND_JAX
    assert used == required("requirements.txt") | extras
    assert not required("requirements.txt") & (extras | required("requirements/dev.txt"))


def test_every_requirement_is_written_once():
    groups = PROJECT["tool"]["setuptools"]["dynamic"]["optional-dependencies"]
    assert set(groups) == {*EXTRAS, "docs", "dev"}
    assert set(PROJECT["project"]["scripts"]) == {f"fedvlr-{name}" for name in SCRIPTS}
    listed = re.findall(r"^-r (\S+)", (ROOT / "requirements-dev.txt").read_text(), re.MULTILINE)
    assert listed == groups["dev"]["file"]


def test_every_folder_of_modules_is_a_package():
    """Else it would be missing from a wheel."""
    folders = {(ROOT / path).parent for path in files("fedvlr_jax")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []
    assert re.fullmatch(r"\d+\.\d+\.\d+", fedvlr_jax.__version__)


def test_a_missing_extra_is_named_in_one_line():
    with pytest.raises(ConfigError) as caught, require_extra("tfds", "data.source=tfds"):
        raise ImportError("no\n  such thing")
    assert str(caught.value) == (
        'data.source=tfds needs packages that are not installed (no such thing): pip install "fedvlr_jax[tfds]"'
    )


def test_other_errors_pass_an_extra():
    with pytest.raises(ZeroDivisionError), require_extra("tfds", "data.source=tfds"):
        raise ZeroDivisionError
    with require_extra("tfds", "data.source=tfds"):
        import json  # noqa: F401


@pytest.fixture
def without_tfds(monkeypatch):
    """As if the extra were not installed."""
    for name in ("tensorflow_datasets", "array_record", "importlib_resources"):
        monkeypatch.setitem(sys.modules, name, None)


def test_a_prepared_copy_without_the_extra_is_refused(monkeypatch, tmp_path, capsys, without_tfds):
    write_folder(tmp_path / "data" / "tiny")
    flags = arguments(tmp_path / "run", data__dir=tmp_path / "data", data__name="tiny", data__source="tfds")
    assert run_here(monkeypatch, "train", *flags) == 2
    assert re.fullmatch(
        r'error: data\.source=tfds needs .* \(.*tensorflow_datasets.*\): pip install "fedvlr_jax\[tfds\]"\n',
        capsys.readouterr().err,
    )
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_dir()) == ["data", "tiny"]


def test_a_copy_that_cannot_be_read_without_the_extra_is_not_called_damaged(monkeypatch, tmp_path):
    folder = write_folder(tmp_path / "tiny")
    load_prepared(folder)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ConfigError, match=r'pip install "fedvlr_jax\[tfds\]"'):
        load_prepared(folder)


def test_a_folder_trains_without_the_extra(monkeypatch, tmp_path, without_tfds):
    write_folder(tmp_path / "data" / "tiny")
    flags = arguments(tmp_path / "run", data__dir=tmp_path / "data", data__name="tiny", rounds=2, eval__every=2)
    assert run_here(monkeypatch, "train", *flags) == 0


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("ku", "configs/ku.py"),
        ("ku.py", "configs/ku.py"),
        ("configs/ku", "configs/ku.py"),
        ("configs/ku.py", "configs/ku.py"),
        ("benchmark/quick", "configs/benchmark/quick.py"),
        ("configs/benchmark/quick.py", "configs/benchmark/quick.py"),
        *((path, None) for path in ("", "nowhere", "configs", "benchmark", "../configs/ku.py", "/configs/ku.py")),
    ],
)
def test_the_files_of_the_project_are_found_from_anywhere(monkeypatch, tmp_path, path, found):
    monkeypatch.chdir(tmp_path)
    assert config_files.find(path) == (str(ROOT / found) if found else path)


def test_a_file_that_is_here_comes_first(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert config_files.find("rates", config_files.SWEEPS) == str(ROOT / "configs" / "sweeps" / "rates.py")
    (tmp_path / "rates").write_text("")
    assert config_files.find("rates", config_files.SWEEPS) == "rates"


# Loads the packages that commands load, once, and then is a fresh process for every script.
EACH = """
import os, runpy, sys, warnings
import absl.app, flax, jax, ml_collections, optax, orbax.checkpoint, scipy.sparse
warnings.filterwarnings("ignore", "os.fork")  # no program has run, so no thread of JAX is lost
for script in sys.argv[1:]:
    with open(os.path.basename(script) + ".out", "wb") as out, open(os.path.basename(script) + ".err", "wb") as err:
        child = os.fork()
        if not child:
            warnings.resetwarnings()
            os.dup2(out.fileno(), 1), os.dup2(err.fileno(), 2)
            sys.argv, sys.path[0] = [script, "--help"], os.path.dirname(script)
            code = 0
            try:
                runpy.run_path(script, run_name="__main__")
            except SystemExit as end:
                code = end.code or 0
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)  # without the end of the packages, which is not theirs alone
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with open(os.path.basename(script) + ".code", "w") as stream:
        stream.write(str(code))
"""


@pytest.fixture(scope="module")
def helped(tmp_path_factory):
    """A folder with what every command of a checkout, started there, answers to --help: code, out and err."""
    folder = tmp_path_factory.mktemp("anywhere")
    done = run_python(folder, "-c", EACH, *(str(ROOT / "experiments" / f"{name}.py") for name in COMMANDS))
    assert (done.returncode, done.stderr) == (0, "")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_starts_in_a_checkout_from_anywhere(helped, name):
    code, out, err = ((helped / f"{name}.py.{what}").read_text() for what in ("code", "out", "err"))
    assert (code, err) == ("0", "")
    assert f"python experiments/{name}.py" in out


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the package as in a wheel: configs/ is inside of it."""
    site = tmp_path_factory.mktemp("site")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "fedvlr_jax", site / "fedvlr_jax", ignore=ignore)
    shutil.copytree(ROOT / "configs", site / "fedvlr_jax" / "configs", ignore=ignore)
    return site


def run_python(cwd, *words, path=()):
    """A process in another folder, with some folders on the path of imports."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def run_installed(site, cwd, name, *flags, first=()):
    """A console script, as pip makes it; folders in `first` come before the package."""
    code = f"import sys; from fedvlr_jax.commands.{name} import main; sys.argv[0] = 'fedvlr-{name}'; sys.exit(main())"
    return run_python(cwd, "-c", code, *flags, path=(*first, site))


MINE = "from configs import base\n\n\ndef get_config():\n    return base.get_config()\n"


@pytest.mark.slow
def test_an_installed_command_explains_itself_by_its_name(installed, tmp_path):
    done = run_installed(installed, tmp_path, "train", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "    fedvlr-train --config=configs/ku.py" in done.stdout
    assert "experiments" not in done.stdout


@pytest.mark.parametrize("config", ["ku:nothing", "configs/ku.py:nothing"])
def test_an_installed_command_reads_its_own_files(installed, tmp_path, config):
    done = run_installed(installed, tmp_path, "train", f"--config={config}")
    assert done.returncode == 2
    assert "expected one of fedavg+base" in done.stderr  # said by a function of configs.benchmark


def test_a_file_of_the_users_may_build_on_those_of_a_wheel(installed, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    done = run_installed(installed, tmp_path, "train", "--config=mine.py", "--config.sed=1")
    assert done.returncode == 2
    assert "did you mean --config.seed?" in done.stderr


def test_a_package_configs_of_the_users_is_kept_apart(installed, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "own" / "configs").mkdir(parents=True)
    (tmp_path / "own" / "configs" / "__init__.py").write_text("")
    (tmp_path / "own" / "configs" / "base.py").write_text("raise RuntimeError('the base of the user')\n")
    own = [tmp_path / "own"]
    done = run_installed(installed, tmp_path, "train", "--config=mine.py", first=own)
    assert "the base of the user" in done.stderr
    done = run_installed(installed, tmp_path, "train", "--config=ku:nothing", first=own)
    assert "expected one of fedavg+base" in done.stderr


@pytest.mark.slow
def test_an_installed_package_has_no_commit(installed, tmp_path):
    """Even if it lies in a repository of the user's."""
    repository = tmp_path / "project"
    shutil.copytree(installed, repository / "site")
    git = ["git", "-C", str(repository), "-c", "user.name=x", "-c", "user.email=x@x.org"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run([*git, *words], check=True)
    code = "from fedvlr_jax.io import environment; print(environment._commit())"
    assert run_python(tmp_path, "-c", code, path=[repository / "site"]).stdout == "None\n"
