"""What a page of documentation names and what does not exist: links, settings, files, modules, commands, code.

A check maps a page to sentences about what is wrong with it.
"""

from __future__ import annotations

import ast
import functools
import pathlib
import pkgutil
import re
import runpy
from collections.abc import Iterator
from typing import NamedTuple

from tests.commands import ROOT

PACKAGE = "fedvlr_jax"
FOLDERS = (PACKAGE, "configs", "experiments", "examples", "benchmarks", "tests", "docs")
SUBPACKAGES = tuple(path.parent.name for path in (ROOT / PACKAGE).glob("*/__init__.py"))
BASE_CONFIGS = (
    "configs/base.py",
    "configs/benchmark/base.py",
    "configs/theory/convergence.py",
    "configs/audit/base.py",
    "configs/audit/promotion.py",
    "configs/prepare/csv.py",
)


class Page(NamedTuple):
    """A page of markdown: its text outside of fenced blocks, and the blocks as (language, code)."""

    path: pathlib.Path
    prose: str
    blocks: tuple[tuple[str, str], ...]


def parse_page(path: pathlib.Path, text: str) -> Page:
    """Splits a page at its fences."""
    fence = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    return Page(path, fence.sub("", text), tuple(fence.findall(text)))


@functools.cache
def read_page(path: pathlib.Path) -> Page:
    """A page of the repository."""
    return parse_page(path, path.read_text())


