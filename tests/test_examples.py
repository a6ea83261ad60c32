"""The scripts of examples/: short, and each runs in an empty folder as it is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.test_order import ROOT
from tests.warm_python import WarmPython

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
MAX_LINES = 60

SAYS = {
    "add_decoder": ["fp32 AP ", "int8 AP "],
    "calibrate_once": ["x86 artifacts/x86/net.x86.int8.onnx", "jetson-orin artifacts/jetson-orin", "minmax "],
    "evaluate_and_gate": ["fp32.onnx AP 0.", "max-drop: ", "latency-ratio: ", "wrote report.md"],
    "own_detector": ["artifacts/CenterNet.x86.int8.onnx cosine ", "fp32 ", " ms", "int8 AP "],
    "vit": ["fast ", "balanced ", "safe ", " cosine "],
}
"""Example -> what it prints, besides figures."""

FAILING_GATE = {"evaluate_and_gate"}
"""Whose exit code is the verdict on figures of this machine."""


def test_every_example_is_short_and_says_what_it_shows():
    assert [path.stem for path in EXAMPLES] == sorted(SAYS)
    for path in EXAMPLES:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) < MAX_LINES, path
        assert text.startswith('"""'), path


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_in_an_empty_folder(path: Path, tmp_path: Path, warm_python: WarmPython):
    pytest.importorskip("torch")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = warm_python.run(
        [sys.executable, str(path)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 or (path.stem in FAILING_GATE and done.returncode == 1 and not done.stderr), done
    assert "Traceback" not in done.stderr
    assert [words for words in SAYS[path.stem] if words not in done.stdout] == []
