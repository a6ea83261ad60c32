"""The promise on real input: one calibration of a trained CenterNet, and INT8 that keeps its AP for every target.

For x86 in ONNX Runtime with exact sums on every CPU, and in OpenVINO where its kernels are exact; for the Jetson in
simulation; as TFLite with all of it in XNNPACK. No layer is picked by hand.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.json_results import evaluate_artifacts
from edgeq.calibration.source import CalibrationSource
from edgeq.exporting.tflite.graph import read_graph
from edgeq.sources.model import ModelRequest
from edgeq.verbs.export import ExportResult, export_model
from tests.exact import EXACT, sums_exactly
from tests.golden import CENTERNET_R18_BCCD_EVERY_THIRD, CENTERNET_R18_BCCD_TOLERANCE
from tests.real import assert_both_routes, assert_keeps_as_much, assert_same_floats, export_for_jetson

RUNTIMES = ("openvino", EXACT)
LOSS = 0.005

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def request_(shared_data) -> ModelRequest:
    weights = shared_data / "weights" / "centernet_r18_bccd.safetensors"
    return ModelRequest(
        "centernet_resnet18", weights, size=(320, 416), labels=str(shared_data / "bccd" / "instances_train.json")
    )


@pytest.fixture(scope="module")
def x86(shared_data, request_, new_folder) -> ExportResult:
    """The files for x86, whose ranges serve the other targets as well."""
    bccd = shared_data / "bccd"
    calibration = CalibrationSource(bccd / "instances_train.json", bccd / "images", num=32)
    return export_model(request_, "x86", ("fp32", "int8"), new_folder("x86"), calibration=calibration)


@pytest.fixture(scope="module")
def calibration(x86) -> CalibrationSource:
    assert x86.ranges_path is not None
    return CalibrationSource(x86.ranges_path)


@pytest.fixture(scope="module")
def truth(shared_data, tmp_path_factory) -> Path:
    """Every third val image; tests/evaluation/test_evaluate.py scores all of them, in FP32."""
    document = json.loads((shared_data / "bccd" / "instances_val.json").read_bytes())
    document["images"] = sorted(document["images"], key=lambda image: image["id"])[::3]
    chosen = {image["id"] for image in document["images"]}
    document["annotations"] = [each for each in document["annotations"] if each["image_id"] in chosen]
    path: Path = tmp_path_factory.mktemp("truth") / "every_third.json"
    path.write_text(json.dumps(document))
    return path


@pytest.fixture(scope="module")
def score(shared_data, truth):
    return functools.partial(evaluate_artifacts, annotations=truth, images_dir=shared_data / "bccd" / "images")


def assert_fp32(ap: float) -> None:
    assert ap == pytest.approx(CENTERNET_R18_BCCD_EVERY_THIRD["AP"], abs=CENTERNET_R18_BCCD_TOLERANCE)


@pytest.fixture(scope="module")
def fp32_ap(x86, score) -> float:
    """Of the file for x86, in OpenVINO; ONNX Runtime is compared with the model by every export."""
    (result,) = score(x86.paths[:1], runtimes=("openvino",))
    assert "suspicions" not in result
    ap: float = result["AP"]
    return ap


def test_x86(x86, fp32_ap, score, exact_runtime):
    assert_fp32(fp32_ap)
    for result in score(x86.paths[1:], runtimes=[runtime for runtime in RUNTIMES if sums_exactly(runtime)]):
        assert result["AP"] >= fp32_ap - LOSS, result["runtime"]


def test_jetson(request_, x86, fp32_ap, calibration, score, tmp_path):
    """By TensorRT's explicit route, and under strong typing."""
    fp32, int8, typed = export_for_jetson(request_, tmp_path, calibration)
    assert_both_routes(int8, typed)
    assert_same_floats(fp32, x86.files[0].artifact)
    assert_keeps_as_much(typed, int8)
    (result,) = score([int8.path], simulate="jetson-orin")
    assert result["AP"] >= fp32_ap - LOSS


def test_tflite(request_, calibration, score, tmp_path):
    precisions = ("fp32", "fp16", "int8")
    written = export_model(request_, "arm", precisions, tmp_path, calibration=calibration, formats=("tflite",))
    fp32, fp16, int8 = (file.artifact for file in written.files)
    assert int8.size_bytes <= 0.27 * fp32.size_bytes
    assert fp16.size_bytes <= 0.51 * fp32.size_bytes
    assert int8.quantization["matched_tensors"] == 35  # no second pass over the images
    # On calibration images, each output: nothing that AP could show.
    assert min(output["snr_db"] for output in fp16.quantization["signal"]["outputs"]) >= 60
    results = score([fp32.path, int8.path])
    found = {result["precision"]: result["AP"] for result in results}
    assert_fp32(found["fp32"])
    assert found["int8"] >= found["fp32"] - LOSS
    for result in results:
        coverage = result["environment"]["xnnpack"]
        assert (coverage["delegated"], coverage["partitions"]) == (coverage["operators"], 1)
    # One QUANTIZE behind the image; a DEQUANTIZE only before each head's last convolution, which is dynamic.
    graph = read_graph(int8.path.read_bytes(), int8.name)
    kinds = Counter(operator.kind for operator in graph.operators)
    assert (kinds["QUANTIZE"], kinds["DEQUANTIZE"]) == (1, 3)
    last = {graph.producer[index].index for index in graph.outputs}
    for operator in graph.operators:
        if operator.kind == "DEQUANTIZE":
            assert {reader.index for reader in graph.readers[operator.outputs[0]]} <= last