def link_problems(page: Page) -> Iterator[str]:
    """Relative links that lead nowhere."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.prose):
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.path.parent / name).resolve() if name else page.path
        if not file.is_file():
            yield f"link to {target}: no such file"
        elif anchor and anchor not in _anchors(page if file == page.path else read_page(file)):
            yield f"link to {target}: no such heading"


def _anchors(page: Page) -> set[str]:
    """The anchors of a page's headings, as mkdocs makes them."""
    headings = re.findall(r"^#{1,6} (.+)$", page.prose, re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@functools.cache
def config_fields(file: str) -> frozenset[str]:
    """Dotted names of all groups and leaves of a configuration file."""

    def walk(group: object, prefix: str) -> Iterator[str]:
        for name, value in group.items():
            yield prefix + name
            if hasattr(value, "items"):
                yield from walk(value, f"{prefix}{name}.")

    return frozenset(walk(runpy.run_path(str(ROOT / file))["get_config"](), ""))


def setting_problems(page: Page) -> Iterator[str]:
    """Fields named as ``--config.x.y`` anywhere, or as ``x.y`` in backticks, that no base configuration has."""
    known = frozenset().union(*map(config_fields, BASE_CONFIGS))
    groups = {name.partition(".")[0] for name in known if "." in name}
    text = "\n".join([page.prose, *(code for _, code in page.blocks)])
    named = set(re.findall(r"--config\.([a-z][\w.]*\w)", text))
    quoted = re.findall(r"`([a-z]\w*(?:\.[a-z]\w*)+)(?:=[^`]*)?`", page.prose)
    named |= {name for name in quoted if name.partition(".")[0] in groups and not name.endswith((".py", ".json"))}
    yield from (f"{name} is no field of {', '.join(BASE_CONFIGS)}" for name in sorted(named - known))


def name_problems(page: Page) -> Iterator[str]:
    """Paths and modules in backticks, or shown from their docstrings, that do not exist."""
    for name in re.findall(r"`([\w./]+)(?::[^`]*)?`", page.prose):
        is_path = "/" in name and name.partition("/")[0] in FOLDERS + SUBPACKAGES
        if (is_path or name.endswith(".py")) and not _file_exists(name):
            yield f"`{name}`: no such file"
    names = re.findall(rf"`({PACKAGE}(?:\.\w+)+)[(`]", page.prose)
    for name in names + re.findall(r"^::: (\S+)", page.prose, re.MULTILINE):
        if not _can_import(name):
            yield f"`{name}`: no such module or attribute"


def _file_exists(name: str) -> bool:
    """A path below the root or the package, or the name of a file anywhere in the folders."""
    if "/" in name:
        return (ROOT / name).exists() or (ROOT / PACKAGE / name).exists()
    return any(next((ROOT / folder).rglob(name), None) for folder in FOLDERS)


def _can_import(name: str) -> bool:
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def command_problems(page: Page) -> Iterator[str]:
    """Targets, scripts, flags, fields and files that a shown command names."""
    for program, *words in _commands(page):
        if program == "make":
            rules = (ROOT / "Makefile").read_text()
            targets = [word for word in words if "=" not in word]
            yield from (f"make {name}: no such target" for name in targets if f"\n{name}:" not in rules)
            continue
        if program.startswith("fedvlr-") and program not in (ROOT / "pyproject.toml").read_text():
            yield f"{program}: no console script of pyproject.toml"
        elif program == "python" and words[0].endswith(".py") and not (ROOT / words[0]).is_file():
            yield f"{words[0]}: no such file"
        elif program != "python" or words[0].startswith(("experiments/", "benchmarks/")):
            yield from _flag_problems(words)


def _commands(page: Page) -> Iterator[list[str]]:
    """The words of every command of this project, without comments and settings of the environment."""
    shown = [code.replace("\\\n", " ") for language, code in page.blocks if language == "bash"]
    for line in "\n".join(shown).splitlines():
        for command in re.sub(r"\s#\s.*", "", line).replace('"', "").split("&&"):
            words = re.sub(r"^.*?(?=\b(?:make|python|fedvlr-\w+) )", "", command.strip()).split()
            if words and re.fullmatch(r"make|python|fedvlr-\w+", words[0]):
                yield words


def _flag_problems(words: list[str]) -> Iterator[str]:
    """Flags that no command defines, files that they name, and fields that the named configuration lacks."""
    flags = dict(re.match(r"--([\w.]+)=?(.*)", word).groups() for word in words if word.startswith("--"))
    files = {name: flags[name].partition(":")[0] for name in ("config", "sweep") if name in flags}
    lost = [name for name, file in files.items() if not (ROOT / file).is_file()]
    yield from (f"--{name}={files[name]}: no such file" for name in lost)
    for name in flags.keys() - {"config"}:
        field = name.removeprefix("config.")
        if field == name and not re.search(rf"[\"'](--)?{name.removeprefix('no')}[\"']", _sources_of_commands()):
            yield f"--{name}: no flag of a command"
        elif field != name and "config" in files and not lost and field not in config_fields(files["config"]):
            yield f"--{name}: no field of {files['config']}"


@functools.cache
def _sources_of_commands() -> str:
    folders = ("experiments", "benchmarks", f"{PACKAGE}/commands")
    return "\n".join(path.read_text() for folder in folders for path in (ROOT / folder).glob("*.py"))


def code_problems(page: Page) -> Iterator[str]:
    """What blocks of Python use of the package and what it does not have.

    Blocks that begin with ``import fedvlr_jax`` may train, so they are only read. The others are run: examples of
    extensions, whose new rows leave the tables again.

    Raises:
      Exception: whatever the code of an example raises.
    """
    for code in (code for language, code in page.blocks if language == "python"):
        tree = ast.parse(code)
        if not code.startswith(f"import {PACKAGE}\n"):
            _run_example(tree)
        for node in ast.walk(tree):
            of_package = isinstance(node, ast.Attribute) and getattr(node.value, "id", None) == PACKAGE
            if of_package and not _can_import(f"{PACKAGE}.{node.attr}"):
                yield f"line {node.lineno} of a block: {PACKAGE}.{node.attr} does not exist"


def _run_example(tree: ast.Module) -> None:
    space: dict = {"__name__": "example"}
    exec(compile(tree, "example", "exec"), space)
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):  # TABLE["name"] = row
            del space[node.targets[0].value.id][ast.literal_eval(node.targets[0].slice)]
