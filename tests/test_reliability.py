"""docs/reliability.md: every promise names a test that exists, and every limit is that of the code."""

from __future__ import annotations

import ast
import functools
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
TESTS = re.findall(r"\| `(tests/[^`]+)` \|", TEXT)
LIMITS = re.findall(r"^\| .* \| ([\d,]+)[^|]* \| `([\w.]+)` \|$", TEXT, re.MULTILINE)


@functools.cache
def defined_in(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("named", TESTS)
def test_every_promise_names_a_test_that_exists(named: str) -> None:
    file, _, name = named.partition("::")
    assert (ROOT / file).is_file()
    assert not name or name in defined_in(ROOT / file)


@pytest.mark.parametrize(("stated", "constant"), LIMITS)
def test_every_limit_is_that_of_the_code(stated: str, constant: str) -> None:
    module, _, name = constant.rpartition(".")
    assert getattr(importlib.import_module(module), name) == int(stated.replace(",", ""))


def test_the_tables_are_read() -> None:
    assert len(TESTS) >= 15
    assert len(LIMITS) >= 15
    assert TEXT.count("\n| ") == len(TESTS) + len(LIMITS) + 2  # the two heads
