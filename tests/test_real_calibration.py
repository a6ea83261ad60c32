"""The promise on a real detector: one calibration of the ONNX file, and every target has its files without images."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from benchmarks.exact_signal import SUBJECTS, calibration_of, request_of
from benchmarks.shared_calibration import compare
from edgeq.calibration.source import CalibrationSource
from edgeq.targets import TARGETS, get_target
from edgeq.verbs.export import export_model

pytestmark = pytest.mark.slow

TOLERANCE_DB = 0.5
"""Of the mean over the outputs: ONNX Runtime and LiteRT round differently, and ranges follow from what they compute."""

OUTPUT_TOLERANCE_DB = 3.0
"""Of one output, some of which hold a few hundred values."""


def test_one_calibration_of_yunet_serves_every_target(shared_data: Path, tmp_path: Path) -> None:
    images = calibration_of(SUBJECTS["yunet"], shared_data, 16, tmp_path)
    request = request_of("yunet", shared_data, tmp_path)
    rows = {row.format: row for row in compare(request, images, ["arm"], tmp_path, threads=1)}
    assert rows["onnx"].shared == rows["onnx"].own
    # Depthwise heads behind which the converter moves axes: no ONNX tensor has their shape.
    assert (rows["tflite"].followed, rows["tflite"].sampled) == (56, 0)
    differences = [rows["tflite"].shared[output] - own for output, own in rows["tflite"].own.items()]
    assert abs(sum(differences) / len(differences)) < TOLERANCE_DB
    assert min(differences) > -OUTPUT_TOLERANCE_DB
    ranges = CalibrationSource(tmp_path / "ranges.json")
    for target in set(TARGETS) - {"arm"}:
        wanted = dataclasses.replace(request, opset=get_target(target).rules.opset)
        export_model(wanted, target, ["int8"], tmp_path / target, calibration=ranges, threads=1)
