"""docs/operators.md is what the files say; `python -m docs.operators` writes it."""

from __future__ import annotations

import pytest

from docs.operators import NOT_TRIED, PAGE, Coverage, operators, row
from tests.fuzz.exports import TARGETS

LINES = PAGE.read_text(encoding="utf-8").splitlines()


def test_every_operator_of_onnx_is_there():
    rows = [line.split("|") for line in LINES if line.startswith("| ") and line.count("|") == len(TARGETS) + 2]
    listed = {row[1].strip() for row in rows} - {"Operator"}
    untried = {operator for group in NOT_TRIED.values() for operator in group}
    assert listed | untried == set(operators())
    assert not listed & untried


@pytest.mark.parametrize("operator", operators()[:: len(operators()) // 12])
def test_the_page_is_in_step_with_the_files(operator):
    found = row(operator)
    if found is None:
        assert any(line.startswith(f"- {operator}: ") for line in LINES)
    else:
        assert found.line in LINES, f"{found.line}: run `make docs`"


def test_what_is_drawn_is_counted():
    assert Coverage.of(21).line in LINES
