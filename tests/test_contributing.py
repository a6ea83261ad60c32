"""CONTRIBUTING.md, followed literally: its files and lines in a copy of the package, then its commands."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.markdown import Block, ShellCommand, code_blocks, shell_commands
from tests.test_order import ROOT
from tests.warm_python import WarmPython

_TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
_WRITE = re.compile(r"(?:.*\. )?Write `([^`]+)`:")
_ADD = re.compile(r"Add to `([^`]+)` in `([^`]+)`:")
_RUN = "Run:"


@dataclass(frozen=True)
class Recipe:
    """A section that adds one thing.

    Attributes:
        title: Its heading.
        files: Path -> text, as it says to write them.
        lines: The line, the table and the file, as it says to add them.
        run: The shell blocks that it says to run.
    """

    title: str
    files: dict[str, str]
    lines: list[tuple[str, str, str]]
    run: list[Block]


def _recipes() -> Iterator[Recipe]:
    for section in re.split(r"^## ", _TEXT, flags=re.MULTILINE)[1:]:
        title, _, body = section.partition("\n")
        recipe = Recipe(title, {}, [], [])
        for block in code_blocks(body):
            if (write := _WRITE.fullmatch(block.above)) is not None:
                recipe.files[write[1]] = block.text
            elif (add := _ADD.fullmatch(block.above)) is not None:
                recipe.lines.append((block.text, add[1], add[2]))
            else:
                assert block.above == _RUN, f"{title}: a block below {block.above!r}, which says neither write nor run"
                recipe.run.append(block)
        yield recipe


RECIPES = list(_recipes())


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.title)
def test_one_thing_is_one_file_and_one_line(recipe):
    assert len([path for path in recipe.files if path.endswith(".py")]) == 1
    assert [line.count("\n") for line, _, _ in recipe.lines] == [1]
    assert recipe.run


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    pytest.importorskip("torch")
    from tests import workspace

    return workspace.prepare(tmp_path_factory.mktemp("prepared") / "folder")


@pytest.fixture
def sandbox(tmp_path) -> Path:
    """A folder with a copy of the package."""
    folder: Path = tmp_path / "source"
    shutil.copytree(ROOT / "edgeq", folder / "edgeq", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.title)
def test_what_the_text_says_works(recipe, prepared, sandbox, tmp_path, warm_python):
    folder = tmp_path / "folder"
    shutil.copytree(prepared, folder)
    for path, text in recipe.files.items():
        place = (sandbox if path.endswith(".py") else folder) / path
        assert not place.exists()
        place.write_text(text)
    steps = [step for block in recipe.run for step in _steps(block)]

    # Without the line the name is unknown: what runs below is the new thing.
    before = _run(steps[0], sandbox, folder, warm_python)
    assert before.returncode == 1
    assert re.search(rf"unknown (\w+ )?{recipe.title.split()[-1]} ", before.stderr), before.stderr

    for line, table, path in recipe.lines:
        _add_line(sandbox / path, table, line)
    for step in steps:
        done = _run(step, sandbox, folder, warm_python)
        assert done.returncode == 0, done.stderr
    _require_style(sandbox, [path for path in recipe.files if path.endswith(".py")])


def _steps(block: Block) -> list[ShellCommand]:
    """Returns the commands of a shell block, or the one that runs a block of Python."""
    if block.language == "python":
        return [ShellCommand({}, ["python", "-c", block.text])]
    return list(shell_commands(block.text))


def _run(step: ShellCommand, sandbox: Path, folder: Path, python: WarmPython) -> subprocess.CompletedProcess[str]:
    program, *arguments = step.words if step.words[0] == "python" else step.expanded(folder)
    command = {"edgeq": [sys.executable, "-m", "edgeq"], "python": [sys.executable]}[program]
    environment = {**os.environ, "PYTHONPATH": str(sandbox), "EDGEQ_DEBUG": ""}
    return python.run([*command, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False)


def _add_line(path: Path, table: str, line: str) -> None:
    """Adds a line at the end of a module's dictionary, which may be written on one line."""
    text = path.read_text()
    (value,) = [
        node.value
        for node in ast.parse(text).body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == table
    ]
    assert isinstance(value, ast.Dict)
    assert value.end_lineno is not None
    before = text.splitlines(keepends=True)[: value.end_lineno]
    assert value.end_col_offset is not None
    head = "".join([*before[:-1], before[-1][: value.end_col_offset - 1]]).rstrip()
    comma = "" if head.endswith((",", "{")) else ","
    path.write_text(
        f"{head}{comma}\n    {line}" + text[len("".join(before)) - len(before[-1]) + value.end_col_offset - 1 :]
    )


@pytest.mark.parametrize("table", ['T: dict[str, str] = {"a": "b"}', 'T: dict[str, str] = {\n    "a": "b",\n}'])
def test_a_line_is_added_to_a_table(table, tmp_path):
    path = tmp_path / "module.py"
    path.write_text(f"{table}\nafter = 1\n")
    _add_line(path, "T", '"c": "d",\n')
    names: dict[str, object] = {}
    exec(path.read_text(), names)  # noqa: S102 - written above
    assert (names["T"], names["after"]) == ({"a": "b", "c": "d"}, 1)


def _require_style(sandbox: Path, paths: list[str]) -> None:
    for arguments in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *arguments, "--config", str(ROOT / "pyproject.toml"), *paths]
        done = subprocess.run(command, cwd=sandbox, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
