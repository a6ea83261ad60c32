"""Idioms of transformers and timm, as torch's own exporter writes them: exact, and in INT8 for every target."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import edgeq
from edgeq.exporting.artifact import Artifact
from edgeq.runtimes import open_session
from edgeq.targets import TARGETS
from tests import tflite_nets
from tests.sources.families import images
from tests.sources.idioms import IDIOMS, SIDE, idiom

PRESET = """
[preprocessing]
resize = "stretch"
mean = [0.5, 0.5, 0.5]
std = [0.2, 0.2, 0.2]
"""


def _padded(count: int, seed: int) -> torch.Tensor:
    """Returns images whose lowest rows are padding."""
    found = images(SIDE, count, seed)
    found[:, :, -8:] = 0
    return found


@pytest.mark.parametrize("name", IDIOMS)
def test_an_idiom_goes_in_exact_and_comes_out_in_int8_for_every_target(name: str, tmp_path: Path) -> None:
    tflite_nets.require_converter()
    network, fresh = idiom(name, _padded(16, seed=1)), _padded(2, seed=2)
    path, preset = tmp_path / "net.onnx", tmp_path / "plain.toml"
    torch.onnx.export(network, (fresh[:1],), path, dynamo=True, verbose=False)
    preset.write_text(PRESET)
    calibration = [image[None].numpy() for image in _padded(32, seed=0)]
    model = edgeq.load(str(path), preset=str(preset))
    ranges = edgeq.calibrate(model, calibration, out=tmp_path / "ranges.json")
    with torch.no_grad():
        returned = network(fresh[:1])
    expected = returned if isinstance(returned, tuple) else (returned,)
    for target in TARGETS:
        files = edgeq.export(model, target, ["fp32", "int8"], calib=ranges, out=tmp_path / target).files
        for each in files:
            label = each.artifact.path.name
            if each.artifact.precision == "fp32":
                for one, other in zip(_outputs(each.artifact, fresh[:1].numpy()), expected, strict=True):
                    bound = 1e-5 * float(other.abs().max())
                    np.testing.assert_allclose(one, other, rtol=1e-4, atol=bound, err_msg=label)
            elif each.artifact.format != "tensorrt-cache":
                signal = each.comparison.signal
                assert each.artifact.quantization["int8_nodes"] > 0, label
                assert signal is not None and signal.snr_db > IDIOMS[name].int8_db, (label, signal)


def _outputs(artifact: Artifact, image: np.ndarray) -> list[np.ndarray]:
    (given,) = artifact.inputs
    runtime = "litert" if artifact.format == "tflite" else "onnxruntime"
    with open_session(artifact, runtime, 1) as session:
        found = session.run({given.name: given.encode(image)})
    return [spec.decode(found[spec.name]) for spec in artifact.outputs]
