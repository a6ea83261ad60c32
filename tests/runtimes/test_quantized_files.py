"""Quantized files of other tools, without a manifest: engines run them as they are, with inputs of their types."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeq.exporting.onnx.qdq import insert_qdq
from edgeq.exporting.planning.plan import make_plan
from edgeq.exporting.planning.selection import select_layers
from edgeq.exporting.tensorrt.strong_typing import to_fp16
from edgeq.runtimes import open_session
from edgeq.runtimes.runner import make_inputs
from edgeq.sources.artifact_file import describe_file, open_artifact
from edgeq.targets import get_target
from tests.exporting import nets
from tests.exporting.test_dequantize import DYNAMIC, ENDS, QOPERATOR, TENSORRT, TORCH
from tests.exporting.test_qdq import ranges_for

NETS = {"torch": TORCH, "tensorrt": TENSORRT, "qoperator": QOPERATOR, "dynamic": DYNAMIC, "ends": ENDS}
PAIRS = ("torch", "tensorrt", "ends")  # OpenVINO reads these alone


@pytest.mark.parametrize(
    ("name", "runtime"), [*((name, "onnxruntime") for name in NETS), *((name, "openvino") for name in PAIRS)]
)
def test_they_run_on_random_inputs(name, runtime, tmp_path: Path):
    pytest.importorskip(runtime)
    text, weights = NETS[name]
    domains = '"" : 13, "com.microsoft" : 1' if "com.microsoft" in text else '"" : 13'
    model = onnx.parser.parse_model(f"<ir_version: 8, opset_import: [{domains}]> {text}")
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    onnx.save(model, tmp_path / "net.onnx")
    artifact = open_artifact(tmp_path / "net.onnx")
    inputs = make_inputs(artifact)
    assert {name: str(array.dtype) for name, array in inputs.items()} == {
        spec.name: spec.dtype for spec in artifact.inputs
    }
    with open_session(artifact, runtime, 1) as session:
        outputs = session.run(inputs)
    for spec in artifact.outputs:
        assert outputs[spec.name].dtype == np.dtype(spec.dtype) and outputs[spec.name].any()


@pytest.mark.parametrize(
    ("of_another_tool", "runtime"), [(False, "onnxruntime"), (True, "onnxruntime"), (True, "simulated-tensorrt")]
)
def test_onnxruntime_keeps_large_biases_of_files_with_fp16_scales(of_another_tool, runtime, tmp_path: Path):
    """Its optimizers would divide a bias by its steps in FP16, which ends at 65504."""
    rules = get_target("jetson-orin-trt11").rules
    weights = {"w": 1e-3 * nets.normal(1, 4, 4, 3, 3), "b": 5 * nets.normal(2, 4), "v": nets.normal(3, 4, 4, 3, 3)}
    text = """g (float[1,4,8,8] x) => (float[1,4,8,8] y) { c = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(c)
        d = Conv<pads=[1,1,1,1]>(r, v) y = Softplus(d) }"""
    model, x = nets.in_opset(nets.graph(text, weights), rules.opset), nets.normal(9, 1, 4, 8, 8)
    reference = nets.run(model, x)[0]
    selection = select_layers(model, rules)
    plan = make_plan(model, selection, ranges_for(model, x, selection.tensors), rules)
    assert np.abs(weights["b"]).max() > 65504 * plan.tensors["x"].scale * plan.weights["node"].scale.min()
    insert_qdq(model, plan, rules)
    to_fp16(model)
    path = tmp_path / "net.onnx"
    ir.save(model, path)
    artifact = describe_file(path)
    if not of_another_tool:
        artifact = dataclasses.replace(artifact, target="jetson-orin-trt11", precision="int8", quantization={})
    with open_session(artifact, runtime, 1) as session:
        found = session.run({"x": x})["y"]
    np.testing.assert_allclose(found, reference, atol=0.05 * np.abs(reference).max())
