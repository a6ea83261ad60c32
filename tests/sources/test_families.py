"""Families of networks, from torch to INT8: they open at every target's opset, exact, and keep their signal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

import edgeq
from edgeq.sources.model import ModelRequest, open_model
from tests.sources.families import FAMILIES, family, images

_SLOW = {"detr", "efficientnet_v2", "swin"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in _SLOW)) for name in sorted(FAMILIES)]
)
def test_a_family_goes_in_exact_and_comes_out_in_int8(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    network, side = family(name), FAMILIES[name].side
    model = edgeq.load(network, images(side, 1), name=name)
    calibration = list(images(side, 32).numpy()[:, None])
    files = edgeq.export(model, "x86", ["fp32", "int8"], calib=calibration, out=tmp_path).files
    assert capfd.readouterr().out == ""

    fresh = images(side, 2, seed=2)
    with torch.no_grad():
        returned = network(fresh[:1])
    expected = list(returned.values()) if isinstance(returned, dict) else [returned]
    session = onnxruntime.InferenceSession(files[0].artifact.path)
    found = session.run(None, {session.get_inputs()[0].name: fresh[:1].numpy()})
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))
    signal = files[1].comparison.signal
    assert signal is not None and signal.snr_db > FAMILIES[name].int8_db, signal


@pytest.mark.parametrize(
    ("name", "opset"), [("group_norm", 23), ("warp", None), pytest.param("swin", None, marks=pytest.mark.slow)]
)
def test_a_file_of_torchs_own_exporter_opens_for_the_oldest_opset(name: str, opset: int | None, tmp_path: Path) -> None:
    network, image = family(name), images(FAMILIES[name].side, 1, seed=2)
    path, preset = tmp_path / "net.onnx", tmp_path / "plain.toml"
    torch.onnx.export(network, (image,), path, dynamo=True, opset_version=opset, verbose=False)
    preset.write_text('[preprocessing]\nresize = "stretch"\n')
    graph = open_model(ModelRequest(str(path), preset=str(preset), opset=17)).model.graph
    assert graph.opset_imports == {"": 17}
    session = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString())
    (found,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    with torch.no_grad():
        expected = network(image)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
