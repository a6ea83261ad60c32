"""Families of networks, from torch to INT8: they open at every target's opset, exact, and keep their signal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import edgeq
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
