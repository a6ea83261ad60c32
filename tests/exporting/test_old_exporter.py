"""Files of PyTorch's old exporter, with the options that it had by default at the time: weights are inputs."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn
from torch.nn import functional

from edgeq.exporting.graphs.graph import opset_of, read_onnx
from edgeq.exporting.passes.order import SIMPLIFYING, reading, run_passes
from tests.exporting import nets


class Net(nn.Module):
    """What changed most between opsets: Upsample, Pad, Clip, Slice, Softmax, reductions, normalisations."""

    def __init__(self, *, upsamples: bool) -> None:
        super().__init__()
        self.upsamples = upsamples
        self.first, self.norm, self.slope = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.PReLU(8)
        self.second, self.up, self.groups = nn.Conv2d(8, 8, 3), nn.ConvTranspose2d(8, 8, 2, 2), nn.GroupNorm(2, 8)
        self.head = nn.Linear(8, 5)
        nn.init.normal_(self.norm.running_mean)  # type: ignore[arg-type]

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = self.slope(self.norm(self.first(image)))
        y = self.second(functional.pad(x, (1, 1, 1, 1), mode="reflect"))
        y = functional.interpolate(y, scale_factor=2.0, mode="nearest") if self.upsamples else self.up(y)
        y = functional.relu6(self.groups(y + self.up(x)))
        gated = torch.cat([y[:, :4] * torch.sigmoid(y[:, 4:]), functional.pad(y[:, 4:], (0, 0, 0, 0), value=1.0)], 1)
        scores = functional.log_softmax(self.head(functional.dropout(gated.mean((2, 3)), 0.3, training=False)), 1)
        peaks = torch.softmax(gated.flatten(2), -1).max(2)[0]
        return scores, peaks, gated.clamp(min=0.1)[:, :, 1:-2]


def exported(net: Net, image: torch.Tensor, opset: int, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (image,), path, opset_version=opset, dynamo=False, input_names=["image"],
            keep_initializers_as_inputs=True, do_constant_folding=False,
        )  # fmt: skip
    proto = onnx.load(path)
    proto.ir_version = min(proto.ir_version, 3) if opset < 9 else proto.ir_version
    onnx.save(proto, path)


@pytest.mark.parametrize("opset", [7, 9, 11])
def test_a_file_of_its_time_computes_what_torch_computes(opset: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, image = Net(upsamples=opset >= 9).eval(), torch.randn(1, 3, 16, 16)
    exported(net, image, opset, tmp_path / "net.onnx")
    for target in (17, 18):
        model = read_onnx(tmp_path / "net.onnx")
        assert len(model.graph.inputs) > 10
        run_passes(model, (*reading(target), *SIMPLIFYING))
        assert opset_of(model) == target
        assert [value.name for value in model.graph.inputs] == ["image"]
        onnx.checker.check_model(ir.to_proto(model))
        for found, wanted in zip(nets.run(model, image.numpy()), net(image), strict=True):
            np.testing.assert_allclose(found, wanted.detach().numpy(), rtol=1e-5, atol=2e-6)
