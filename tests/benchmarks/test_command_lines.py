"""Every benchmark has a smoke test, and what the documents say to type names modules and arguments that exist."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import calibration_cost, tflite_calibration_cost, vit_speed, x86_int8
from benchmarks.peers import TOOLS
from tests.test_order import ROOT

BENCHMARKS = sorted(
    path.stem for path in (ROOT / "benchmarks").glob("*.py") if 'if __name__ == "__main__"' in path.read_text("utf-8")
)
TEXTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "docs/*.py", "benchmarks/*.md", "benchmarks/*.py", "tests/arm/*.py")
    for path in ROOT.glob(pattern)
)
# Run in processes of their own by the other benchmarks.
PROCESSES = ("aimet_process", "nncf_accuracy_control", "peers")


def calls(tree: ast.AST) -> Iterator[str]:
    """Yields what a tree calls: `name`, or `module.name`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                yield node.func.id
            elif isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
                yield f"{node.func.value.id}.{node.func.attr}"


@pytest.fixture(scope="module")
def called_by_tests() -> set[str]:
    return {name for path in (ROOT / "tests").rglob("test_*.py") for name in calls(ast.parse(path.read_bytes()))}


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name not in PROCESSES])
def test_what_main_runs_has_a_smoke_test(name, called_by_tests):
    tree = ast.parse((ROOT / "benchmarks" / f"{name}.py").read_bytes())
    main = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main")
    assert "run" in set(calls(main)), "a benchmark's main() reads its arguments and calls run()"
    assert f"{name}.run" in called_by_tests


def test_every_peer_belongs_to_a_benchmark():
    used = {*calibration_cost.TOOLS, *calibration_cost.COUNTS, *tflite_calibration_cost.TOOLS}
    used |= {peer.tool for peer in x86_int8.PEERS.values()} | {tool for tool, _ in vit_speed.PEERS.values()}
    assert used == set(TOOLS)


def command_lines(text: str) -> list[str]:
    """Returns the `python -m` lines of ours in a text: in code between backticks, or indented by four."""
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]
    blocks = [line.partition("#")[0] for line in re.findall(r"^ {4}\S.*$", text, flags=re.MULTILINE)]
    found = (re.fullmatch(r"\S*python -m ((?:benchmarks|docs|tests)\b.*)", line.strip()) for line in [*spans, *blocks])
    return [match[1].strip() for match in found if match]


def check(line: str) -> None:
    """Raises what the command line would end with before the work begins."""
    name, *arguments = shlex.split(line)
    assert importlib.util.find_spec(name) is not None, f"no module {name}"
    if name == "tests.x86":
        return  # its arguments are pytest's
    if not arguments:
        path = Path(ROOT, *name.split("."))
        file = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
        assert 'if __name__ == "__main__"' in file.read_text("utf-8")
        return
    module = importlib.import_module(name)
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{name}.__main__")
    module.make_parser().parse_args(arguments)


@pytest.mark.parametrize(
    ("path", "line"),
    [pytest.param(path, line, id=f"{path.name}: {line}") for path in TEXTS for line in command_lines(path.read_text())],
)
def test_a_command_line_names_a_module_and_its_arguments(path, line):
    check(line)


def test_the_benchmarks_page_names_every_benchmark():
    page = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    named = {line.split()[0] for line in command_lines(page)}
    assert {f"benchmarks.{name}" for name in BENCHMARKS if name not in PROCESSES} <= named


def test_command_lines_are_found():
    text = "Run `python -m docs.report_screenshots\nRUNS` or:\n\n    .venv/bin/python -m benchmarks.demo  # the table\n"
    assert command_lines(text) == ["docs.report_screenshots RUNS", "benchmarks.demo"]


@pytest.mark.parametrize(
    "line", ["benchmarks.x86_int8 resnet", "benchmarks.demo --nothing", "benchmarks.x86_int8 --out"]
)
def test_a_wrong_argument_is_found(line, capsys):
    with pytest.raises(SystemExit):
        check(line)


@pytest.mark.parametrize("line", ["benchmarks.nothing", "benchmarks.cases"])
def test_a_module_that_does_not_run_is_found(line):
    with pytest.raises(AssertionError):
        check(line)
