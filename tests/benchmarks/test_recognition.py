"""Smoke test of the benchmark that counts what is recognised, and its verdicts."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import recognition
from benchmarks.recognition import Looked
from tests.sources.heads import save_outputs


@pytest.mark.parametrize(
    ("wanted", "found", "verdict"),
    [
        ("yolox", ["yolox,scale=1"], "right"),
        ("", [], "right"),
        ("yolo_nas", ["yolo_nas", "damo_yolo"], "left to the user"),
        ("yolox", ["yolo_nas", "damo_yolo"], "wrong"),
        ("yolox", ["yolov8"], "wrong"),
        ("", ["yolov8"], "wrong"),
        ("yolox", [], "not recognised"),
        (None, ["yolox"], "unknown"),
    ],
)
def test_verdicts(wanted: str | None, found: list[str], verdict: str) -> None:
    assert Looked.of("a.onnx", wanted, found).verdict == verdict


def test_files_are_looked_at_and_counted(tmp_path: Path) -> None:
    save_outputs(tmp_path / "yolov8n.onnx", {"output0": ((1, 84, 2100), ("Sigmoid", "Sub", "Mul"))})
    save_outputs(tmp_path / "mine.onnx", {"mask": ((1, 21, 320, 320), ())})
    text = recognition.run(tmp_path, [tmp_path], torchvision=()).read_text()
    assert text.startswith("# Recognition: 2 models, 1 right, 1 unknown\n")
    assert "| yolov8n.onnx | yolov8 | yolov8 | right |" in text
