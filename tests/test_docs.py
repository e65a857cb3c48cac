"""The documentation is true: what it names exists, its code runs, and the list of files is complete."""

from __future__ import annotations

import pytest

from tests.commands import ROOT
from tests.docs_checks import (
    code_problems,
    command_problems,
    link_problems,
    name_problems,
    parse_page,
    read_page,
    setting_problems,
)
from tests.docs_layout import LAYOUT, layout
from tests.problems import spread

CHECKS = (link_problems, setting_problems, name_problems, command_problems)
HISTORY = ("CHANGELOG.md",)  # names what is no more


def page_names() -> list[str]:
    """All pages: those at the root and those below docs/."""
    return sorted(path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")))


@pytest.mark.parametrize("name", page_names())
def test_what_a_page_names_exists(name):
    checks = CHECKS[:1] if name in HISTORY else CHECKS
    problems = [problem for check in checks for problem in check(read_page(ROOT / name))]
    assert not problems, "\n".join([name, *problems])


WITH_PYTHON = [name for name in page_names() if "```python" in (ROOT / name).read_text()]


@pytest.mark.parametrize("name", spread(WITH_PYTHON, {*WITH_PYTHON} - {"docs/guides/new.md"}))
def test_the_python_of_a_page_works(name):
    problems = list(code_problems(read_page(ROOT / name)))
    assert not problems, "\n".join([name, *problems])


def in_bash(command: str) -> str:
    return f"```bash\n{command}\n```"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[x](nowhere.md)", "no such file"),
        ("![x](nowhere.png)", "no such file"),
        ("[x](docs/theory.md#nothing)", "no such heading"),
        ("# A b\n[x](#a-c)", "no such heading"),
        ("`--config.client.rate=1`", "client.rate is no field"),
        ("the field `client.rate`", "client.rate is no field"),
        ("`fedvlr_jax/fusion.py`", "no such file"),
        ("`models/nothing.py`", "no such file"),
        ("`planning.py`", "no such file"),
        ("`fedvlr_jax.models.nothing`", "no such module"),
        ("::: fedvlr_jax.nothing", "no such module"),
        (in_bash("make tea"), "make tea: no such target"),
        (in_bash("A=x python experiments/cook.py  # y"), "experiments/cook.py: no such file"),
        (in_bash("python experiments/train.py --config=configs/tea.py"), "--config=configs/tea.py: no such file"),
        (in_bash("python experiments/train.py --config=configs/ku.py --config.seeds=1"), "no field of configs/ku.py"),
        (in_bash("python experiments/sweep.py --sweep=configs/sweeps/tea.py"), "no such file"),
        (in_bash("cd x && python experiments/train.py \\\n  --workdirs=x"), "--workdirs: no flag"),
        (in_bash("fedvlr-cook --workdir=x"), "no console script"),
    ],
)
def test_what_does_not_exist_is_found(text, problem):
    page = parse_page(ROOT / "README.md", f"{text}\n")
    assert any(problem in found for check in CHECKS for found in check(page))


def test_code_that_does_not_work_is_found():
    unknown = parse_page(ROOT / "README.md", "```python\nimport fedvlr_jax\n\nfedvlr_jax.cook()\n```\n")
    assert list(code_problems(unknown)) == ["line 3 of a block: fedvlr_jax.cook does not exist"]
    broken = parse_page(ROOT / "README.md", "```python\nfrom fedvlr_jax.models.fusion import Nothing\n```\n")
    with pytest.raises(ImportError):
        list(code_problems(broken))


def test_the_readme_is_short_and_opens_with_two_commands():
    lines, blocks = (ROOT / "README.md").read_text().splitlines(), read_page(ROOT / "README.md").blocks
    assert len(lines) <= 150
    assert [line.partition(" #")[0].strip() for line in blocks[0][1].splitlines()] == ["make train", "make test"]
    assert [language for language, _ in blocks].count("python") == 1


def test_the_layout_is_that_of_the_files():
    assert LAYOUT.read_text() == layout(), "docs/layout.md is old; python tests/docs_layout.py writes it again"
