"""What the tests of trained detectors on real images share: the files for the Jetson."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx

from edgeq.calibration.source import CalibrationSource
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.tensorrt.cache import parse_cache
from edgeq.sources.model import ModelRequest
from edgeq.targets import get_target
from edgeq.verbs.check import check_file
from edgeq.verbs.export import export_model


def export_for_jetson(request: ModelRequest, folder: Path, calibration: CalibrationSource) -> list[Artifact]:
    """Returns the files of both Jetson targets: FP32 and INT8, then INT8 under strong typing."""
    files = []
    for target in ("jetson-orin", "jetson-orin-trt11"):
        model = dataclasses.replace(request, opset=get_target(target).rules.opset)
        written = export_model(model, target, ("int8",), folder, calibration=calibration).files
        files += [file.artifact for file in written]
    return files


def assert_both_routes(explicit: Artifact, typed: Artifact) -> None:
    """Both files are clean, and the cache names every activation that the explicit file quantizes."""
    for artifact, version in ((explicit, "8.6.1"), (explicit, "10.3"), (typed, "11.4")):
        assert check_file(artifact.path, artifact.target, version).checked.findings == ()
    name = explicit.quantization["calibration_cache"]["file"]
    cache = parse_cache(explicit.path.with_name(name).read_bytes(), "cache")
    graph = onnx.load(explicit.path).graph
    constants = {value.name for value in graph.initializer}
    quantized = {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"} - constants
    assert len(quantized) > 20
    assert quantized <= cache.bits.keys()
