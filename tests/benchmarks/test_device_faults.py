"""Hostile runners, bad links and changed values: a few of each kind; the benchmark has them all."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks import device_faults
from edgeq.runtimes import child

SHORT = ("answers that nobody asked for, without end", "a million brackets", "escape sequences", "the end at once")


@pytest.fixture(autouse=True)
def real_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "subprocess", subprocess)  # isolated ones, which forks of tests.warm_python are not


def test_the_host_ends_with_results_or_one_line(tmp_path: Path) -> None:
    hostile = [case for case in device_faults.hostile_cases() if case.name in SHORT]
    page = device_faults.run(tmp_path, links=3, values=12, hostile=hostile).read_text()
    assert "## Faults" not in page
    assert "| hostile runner | 4 | 0 | 4 |" in page
    assert "| link: delayed | 1 | 1 | 0 |" in page
