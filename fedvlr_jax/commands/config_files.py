"""The configuration files that come with the project: configs/ of a checkout, fedvlr_jax/configs/ of a wheel.

They import each other as ``configs.base``, and so do those of users, wherever the files lie.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import pathlib
import sys
from importlib.machinery import ModuleSpec

PACKAGE = pathlib.Path(__file__).resolve().parents[1]
FOLDER = PACKAGE / "configs" if (PACKAGE / "configs").is_dir() else PACKAGE.parent / "configs"
SWEEPS = FOLDER / "sweeps"


def find(path: str, folder: pathlib.Path = FOLDER) -> str:
    """`path` if there is such a file, else the file of the project that it names, else `path` again.

    Args:
      path: "mine/ku.py"; of the project's files "configs/ku.py", or relative to `folder`, "ku.py" or "ku".
      folder: where the files of that kind are, `FOLDER` or a folder in it.
    """
    here = pathlib.PurePath(path)
    if not path or pathlib.Path(path).is_file() or here.is_absolute() or ".." in here.parts:
        return path
    within = FOLDER.joinpath(*here.parts[1:]) if here.parts[0] == "configs" else folder / here
    candidates = (within, within.with_name(f"{within.name}.py"))
    return next((str(file) for file in candidates if file.is_file()), path)


def names(folder: pathlib.Path = FOLDER) -> str:
    """The files of a folder as they are listed in messages."""
    return ", ".join(sorted(file.name for file in folder.glob("*.py") if not file.name.startswith("__")))


def make_importable(path: str) -> None:
    """Let ``from configs import base`` mean the files of the project.

    Args:
      path: the file that is about to be run. One of `FOLDER` comes before any other package called `configs`; for a
        file of the user's, a `configs` of the user's comes first.
    """
    if _FINDER in sys.meta_path:
        sys.meta_path.remove(_FINDER)
    sys.meta_path.insert(0 if pathlib.Path(path).resolve().is_relative_to(FOLDER) else len(sys.meta_path), _FINDER)


class _ConfigsFinder(importlib.abc.MetaPathFinder):
    """Finds the package `configs` in `FOLDER`, and nothing else."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        del path, target
        if name != "configs":
            return None
        init = FOLDER / "__init__.py"
        return importlib.util.spec_from_file_location(name, init, submodule_search_locations=[str(FOLDER)])


_FINDER = _ConfigsFinder()
