"""The promise on real input: INT8 keeps the AP of detectors that others have trained and written as ONNX files.

In the engines and the simulation of tests/test_real_centernet.py, each from one calibration.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import pytest

from benchmarks.json_results import evaluate_artifacts
from edgeq.calibration.source import CalibrationSource
from edgeq.sources.model import ModelRequest
from edgeq.verbs.export import ExportResult, export_model
from tests.exact import EXACT, KERNELS_ARE_EXACT, sums_exactly
from tests.golden import FP32_ON_COCO_VAL88, FP32_TOLERANCE
from tests.real import assert_both_routes, assert_keeps_as_much, assert_same_floats, export_for_jetson

RUNTIMES = ("openvino", EXACT)
PRESETS = {"yolox_nano_coco_416": "yolox", "fastestdet_coco_352": "fastestdet"}
LOSS = 0.015

pytestmark = pytest.mark.slow


class Exported:
    """A detector, and its files for x86, whose ranges serve the other targets as well."""

    def __init__(self, name: str, shared_data: Path, folder: Path) -> None:
        coco = shared_data / "coco"
        images = CalibrationSource(coco / "instances_train.json", coco / "train2017", num=166)
        self.fp32_ap = FP32_ON_COCO_VAL88[name]["AP"]
        self.request = ModelRequest(str(shared_data / "weights" / f"{name}.onnx"), preset=PRESETS[name])
        self.x86: ExportResult = export_model(self.request, "x86", ("fp32", "int8"), folder, calibration=images)
        assert self.x86.ranges_path is not None
        self.calibration = CalibrationSource(self.x86.ranges_path)


@pytest.fixture(scope="module", params=PRESETS)
def detector(request, shared_data, new_folder) -> Exported:
    return Exported(request.param, shared_data, new_folder("x86"))


@pytest.fixture
def score(shared_data):
    coco = shared_data / "coco"
    # The faster evaluator's numbers are those of pycocotools, see tests/tasks/detection/test_coco.py.
    engine = "faster" if importlib.util.find_spec("faster_coco_eval") else "pycocotools"
    return functools.partial(
        evaluate_artifacts, annotations=coco / "instances_val.json", images_dir=coco / "val2017", engine=engine
    )


def test_x86(detector, score, exact_runtime):
    fp32, int8 = detector.x86.paths
    # What ONNX Runtime makes of the float file, tests/evaluation/test_evaluate.py says.
    (reference,) = score([fp32], runtimes=("openvino",))
    assert "suspicions" not in reference
    assert reference["AP"] == pytest.approx(detector.fp32_ap, abs=FP32_TOLERANCE)
    for result in score([int8], runtimes=[runtime for runtime in RUNTIMES if sums_exactly(runtime)]):
        assert result["AP"] >= reference["AP"] - LOSS, result["runtime"]


def test_tflite(detector, score, tmp_path):
    written = export_model(
        detector.request, "arm", ("fp32", "int8"), tmp_path, calibration=detector.calibration, formats=("tflite",)
    )
    fp32, int8 = written.files
    assert fp32.comparison.max_abs_difference <= 5e-4 * fp32.comparison.max_abs_output  # test_x86 scores these floats
    (result,) = score([int8.artifact.path])
    assert result["AP"] >= detector.fp32_ap - LOSS


@pytest.mark.parametrize("detector", ["yolox_nano_coco_416"], indirect=True)
def test_jetson(detector, score, tmp_path):
    """By TensorRT's explicit route, and under strong typing."""
    fp32, int8, typed = export_for_jetson(detector.request, tmp_path, detector.calibration)
    assert_both_routes(int8, typed)
    assert_same_floats(fp32, detector.x86.files[0].artifact)  # which test_x86 scores
    assert_keeps_as_much(typed, int8)
    (result,) = score([int8.path], simulate="jetson-orin")
    # Ranges that float kernels without VNNI's instruction sets collected gave .0177 less, on 88 images.
    assert result["AP"] >= detector.fp32_ap - (LOSS if KERNELS_ARE_EXACT else 0.02)
