"""From the host to the board: `edgeq build` on the pretended Jetson takes what `edgeq export` writes for it."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from edgeq.calibration.source import CalibrationSource
from edgeq.exporting.artifact import Artifact
from edgeq.runtimes.runner import make_inputs
from edgeq.sources.model import ModelRequest
from edgeq.targets import get_target
from edgeq.verbs.build import BuildRequest, build_engines
from edgeq.verbs.export import export_model
from tests.test_order import ROOT
from tests.trt_fixtures import board, faults, install, old_trt, trt, trt10

__all__ = ["board", "faults", "old_trt", "trt", "trt10"]


@pytest.fixture(scope="module")
def exported(small_onnx, drawn, tmp_path_factory):
    """Target -> its INT8 file; for `jetson-orin` the FP32 file and the calibration cache lie beside it."""
    folder = tmp_path_factory.mktemp("exported")
    found = {}
    for target in ("jetson-orin", "jetson-orin-trt11"):
        opset = get_target(target).rules.opset
        request = ModelRequest(str(small_onnx), preset="centernet", labels="a,b,c,d,e,f", opset=opset)
        calibration = CalibrationSource(drawn.annotations, drawn.folder, method="minmax", num=8)
        written = export_model(request, target, ["fp32", "int8"], folder, calibration=calibration)
        found[target] = next(file.artifact for file in written.files if file.artifact.precision == "int8")
    return found


def test_the_explicit_file_runs_its_layers_in_int8(trt, exported, tmp_path):
    target = "jetson-orin-trt11" if trt.__version__.startswith("11") else "jetson-orin"
    artifact = exported[target]
    (built,) = build_engines([artifact.path], BuildRequest(out=tmp_path))
    assert built.facts.route == "explicit"
    weighted = artifact.quantization["int8_nodes"]
    # The double counts weighted layers only; residual Adds are among the plan's nodes.
    assert weighted >= built.facts.layers["int8"] > 15
    assert built.facts.strongly_typed is trt.__version__.startswith("11")
    assert built.artifact.postprocessing == artifact.postprocessing


def test_the_implicit_route_finds_a_scale_for_every_layer_that_the_explicit_one_quantizes(old_trt, exported, tmp_path):
    artifact = exported["jetson-orin"]
    (explicit,) = build_engines([artifact.path], BuildRequest(out=tmp_path / "explicit"))
    (implicit,) = build_engines([artifact.path], BuildRequest(out=tmp_path / "implicit", route="implicit"))
    assert implicit.facts.scales_from == "cache"
    assert implicit.facts.layers["int8"] >= explicit.facts.layers["int8"]
    assert artifact.quantization["float_nodes"]
    floats = {name for name in artifact.quantization["float_nodes"] if name in implicit.facts.float_layers}
    assert floats == set(artifact.quantization["float_nodes"])


def test_a_strongly_typed_file_is_built_by_tensorrt_10_too(trt10, exported, tmp_path):
    (built,) = build_engines([exported["jetson-orin-trt11"].path], BuildRequest(out=tmp_path))
    assert built.facts.strongly_typed


def test_noise_is_made_for_an_engine_as_for_its_file(trt10, exported, tmp_path):
    artifact = exported["jetson-orin"]
    (built,) = build_engines([artifact.path], BuildRequest(out=tmp_path))
    for name, array in make_inputs(artifact).items():
        assert (make_inputs(built.artifact)[name] == array).all()


def test_the_board_needs_no_torch_and_no_graph_library(exported, tmp_path):
    """Builds in a process in which the libraries of the host cannot be imported; the double itself takes onnx."""
    program = """
import json, sys
from pathlib import Path
for name in ("torch", "onnx_ir", "onnxscript", "openvino", "litert_torch", "safetensors", "matplotlib"):
    sys.modules[name] = None
import edgeq.runtimes.cuda
from tests.fake_cuda import Board, FakeCuda
from tests.trt_behaviour import Faults
from tests.trt_double import make_tensorrt
FakeCuda.board = Board()
edgeq.runtimes.cuda.BINDINGS = {"fake": "tests.fake_cuda:FakeCuda"}
sys.modules["tensorrt"] = make_tensorrt("10.3.0", FakeCuda.board, Faults())
from edgeq.verbs.build import BuildRequest, build_engines
from edgeq.verbs.inspect import inspect_engine
(built,) = build_engines([Path(sys.argv[1])], BuildRequest(out=Path(sys.argv[2]), route="both"))
print(json.dumps(inspect_engine(built.artifact.path).inspection.counts))
"""
    command = [sys.executable, "-c", program, str(exported["jetson-orin"].path), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1])["int8"] > 15


def test_an_engine_moved_to_another_board_says_rebuild(trt10, board, faults, exported, monkeypatch, edgeq, tmp_path):
    (built,) = build_engines([exported["jetson-orin"].path], BuildRequest(out=tmp_path))
    install(monkeypatch, "10.16.1.11", board, faults)
    error = edgeq("inspect", built.artifact.path).error
    assert "TensorRT 10.3.0, here is 10.16.1; rebuild on this device with `edgeq build`" in error
    loaded = Artifact.load(built.artifact.path)
    assert dataclasses.replace(loaded, quantization={}) == dataclasses.replace(built.artifact, quantization={})
