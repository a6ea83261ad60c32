"""`edgeq check`: what it prints, what it writes, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import edgeq as edgeq_api
from tests.runtimes.tensorrt.test_compile import needs_library

BODY = """<ir_version: 8, opset_import: ["" : {opset}]> net (float[1,4] x) => (float[1,4] y)
    <float s = {{0.5}}, int8 z = {{{zero}}}> {{
    [first] q = QuantizeLinear(x, s, z) [second] d = DequantizeLinear(q, s, z)
    [third] r = QuantizeLinear({source}, s, z)
    [fourth] y = DequantizeLinear(r, s, z) }}"""


def save(path: Path, *, opset: int = 17, zero: int = 0, source: str = "d") -> Path:
    onnx.save(onnx.parser.parse_model(BODY.format(opset=opset, zero=zero, source=source)), path)
    return path


def test_advice_is_printed_and_no_error(edgeq, tmp_path):
    done = edgeq("check", save(tmp_path / "net.onnx"), "--json", tmp_path / "found.json")
    assert done.code == 0
    assert done.out.splitlines() == [
        "T11 advice: QuantizeLinear third quantizes again what second has dequantized; wanted one pair",
        "net.onnx, TensorRT 10.3.0: errors 0, advice 1; weighted layers in int8 0, in float 0",
    ]
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["file"], found["target"], found["tensorrt"]) == ("net.onnx", "jetson-orin", "10.3.0")
    assert [(entry["rule"], entry["severity"], entry["node"]) for entry in found["findings"]] == [
        ("T11", "advice", "third")
    ]


def test_errors_are_printed_and_exit_code_1(edgeq, tmp_path):
    done = edgeq("check", save(tmp_path / "net.onnx", opset=18, zero=3), "--tensorrt", "8.6.1")
    assert done.code == 1
    assert done.out.splitlines()[:2] == [
        "T1 error: opset 18, and TensorRT 8.6 reads up to 17",
        "T3 error: QuantizeLinear first has the zero point 3; wanted zero, a symmetric grid",
    ]
    assert done.err == ""


def test_strong_typing_is_the_targets(edgeq, tmp_path):
    path = save(tmp_path / "net.onnx", opset=19)
    assert "T14" not in edgeq("check", path).out
    assert "T14 error" in edgeq("check", path, "--target", "jetson-orin-trt11").out
    assert "T14 error" in edgeq("check", path, "--tensorrt", "11.4").out


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--target", "x86"], "rules to check are of ['jetson-orin', 'jetson-orin-trt11'"),
        (["--tensorrt", "new"], "--tensorrt new: wanted a version"),
        (["--json", "/proc/none/found.json"], "cannot be written"),
    ],
)
def test_wrong_options_are_one_line(edgeq, tmp_path, options, reason):
    assert reason in edgeq("check", save(tmp_path / "net.onnx"), *options).error


def test_what_is_no_model_is_one_line(edgeq, tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(np.arange(100, dtype=np.uint8).tobytes())
    assert "is not a valid ONNX model" in edgeq("check", path).error
    assert "no such file" in edgeq("check", tmp_path / "none.onnx").error


CONV = """<ir_version: 8, opset_import: ["" : 19]> net (float16[1,32,8,8] x) => (float16[1,32,8,8] y)
    <int8 z = {{0}}> {{
    q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)
    w8 = QuantizeLinear(w, s, z) v = DequantizeLinear(w8, s, z)
    [layer] y = {layer} }}"""


def save_layer(path: Path, layer: str) -> Path:
    model = onnx.parser.parse_model(CONV.format(layer=layer))
    constants = {"w": np.full((32, 32, 1, 1), 0.5, np.float16), "s": np.array(0.5, np.float16)}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in constants.items())
    onnx.save(model, path)
    return path


@needs_library
def test_compiled_layers_are_compared_with_the_plan(edgeq, tmp_path):
    path = save_layer(tmp_path / "net.onnx", "Conv(d, v)")
    done = edgeq("check", path, "--compile", "--target", "jetson-orin-trt11", "--json", tmp_path / "found.json")
    assert done.code == 0, done.err
    assert "TensorRT for RTX 1.7" in done.out and "for SM86 (not a Jetson): built" in done.out
    compiled = json.loads((tmp_path / "found.json").read_text())["compiled"]
    assert compiled["stage"] == "built" and compiled["plan_bytes"] > compiled["weights_bytes"] > 0
    (layer,) = compiled["nodes"]
    assert (layer["node"], layer["planned"], layer["compiled"], layer["agrees"]) == ("layer", "int8", "int8", True)
    other = edgeq_api.check(path, "jetson-orin-trt11", compile=True, sm="sm80").compiled
    assert other is not None and other.sm == "SM80"


@needs_library
def test_a_refused_file_is_a_line_and_exit_code_1(edgeq, tmp_path):
    done = edgeq("check", save_layer(tmp_path / "net.onnx", "Det(d)"), "--compile")
    assert done.code == 1
    assert done.out.splitlines()[-1].endswith("its parser refused the file: node layer: Det: false")


def test_a_capability_belongs_to_compiling(edgeq, tmp_path):
    path = save(tmp_path / "net.onnx")
    done = edgeq("check", path, "--sm", "sm86")
    assert (done.code, done.out) == (1, "") and "--sm: is what --compile compiles for" in done.err
    done = edgeq("check", path, "--compile", "--isa", "avx2")
    assert done.code == 1 and "--isa: is for x86 engines" in done.err
