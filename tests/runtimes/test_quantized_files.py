"""Quantized files of other tools, without a manifest: engines run them as they are, with inputs of their types."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeq.runtimes import open_session
from edgeq.runtimes.runner import make_inputs
from edgeq.sources.artifact_file import open_artifact
from tests.exporting.test_dequantize import DYNAMIC, ENDS, QOPERATOR, TENSORRT, TORCH

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
