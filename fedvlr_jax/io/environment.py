"""What a result depends on beside its settings: versions, devices, machine, commit, command."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import platform
import subprocess
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from fedvlr_jax.errors import ConfigError, RunWarning
from fedvlr_jax.io.files import read_json, write_json
from fedvlr_jax.io.identity import differences

PACKAGES = (
    "fedvlr_jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "ml_collections",
    "tensorflow-datasets",
)
CODE = ("commit", "python", "packages", "x64")
"""What of an environment computes; the rest is where it does."""

ROOT = pathlib.Path(__file__).resolve().parents[2]


def describe_environment(arguments: Sequence[str], workdir: pathlib.Path) -> dict[str, Any]:
    """Versions, devices and the command line, for ``environment.json``.

    Args:
      arguments: the command line. Paths inside the project become relative to it, and of other absolute paths
        only the last part is kept, so that the file can be published; the workdir stays.
      workdir: the run's folder.
    """
    return {
        "command": [_shorten(argument, workdir) for argument in arguments],
        "workdir": str(workdir),
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "backend": jax.default_backend(),
        "devices": [device.device_kind for device in jax.devices()],
        "x64": bool(jax.config.jax_enable_x64),
    }


def write_environment(workdir: pathlib.Path, environment: Mapping[str, Any]) -> None:
    """Write ``environment.json``; the one of an earlier call is kept if its code was another, and a warning says so.

    Args:
      workdir: the run's folder; the earlier environments in it are ``environment-1.json`` and so on.
      environment: of this call, as of `describe_environment`.
    """
    if jax.process_index():
        return
    path = workdir / "environment.json"
    stored = read_json(path)
    if stored is not None:
        lines = differences(_code(stored), _code(environment), origin="before")
        if lines:
            kept = next(p for n in range(1, 10**6) if not (p := workdir / f"environment-{n}.json").exists())
            write_json(kept, stored)  # a copy: shards of a sweep may do this at one time
            message = f"{workdir}: going on under other code ({'; '.join(lines)}); {kept.name} keeps what was before"
            warnings.warn(message, RunWarning, stacklevel=2)
    write_json(path, environment)


def earlier_code(workdir: pathlib.Path, environment: Mapping[str, Any]) -> list[str]:
    """A sentence about every earlier call on a workdir whose code was another, the first call first.

    Args:
      workdir: of a benchmark or a sweep, after `write_environment`.
      environment: of this call.
    """
    kept = sorted(workdir.glob("environment-*.json"), key=lambda path: (len(path.name), path.name))
    now = _code(environment)
    of_files = {path.name: differences(_code(read_json(path) or {}), now, origin="then") for path in kept}
    return [
        "Runs that an earlier call finished are not made again, and one call was under other code: "
        f"{'; '.join(lines)} ({name} has all of it)."
        for name, lines in of_files.items()
        if lines
    ]


def require_backend(*, float32: bool = True) -> None:
    """Refuse an environment in which JAX finds no device, or computes in another precision than training is in.

    Raises:
      ConfigError: naming the environment variable.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # an AssertionError without words where a plugin is missing
        wanted = jax.config.jax_platforms or "any platform"
        reason = str(error).splitlines()[0] if str(error) else "it is not installed"
        raise ConfigError(f"JAX has no device of {wanted} (JAX_PLATFORMS): {reason}") from error
    if float32 and jax.config.jax_enable_x64:
        raise ConfigError("JAX_ENABLE_X64: expected JAX in float32, in which models train and rank, found float64")


def _code(environment: Mapping[str, Any]) -> dict[str, Any]:
    return {name: environment.get(name) for name in CODE}


def _shorten(argument: str, workdir: pathlib.Path) -> str:
    flag, equals, value = argument.rpartition("=")
    path = pathlib.Path(value)
    if not path.is_absolute() or path == workdir:
        return argument
    if path.is_relative_to(ROOT):
        return flag + equals + str(path.relative_to(ROOT))
    return f"{flag}{equals}.../{path.name}"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the project, with ``+changes`` if files differ from it; None if it is in no repository.

    An installed package is in none, even where its environment lies in a folder of somebody's repository.
    """
    try:
        _git("ls-files", "--error-unmatch", str(pathlib.Path(__file__).resolve()))
        commit = _git("rev-parse", "HEAD")
        return commit + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
