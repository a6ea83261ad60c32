"""What tests of trained detectors on real images share: files for the Jetson, and files that compute the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx

from edgeq.calibration.source import CalibrationSource
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.tensorrt.cache import parse_cache
from edgeq.inputs.preprocessing import preprocess
from edgeq.sources.model import ModelRequest
from edgeq.targets import get_target
from edgeq.tasks.detection.shapes import draw_image
from edgeq.verbs.check import check_file
from edgeq.verbs.export import export_model
from tests.exact import outputs


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


def assert_keeps_as_much(file: Artifact, scored: Artifact) -> None:
    """A file of the same plan leaves as much of each output as another one, whose AP is therefore that of both.

    Exports measure it on three calibration images here, on which files of one plan differ by up to 1.6 dB (scales of
    FP16 or FP32, pairs elsewhere).
    """
    found, wanted = (each.quantization["signal"]["outputs"] for each in (file, scored))
    for output, other in zip(found, wanted, strict=True):
        assert (output["name"], output["channels"]) == (other["name"], other["channels"])
        assert output["snr_db"] >= other["snr_db"] - 2, (output, other)


def assert_same_floats(file: Artifact, scored: Artifact) -> None:
    """A float file prepares an image and computes as another one, whose AP is therefore that of both."""
    assert file.preprocessing is not None and file.preprocessing == scored.preprocessing
    image, _ = preprocess(draw_image(1, 0).pixels, file.preprocessing)
    found = outputs(file, image)
    for name, expected in outputs(scored, image).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-3, atol=1e-3, err_msg=name)
