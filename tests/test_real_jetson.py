"""The promise for the board: INT8 by TensorRT's explicit route keeps the AP of trained detectors, in simulation."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from benchmarks.json_results import evaluate_artifacts
from edgeq.calibration.source import CalibrationSource
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.tensorrt.cache import parse_cache
from edgeq.sources.model import ModelRequest
from edgeq.targets import get_target
from edgeq.verbs.check import check_file
from edgeq.verbs.export import export_model
from tests.golden import CENTERNET_R18_BCCD, CENTERNET_R18_BCCD_TOLERANCE, FP32_ON_COCO_VAL88, FP32_TOLERANCE

pytestmark = pytest.mark.slow

TARGETS = ("jetson-orin", "jetson-orin-trt11")


def exported(request: ModelRequest, folder: Path, calibration: CalibrationSource) -> list[Artifact]:
    """Returns the files of both targets, which share one calibration: FP32 and INT8, then INT8 under strong typing."""
    files = []
    for target in TARGETS:
        opset = get_target(target).rules.opset
        model = ModelRequest(request.reference, request.weights, request.preset, request.size, request.labels, opset)
        result = export_model(model, target, ("int8",), folder, calibration=calibration)
        assert result.ranges_path is not None
        calibration = CalibrationSource(result.ranges_path)
        files += [file.artifact for file in result.files]
    return files


def assert_both_routes(explicit: Artifact, typed: Artifact) -> None:
    """Both files are clean, and the cache names every activation that the explicit file quantizes."""
    for artifact, version in ((explicit, "8.6.1"), (explicit, "10.3"), (typed, "11.4")):
        assert check_file(artifact.path, artifact.target, version).checked.findings == ()
    cache = parse_cache(
        explicit.path.with_name(explicit.quantization["calibration_cache"]["file"]).read_bytes(), "cache"
    )
    graph = onnx.load(explicit.path).graph
    constants = {value.name for value in graph.initializer}
    quantized = {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"} - constants
    assert len(quantized) > 20
    assert quantized <= cache.bits.keys()


def test_centernet_on_blood_cells(shared_data, tmp_path):
    bccd, weights = shared_data / "bccd", shared_data / "weights" / "centernet_r18_bccd.safetensors"
    train = bccd / "instances_train.json"
    request = ModelRequest("centernet_resnet18", weights, size=(320, 416), labels=str(train))
    fp32, int8, typed = exported(request, tmp_path, CalibrationSource(train, bccd / "images", num=64))
    assert_both_routes(int8, typed)
    results = evaluate_artifacts(
        [fp32.path, int8.path, typed.path], bccd / "instances_val.json", bccd / "images", simulate="jetson-orin"
    )
    scores = [result["AP"] for result in results]
    assert scores[0] == pytest.approx(CENTERNET_R18_BCCD["AP"], abs=CENTERNET_R18_BCCD_TOLERANCE)
    assert min(scores[1:]) >= scores[0] - 0.005


def test_yolox_on_coco(shared_data, tmp_path):
    coco = shared_data / "coco"
    request = ModelRequest(str(shared_data / "weights" / "yolox_nano_coco_416.onnx"), preset="yolox")
    calibration = CalibrationSource(coco / "instances_train.json", coco / "train2017", num=166)
    fp32, int8, typed = exported(request, tmp_path, calibration)
    assert_both_routes(int8, typed)
    results = evaluate_artifacts(
        [fp32.path, int8.path, typed.path], coco / "instances_val.json", coco / "val2017", simulate="jetson-orin"
    )
    scores = [result["AP"] for result in results]
    assert scores[0] == pytest.approx(FP32_ON_COCO_VAL88["yolox_nano_coco_416"]["AP"], abs=FP32_TOLERANCE)
    assert min(scores[1:]) >= scores[0] - 0.015
