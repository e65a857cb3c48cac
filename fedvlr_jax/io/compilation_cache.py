"""Compiled programs kept between processes: every command finds what an earlier one compiled."""

from __future__ import annotations

import hashlib
import os
import pathlib
import platform
from collections.abc import MutableMapping

LEAST = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0"}
"""What JAX keeps: everything, since small programs are many."""


def use_compilation_cache(environment: MutableMapping[str, str], *, on: bool) -> None:
    """Point JAX at the user's compilation cache, or switch it off; to be called before JAX is loaded.

    What the environment says itself wins. A folder that cannot be written is no error: nothing is kept then.

    Args:
      environment: of the process; JAX reads it when it is loaded.
      on: False switches the cache off, also where the environment names one.
    """
    if not on:
        environment["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    elif "JAX_COMPILATION_CACHE_DIR" not in environment:
        folder = _folder(environment)
        if _is_writable(folder):
            environment["JAX_COMPILATION_CACHE_DIR"] = str(folder)
            for name, value in LEAST.items():
                environment.setdefault(name, value)


def _folder(environment: MutableMapping[str, str]) -> pathlib.Path:
    """One for each kind of processor, since a shared home serves machines of several."""
    base = pathlib.Path(environment.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return base / "fedvlr_jax" / "compiled" / hashlib.sha256(_processor().encode()).hexdigest()[:12]


def _processor() -> str:
    """What the processor can do."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    found = [line for line in lines if line.lower().startswith(("flags", "features"))]
    return f"{platform.machine()} {found[0] if found else platform.processor()}"


def _is_writable(folder: pathlib.Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return False
    return os.access(folder, os.W_OK | os.X_OK)
