"""torch modules become float32 TFLite files that compute the same, under our names."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import nn

from edgeq.errors import MissingDependencyError, ModelError
from edgeq.exporting.tflite.convert import convert_module
from edgeq.exporting.tflite.graph import read_graph
from tests import tflite_nets
from tests.exporting import nets
from tests.small import SIZE, small_centernet


class Uneven(nn.Module):
    """Outputs of three ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = self.conv(x)
        return y, y.flatten(2), y.mean((2, 3))


@torch.no_grad()
def test_a_detector_computes_what_torch_computes() -> None:
    model, x = tflite_nets.centernet(), nets.normal(1, 1, 3, *SIZE)
    wanted = small_centernet(0)(torch.from_numpy(x))
    found = tflite_nets.run(model.content, model.input.encode(x))
    for got, want in zip(found, wanted, strict=True):
        np.testing.assert_allclose(tflite_nets.channel_first(got), want.numpy(), atol=1e-5)


def test_names_are_ours_and_each_is_there_once() -> None:
    model = tflite_nets.centernet()
    assert (model.input.name, model.input.shape, model.input.layout) == ("image", (1, *SIZE, 3), "NHWC")
    assert [spec.name for spec in model.outputs] == ["hm", "wh", "reg"]
    names = [tensor.name for tensor in model.graph.tensors]
    assert len(names) == len(set(names)) and all(name.isidentifier() for name in names)
    from ai_edge_litert.interpreter import Interpreter

    (signature,) = Interpreter(model_content=model.content).get_signature_list().values()
    assert signature == {"inputs": ["image"], "outputs": ["hm", "reg", "wh"]}  # it sorts them


def test_layouts_change_at_the_ends_only_and_batchnorm_is_gone() -> None:
    """What the layers of a CNN need is there, and nothing between them."""
    kinds = {operator.kind for operator in tflite_nets.centernet().graph.operators}
    assert kinds == {"PAD", "CONV_2D", "MAX_POOL_2D", "ADD", "TRANSPOSE_CONV"}


@torch.no_grad()
def test_outputs_of_every_rank_and_without_names() -> None:
    net = tflite_nets.seeded(Uneven)
    content, x = tflite_nets.convert(net, (1, 3, 6, 7), ("first",)), nets.normal(1, 1, 3, 6, 7)
    graph = read_graph(content, "net")
    assert [graph.tensors[index].name for index in graph.outputs] == ["first", "output_1", "output_2"]
    found = tflite_nets.run(content, tflite_nets.channel_last(x))
    for got, want in zip(found, net(torch.from_numpy(x)), strict=True):
        np.testing.assert_allclose(tflite_nets.channel_first(got), want.numpy(), atol=1e-5)


def test_the_same_module_gives_the_same_bytes() -> None:
    first, second = (tflite_nets.convert(tflite_nets.seeded(Uneven), (1, 3, 6, 7)) for _ in range(2))
    assert first == second


class Fails(nn.Module):
    """A convolution and then what no TFLite file can do."""

    def __init__(self, operator: str) -> None:
        super().__init__()
        self.conv, self.operator = nn.Conv2d(3, 3, 1), operator

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        if self.operator == "branch":
            return x if x.sum() > 0 else -x
        if self.operator == "erfinv":
            return torch.erfinv(x)
        found: torch.Tensor = torch.nonzero(x) if self.operator == "nonzero" else torch.fft.fft2(x).abs()
        return found


@pytest.mark.parametrize(
    ("operator", "named"),
    [("nonzero", "aten.nonzero"), ("fft", "aten.fft_fft2"), ("erfinv", "aten.erfinv"), ("branch", "data-dependent")],
)
def test_what_cannot_be_converted_is_named(operator: str, named: str) -> None:
    with pytest.raises(ModelError, match=f"^net: cannot be converted to TFLite: .*{named}") as caught:
        tflite_nets.convert(Fails(operator), (1, 3, 6, 7))
    assert "\n" not in str(caught.value)


def test_without_the_converter_its_pip_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "litert_torch", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'edgeq\[tflite\]'"):
        convert_module(nn.Conv2d(3, 3, 1), torch.zeros(1, 3, 4, 4), ["y"], "net")


class Twice(nn.Module):
    """One tensor as three outputs, of which others are made, and the input as another."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = torch.relu(x)
        return y, x, y, y + 1, y


def test_names_are_any_text_and_no_inner_tensor_has_one_of_them() -> None:
    tflite_nets.require_converter()
    outputs = ["conv_2d_1", "層/1: y", "constant_2"]
    content = convert_module(Uneven().eval(), torch.zeros(1, 3, 8, 8), outputs, "net", "image data:0")
    graph = read_graph(content, "net")
    assert [graph.tensors[index].name for index in (*graph.inputs, *graph.outputs)] == ["image data:0", *outputs]
    names = [tensor.name for tensor in graph.tensors]
    assert len(set(names)) == len(names)


def test_one_tensor_is_several_outputs() -> None:
    names = ["a", "copy", "b", "more", "c"]
    content = tflite_nets.convert(Twice(), (1, 3, 8, 8), names)
    graph = read_graph(content, "net")
    assert [graph.tensors[index].name for index in graph.outputs] == names
    x = nets.normal(1, 1, 8, 8, 3)
    relu = np.maximum(x, 0)
    for found, expected in zip(tflite_nets.run(content, x), (relu, x, relu, relu + 1, relu), strict=True):
        np.testing.assert_array_equal(found, expected)
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(model_content=content)
    (signature,) = interpreter.get_signature_list().values()
    assert sorted(signature["outputs"]) == sorted(names)
