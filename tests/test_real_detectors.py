"""The promise on real input: INT8 keeps the AP of trained detectors, with no layer picked by hand.

In ONNX Runtime with exact sums on every CPU; in OpenVINO where its kernels are exact.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.json_results import evaluate_artifacts
from edgeq.calibration.source import CalibrationSource
from edgeq.sources.model import ModelRequest
from edgeq.verbs.export import export_model
from tests.exact import EXACT, sums_exactly
from tests.golden import CENTERNET_R18_BCCD, CENTERNET_R18_BCCD_TOLERANCE, FP32_ON_COCO_VAL88, FP32_TOLERANCE

RUNTIMES = ("openvino", EXACT)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("exact_runtime")]


def scores(
    request: ModelRequest, folder: Path, calibration: CalibrationSource, annotations: Path, images: Path
) -> dict[tuple[str, str], float]:
    """Returns (precision, runtime) -> AP of the FP32 and the INT8 file."""
    exported = export_model(request, "x86", ("fp32", "int8"), folder, calibration=calibration)
    paths = [file.artifact.path for file in exported.files]
    results = evaluate_artifacts(paths, annotations, images, runtimes=RUNTIMES)
    return {(result["precision"], result["runtime"]): result["AP"] for result in results}


def test_centernet_on_blood_cells(shared_data, tmp_path):
    bccd, weights = shared_data / "bccd", shared_data / "weights" / "centernet_r18_bccd.safetensors"
    train = bccd / "instances_train.json"
    found = scores(
        ModelRequest("centernet_resnet18", weights, size=(320, 416), labels=str(train)),
        tmp_path,
        CalibrationSource(train, bccd / "images", num=64),
        bccd / "instances_val.json",
        bccd / "images",
    )
    for runtime in RUNTIMES:
        assert found["fp32", runtime] == pytest.approx(CENTERNET_R18_BCCD["AP"], abs=CENTERNET_R18_BCCD_TOLERANCE)
        if sums_exactly(runtime):
            assert found["int8", runtime] >= found["fp32", runtime] - 0.005


@pytest.mark.parametrize(("file", "preset"), [("yolox_nano_coco_416", "yolox"), ("fastestdet_coco_352", "fastestdet")])
def test_foreign_detectors_on_coco(shared_data, tmp_path, file, preset):
    coco = shared_data / "coco"
    found = scores(
        ModelRequest(str(shared_data / "weights" / f"{file}.onnx"), preset=preset),
        tmp_path,
        CalibrationSource(coco / "instances_train.json", coco / "train2017", num=166),
        coco / "instances_val.json",
        coco / "val2017",
    )
    for runtime in RUNTIMES:
        assert found["fp32", runtime] == pytest.approx(FP32_ON_COCO_VAL88[file]["AP"], abs=FP32_TOLERANCE)
        if sums_exactly(runtime):
            assert found["int8", runtime] >= found["fp32", runtime] - 0.015
