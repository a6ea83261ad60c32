"""What torch's transformer parts become at each opset: single operators where the opset has them, and the same."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

pytest.importorskip("torchvision")
import torch
from torch import nn

from edgeq.exporting.graphs.graph import opset_of
from edgeq.sources.torch_export import export_torch
from tests.exporting import encoders, nets


def assert_matches_torch(model, module):
    x = encoders.image(1)
    with torch.no_grad():
        wanted = module(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(nets.run(model, x)[0], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", [17, 18, 20, 23, 24])
@pytest.mark.parametrize("name", ["deit", "torchvision"])
def test_operators_of_an_encoder(name, opset):
    model = encoders.exported(name, opset)
    found = Counter(nets.ops(model))
    assert opset_of(model) == opset
    assert found["LayerNormalization"] == 3
    assert found["Gelu"] == (1 if opset >= 20 else 0) and found["Erf"] == (0 if opset >= 20 else 1)
    assert found["Attention"] == (1 if opset >= 23 else 0) and found["Softmax"] == (0 if opset >= 23 else 1)
    assert_matches_torch(model, encoders.module(name))


class _Activation(nn.Module):
    def __init__(self, approximate: str) -> None:
        super().__init__()
        self.layer, self.activation, self.last = nn.Conv2d(3, 4, 1), nn.GELU(approximate), nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.last(self.activation(self.layer(x)))
        return result


@pytest.mark.parametrize(("approximate", "operator"), [("none", "Gelu"), ("tanh", "FastGelu")])
def test_below_its_opset_gelu_is_fused_by_onnx_runtime(approximate, operator, tmp_path):
    module = _Activation(approximate).eval()
    model = export_torch(module, torch.zeros(encoders.IMAGE), ["out"], opset=17)
    assert nets.operators_in_onnxruntime(model, tmp_path)[operator] == 1
    assert_matches_torch(model, module)


@pytest.mark.parametrize("opset", [18, 20])
def test_gelu_tanh_is_one_operator_where_there_is_one(opset):
    module = _Activation("tanh").eval()
    model = export_torch(module, torch.zeros(encoders.IMAGE), ["out"], opset=opset)
    assert ("Gelu" in nets.ops(model)) == (opset >= 20)
    assert_matches_torch(model, module)
