"""What CI does about a test that fails once: real runs of pytest on files of tests written here."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.again import FEW, run_again

FAILS_ONCE = """
from pathlib import Path

def test_fails_once():
    seen = Path(__file__).with_name("seen")
    again = seen.exists()
    seen.touch()
    assert again
"""
FAILS = "def test_fails():\n    assert False\n"


def _run(folder, text: str) -> None:
    (folder / "test_written.py").write_text(text, encoding="utf-8")
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--rootdir", str(folder)], cwd=folder, capture_output=True, check=False
    )


def test_a_test_that_passes_alone_is_named_and_forgiven(tmp_path, capfd):
    _run(tmp_path, FAILS_ONCE)
    assert run_again(tmp_path) == 0
    assert "TO BE MENDED: test_written.py::test_fails_once\n" in capfd.readouterr().err


def test_a_test_that_fails_again_stays_a_failure(tmp_path):
    _run(tmp_path, FAILS + FAILS_ONCE)
    assert run_again(tmp_path) == 1


@pytest.mark.parametrize("count", [0, FEW + 1])
def test_no_failure_and_many_are_not_run_again(tmp_path, capfd, count):
    cache = tmp_path / ".pytest_cache" / "v" / "cache"
    cache.mkdir(parents=True)
    (cache / "lastfailed").write_text(json.dumps({f"test_written.py::test_{i}": True for i in range(count)}))
    assert run_again(tmp_path) == 1
    assert f"{count} tests failed; 1 to {FEW} would be run again." in capfd.readouterr().err
