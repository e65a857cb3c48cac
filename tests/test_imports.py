"""The layers of the package: imports run downwards only, and each foreign package has its place.

A new module or subpackage of fedvlr_jax is unknown to `LAYERS` and fails here until it has a row.
`python tests/test_imports.py` draws the picture in CONTRIBUTING.md again.
"""

from __future__ import annotations

import ast
import pathlib
import re
import sys
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = "fedvlr_jax"

# Lowest first. A module may import from the layers below its own. The modules of a subpackage form one unit and may
# import each other; those of the subpackages in DETAILED are units of their own.
DETAILED = ("models", "federated")
BASE = (
    ("errors",),
    ("fields",),
    ("agreed",),
    ("types", "compiling", "extras", "privacy"),
    ("secure_sum",),
    ("federated.mesh", "federated.score_views"),
)
ALGORITHM = (
    ("models.router_logits", "models.own_table"),
    ("models.fusion", "models.router", "federated.sampling"),
    ("models.group_fusion",),
    ("federated.objectives",),
    ("models.hosts",),
    ("models.variants", "settings"),
    ("models.model",),
    ("federated.private_state", "federated.transforms", "federated.stacks", "models.costs"),
    ("federated.robust", "federated.trimmed_rows"),
    ("federated.aggregation",),
    ("federated.words",),
    ("federated.step_loss", "federated.server", "federated.dropouts", "federated.adaptive_clip"),
    ("federated.local_steps",),
    ("federated.client",),
    ("federated.factors",),
    ("federated.paths",),
    ("federated.executors",),
    ("federated.rounds", "federated.bucket_plan"),
    ("assembly", "federated.scoring"),
    ("federated.newcomers",),
    ("algorithm",),
)
OUTSIDE = (
    ("evaluation",),
    ("data",),
    ("federated.prior", "federated.held_back"),
    ("baselines",),
    ("federated.view_maps", "federated.view_basis", "federated.prior_choice"),
    ("federated.noisy_prior",),
    ("federated.view_choice",),
    ("io",),
    ("client_store",),
)  # they know types, but not the algorithm
RUN = (
    ("inference",),
    ("training",),
    ("theory", "analysis", "audit"),
    ("report",),
    ("benchmark",),
    ("sweep",),
    ("api",),
    ("newcomers",),
    ("deploy",),
    ("__init__",),
    ("commands",),
)
LAYERS = (*BASE, *ALGORITHM, *OUTSIDE, *RUN)
RANK = {unit: rank for rank, layer in enumerate(LAYERS) for unit in layer}

EVERYWHERE = {"jax", "flax", "optax", "numpy"}
PLACES = {  # foreign packages beyond these, by the start of a file's path
    "fedvlr_jax/data/": {"tensorflow_datasets"},
    "fedvlr_jax/data/formats/": {"pyarrow"},
    "fedvlr_jax/data/prepare/writing": {"pyarrow"},
    "fedvlr_jax/data/score_files": {"pyarrow"},
    "fedvlr_jax/data/encoders/": {"onnxruntime", "safetensors", "tokenizers", "PIL"},
    "fedvlr_jax/baselines/": {"scipy", "threadpoolctl"},
    "fedvlr_jax/federated/prior": {"scipy"},
    "fedvlr_jax/federated/view_choice": {"scipy"},
    "fedvlr_jax/federated/view_maps": {"scipy"},
    "fedvlr_jax/training/priors": {"threadpoolctl"},
    "fedvlr_jax/training/score_views": {"threadpoolctl"},
    "fedvlr_jax/evaluation/": {"scipy"},
    "fedvlr_jax/privacy/": {"scipy"},
    "fedvlr_jax/secure_sum/primitives": {"cryptography"},
    "fedvlr_jax/io/": {"tqdm", "tabulate"},
    "fedvlr_jax/io/trackers/tensorboard": {"tensorboardX"},
    "fedvlr_jax/io/trackers/wandb": {"wandb"},
    "fedvlr_jax/io/trackers/mlflow": {"mlflow"},
    "fedvlr_jax/io/checkpoint": {"orbax"},
    "fedvlr_jax/benchmark/plots": {"matplotlib"},
    "fedvlr_jax/report/": {"jinja2", "markupsafe"},
    "fedvlr_jax/analysis/report": {"tabulate"},
    "fedvlr_jax/io/figures": {"matplotlib", "PIL"},
    "fedvlr_jax/sweep/optuna_search": {"optuna"},
    "fedvlr_jax/sweep/plots": {"matplotlib"},
    "fedvlr_jax/sweep/report": {"markupsafe"},
    "fedvlr_jax/theory/": {"scipy", "tabulate"},
    "fedvlr_jax/audit/": {"scipy", "tabulate"},
    "configs/": {"ml_collections", "absl", "configs"},
    "benchmarks/": {"configs", "tabulate", "measure", "numpy_client", "random_data"},
    "benchmarks/accelerator": {"catalogue", "growth", "throughput"},
    "benchmarks/public_code": {"throughput"},
    "benchmarks/encoders": {"PIL"},
    "fedvlr_jax/commands/": {"ml_collections", "absl"},
    "fedvlr_jax/commands/prepare": {"tabulate"},
    "fedvlr_jax/commands/export": {"tabulate"},
    "fedvlr_jax/commands/serve": {"uvicorn"},
    "fedvlr_jax/deploy/export": {"flatbuffers"},
    "fedvlr_jax/deploy/onnx_graph": {"onnx"},
    "fedvlr_jax/deploy/onnx_export": {"jinja2", "markupsafe"},
    "fedvlr_jax/deploy/tensors": {"safetensors"},
    "fedvlr_jax/deploy/serving": {"starlette"},
    "fedvlr_jax/deploy/flower/": {"flwr"},
    "fedvlr_jax/commands/federation": {"flwr"},
}
NEVER = {"tensorflow", "torch", "keras"}
READERS = ("data", "io", "client_store")
ALONE = f"{PACKAGE}/deploy/device.py"  # is copied to devices
READS = {"open", "read_text", "read_bytes", "load", "loadtxt", "genfromtxt", "fromfile", "memmap"}
MAX_LINES = 300

