"""Shared test set-up: strict JAX settings, a persistent compilation cache, and the real data where present."""

from __future__ import annotations

import functools
import gc
import importlib.metadata
import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # more would wait for each other: test workers share the cores
# Tests compile far more than they compute. Level 0 of LLVM and the older emitters take a fifth of the time, and a
# program in one part another sixth less: the parts are for cores that idle. XLA's own passes stay on. XLA ends a
# process that names a flag which it does not have.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0"
    + (
        " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
        if importlib.metadata.version("jaxlib").startswith("0.10.")
        else ""
    ),
)

import jax
import pytest
from jax._src.interpreters import mlir
from same_programs import share_jitted, share_programs, world

from fedvlr_jax import compiling

gc.set_threshold(200_000, 50, 50)  # tracing makes many objects and little garbage: a fifth of the time is saved
ROOT = pathlib.Path(__file__).resolve().parents[1]

jax.config.update("jax_numpy_rank_promotion", "raise")
# Absolute, since some tests change the folder they run in; for the processes that tests start as well.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(ROOT / os.environ.get("JAX_COMPILATION_CACHE_DIR", ".cache/jax"))
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
compiling.LIGHTLY.clear()  # level 0 is lighter
mlir.make_ir_context = functools.cache(mlir.make_ir_context)  # 4 ms for each of ten thousand programs
share_programs()
share_jitted()
world.watch(pytest.MonkeyPatch)

LONG = {
    "test_cli_signals",
    "test_graph_learners_training",
    "test_lock",
    "test_mesh",
    "test_sweep_side_by_side",
    "test_theory_complexity",
    "test_theory_convergence",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files whose tests take a minute come first, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: item.path.stem not in LONG)


def real_data_folder(name: str) -> pathlib.Path:
    """The canonical folder of a real data set, or a skip that says how to provide it."""
    root = pathlib.Path(os.environ.get("FEDVLR_DATA", "data"))
    folder = root / name
    if not (folder / "inter.csv").is_file():
        pytest.skip(f"needs the real {name} data: set FEDVLR_DATA to a folder that holds {name}/inter.csv")
    return folder


@pytest.fixture(scope="session")
def ku_folder() -> pathlib.Path:
    return real_data_folder("KU")


@pytest.fixture(scope="session")
def ml_folder() -> pathlib.Path:
    return real_data_folder("ML")