CONTRIBUTING = ROOT / "CONTRIBUTING.md"
PICTURE = re.compile(r"(?<=<!-- picture of the imports -->\n).*?(?=<!-- end of the picture -->)", re.DOTALL)


def imported_names(tree: ast.Module, path: str) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of every import, at any depth of the file."""
    folder = list(pathlib.PurePosixPath(path).parent.parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = folder[: len(folder) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)


def unit_of(dotted: str) -> str:
    """The unit of fedvlr_jax that a dotted name belongs to: "types", "models.fusion", "evaluation"."""
    parts = dotted.split(".")
    return ".".join(parts[1:3] if len(parts) > 2 and parts[1] in DETAILED else parts[1:2]) or "__init__"


def layer_problem(unit: str, target: str) -> str | None:
    """What is wrong with `unit` importing `target`, both units of fedvlr_jax."""
    for name in (unit, target):
        if name not in RANK:
            return f"{PACKAGE}.{name} has no layer: add it to LAYERS in tests/test_imports.py, at its place"
    if target == unit:
        return None
    algorithm = {name for layer in ALGORITHM for name in layer}
    outside = {name for layer in OUTSIDE for name in layer}
    if unit in outside and target in algorithm:
        return f"{PACKAGE}.{unit} may import types and errors, but not the algorithm side ({target})"
    if RANK[target] >= RANK[unit]:
        return f"imports run downwards only, but {PACKAGE}.{unit} imports {PACKAGE}.{target}"
    return None


def import_problems(path: str, source: str) -> list[str]:
    """Every import of a file (path relative to the project, with slashes) that is out of place."""
    tree, in_package = ast.parse(source), path.startswith(f"{PACKAGE}/")
    unit = unit_of(path.removesuffix(".py").replace("/", "."))
    known = unit in RANK or path.endswith("/__init__.py") or not in_package
    found = [] if known else [(1, layer_problem(unit, unit))]
    allowed = EVERYWHERE.union(*(names for start, names in PLACES.items() if path.startswith(start)))
    for line, name in imported_names(tree, path):
        top = name.split(".")[0]
        if top in NEVER:
            found.append((line, f"{top} is imported nowhere in this project"))
        elif path.startswith("tests/") or top in sys.stdlib_module_names:
            continue
        elif top == PACKAGE:
            found.append((line, layer_problem(unit, unit_of(name)) if in_package else None))
        elif top not in allowed:
            found.append((line, f"{top} has no place here, see PLACES in tests/test_imports.py"))
    return [f"{path}:{line}: {problem}" for line, problem in found if problem]


def reading_problems(path: str, source: str) -> list[str]:
    """Calls that read files outside the folders that may."""
    if path == ALONE or path.startswith(tuple(f"{PACKAGE}/{folder}/" for folder in READERS)):
        return []
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    names = [(call.lineno, getattr(call.func, "attr", getattr(call.func, "id", None))) for call in calls]
    return [
        f"{path}:{line}: {name}() reads a file; that belongs in {', '.join(READERS)}"
        for line, name in names
        if name in READS
    ]


def loading_problems(path: str, source: str) -> list[str]:
    """Parts of scipy that are imported by name: all of them are a fifth of a start that may need none.

    ``import scipy`` loads a part where its name is first used, as in ``scipy.linalg.lapack``.
    """
    return [
        f"{path}:{line}: expected `import scipy` and {name} where it is used"
        for line, name in imported_names(ast.parse(source), path)
        if name.startswith("scipy.")
    ]


def shape_problems(path: str, source: str) -> list[str]:
    """Missing docstrings of the module and its public functions, classes and methods, and too many lines."""
    found = [] if len(source.splitlines()) <= MAX_LINES else [f"{path}: more than {MAX_LINES} lines"]

    def visit(node: ast.Module | ast.ClassDef | ast.FunctionDef, name: str) -> None:
        if ast.get_docstring(node) is None:
            found.append(f"{path}:{getattr(node, 'lineno', 1)}: {name} has no docstring")
        for child in [] if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else node.body:
            public = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            if public and not child.name.startswith("_"):
                visit(child, child.name)

    visit(ast.parse(source), "the module")
    return found


def imported_boxes() -> dict[str, set[str]]:
    """The folders and modules at the root of the package, each with those that it imports."""
    boxes: dict[str, set[str]] = {}
    for path in files(PACKAGE):
        box = pathlib.PurePosixPath(path).parts[1].removesuffix(".py")
        names = [name.split(".") for _, name in imported_names(ast.parse((ROOT / path).read_text()), path)]
        found = {parts[1] for parts in names if parts[0] == PACKAGE and len(parts) > 1} - {box}
        boxes.setdefault(box, set()).update(found)
    return {box: found & boxes.keys() for box, found in boxes.items() if box != "__init__"}


def reached_from(box: str, boxes: dict[str, set[str]]) -> set[str]:
    """All boxes at the ends of the ways that start with an arrow of `box`."""
    reached, left = set(), [box]
    while left:
        new = boxes[left.pop()] - reached
        reached |= new
        left += new
    return reached


def without_detours(boxes: dict[str, set[str]]) -> dict[str, set[str]]:
    """The arrows that do not follow from others: a -> c is left out where a -> b and a way from b to c say it."""
    reached = {box: reached_from(box, boxes) for box in boxes}
    implied = {a: {c for b in targets if a not in reached[b] for c in reached[b]} for a, targets in boxes.items()}
    return {a: targets - implied[a] for a, targets in boxes.items()}


def picture(boxes: dict[str, set[str]]) -> str:
    """The boxes and arrows as a mermaid diagram in Markdown."""
    folders = {box for box in boxes if (ROOT / PACKAGE / box).is_dir()}
    lines = [f'{box}["{box}/"]' if box in folders else f'{box}("{box}.py")' for box in sorted(boxes)]
    lines += [f"{box} --> {target}" for box in sorted(boxes) for target in sorted(boxes[box])]
    return "\n".join(["```mermaid", "flowchart TD", *(f"    {line}" for line in lines), "```\n"])


def files(*folders: str) -> list[str]:
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path.relative_to(ROOT).as_posix() for path in paths]


@pytest.mark.parametrize("path", files(PACKAGE, "configs", "experiments", "benchmarks", "examples", "tests"))
def test_imports_stand_in_their_place(path):
    problems = import_problems(path, (ROOT / path).read_text())
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("path", files(PACKAGE))
def test_library_files_are_documented_short_and_free_of_file_reading(path):
    source = (ROOT / path).read_text()
    problems = shape_problems(path, source) + reading_problems(path, source) + loading_problems(path, source)
    assert not problems, "\n".join(problems)


def test_the_picture_in_contributing_is_current():
    (found,) = PICTURE.findall(CONTRIBUTING.read_text())
    assert found == picture(without_detours(imported_boxes())), "run `python tests/test_imports.py`"


def test_the_picture_leaves_out_what_follows_and_keeps_cycles():
    chain = {"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": set()}
    assert without_detours(chain | {"a": {"b", "c", "d"}}) == chain
    cycle = {"a": {"b", "c"}, "b": {"a", "c"}, "c": set()}
    assert without_detours(cycle) == cycle


def test_the_walk_finds_the_package():
    assert {f"{PACKAGE}/types.py", f"{PACKAGE}/evaluation/ranking.py"} <= set(files(PACKAGE))


@pytest.mark.parametrize(
    ("path", "source", "problem"),
    [
        (
            "fedvlr_jax/types.py",
            "from fedvlr_jax.federated.client import x",
            "downwards only.*types imports fedvlr_jax.federated.client",
        ),
        ("fedvlr_jax/models/router.py", "from fedvlr_jax.models import fusion", "downwards only"),
        ("fedvlr_jax/federated/client.py", "def f():\n    from . import rounds", "client.py:2: .*downwards only"),
        (
            "fedvlr_jax/models/hosts/fcf.py",
            "from ...federated.server import x",
            "hosts imports fedvlr_jax.federated.server",
        ),
        (
            "fedvlr_jax/evaluation/groups.py",
            "from fedvlr_jax.federated import rounds",
            "evaluation may import types and errors",
        ),
        ("fedvlr_jax/io/checkpoint.py", "import fedvlr_jax.models.model", "not the algorithm side .models.model."),
        ("fedvlr_jax/federated/objectives.py", "import fedvlr_jax", "objectives imports fedvlr_jax.__init__"),
        (
            "fedvlr_jax/novel.py",
            "import jax",
            "fedvlr_jax.novel has no layer: add it to LAYERS in tests/test_imports",
        ),
        ("fedvlr_jax/novel/part.py", "", "fedvlr_jax.novel has no layer"),
        ("fedvlr_jax/io/files.py", "import orbax.checkpoint as ocp", "orbax has no place here"),
        ("fedvlr_jax/training/loop.py", "from ml_collections import config_dict", "ml_collections has no place here"),
        ("fedvlr_jax/training/loop.py", "from configs import base", "configs has no place here"),
        ("fedvlr_jax/federated/client.py", "import chex", "chex has no place here"),
        ("fedvlr_jax/commands/train.py", "import chex", "chex has no place here"),
        ("fedvlr_jax/training/loop.py", "from fedvlr_jax.commands import cli", "downwards only"),
        ("experiments/train.py", "from absl import flags", "absl has no place here"),
        ("fedvlr_jax/io/files.py", "import tensorflow_datasets", "tensorflow_datasets has no place here"),
        ("fedvlr_jax/models/fusion.py", "import scipy.stats", "scipy has no place here"),
        ("tests/test_x.py", "import torch.nn", "torch is imported nowhere"),
        ("fedvlr_jax/data/tfds.py", "import tensorflow as tf", "tensorflow is imported nowhere"),
    ],
)
def test_a_misplaced_import_is_found(path, source, problem):
    (found,) = import_problems(path, source)
    assert re.search(problem, found)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (
            "fedvlr_jax/models/hosts/fcf.py",
            "from .host import Host\nfrom fedvlr_jax.models.hosts import fedavg\nimport flax.linen",
        ),
        ("fedvlr_jax/baselines/ease.py", "from fedvlr_jax.evaluation.metrics import ndcg\nimport scipy.linalg"),
        ("fedvlr_jax/io/checkpoint.py", "import orbax.checkpoint\nfrom fedvlr_jax.types import PyTree\nimport json"),
        ("fedvlr_jax/data/tfds.py", "import tensorflow_datasets as tfds"),
        ("experiments/train.py", "from fedvlr_jax.commands.train import main"),
        ("fedvlr_jax/commands/train.py", "from absl import flags\nfrom fedvlr_jax.training import job"),
        ("tests/test_x.py", "import chex\nimport sklearn\nfrom fedvlr_jax import training"),
    ],
)
def test_a_placed_import_is_accepted(path, source):
    assert import_problems(path, source) == []


def test_missing_docstrings_long_files_and_file_reading_are_found():
    source = '"""Doc."""\ndef f():\n    return open("x")\nclass C:\n    """Doc."""\n    def g(self): ...\n'
    path = f"{PACKAGE}/client.py"
    assert shape_problems(path, source) == [f"{path}:2: f has no docstring", f"{path}:6: g has no docstring"]
    assert shape_problems(path, "") == [f"{path}:1: the module has no docstring"]
    assert shape_problems(path, '"""Doc."""\n' + "\n" * 300) == [f"{path}: more than 300 lines"]
    assert reading_problems(path, source) == [
        f"{path}:3: open() reads a file; that belongs in data, io, client_store"
    ]
    assert reading_problems(f"{PACKAGE}/data/folder.py", source) == []


@pytest.mark.parametrize("source", ["import scipy.stats", "from scipy import stats", "from scipy.stats import norm"])
def test_a_part_of_scipy_that_is_loaded_at_the_start_is_found(source):
    (found,) = loading_problems(f"{PACKAGE}/client.py", source)
    assert "expected `import scipy` and scipy.stats" in found


if __name__ == "__main__":
    drawn = picture(without_detours(imported_boxes()))
    CONTRIBUTING.write_text(PICTURE.sub(lambda _: drawn, CONTRIBUTING.read_text()))
