"""Attention's scale in the layers of queries and keys, in the traced torch graph as in the ONNX graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

pytest.importorskip("torchvision")

from edgeq.exporting.graphs.linear import linear_of
from edgeq.exporting.passes.attention_scale import fold_attention_scale as fold_onnx
from edgeq.exporting.passes.layernorm import fold_layernorm_affine
from edgeq.exporting.tflite.graph import read_graph
from edgeq.exporting.tflite.match import match_by_value
from edgeq.exporting.tflite.plan import observed_tensors
from edgeq.exporting.tflite.torch_linear import fold_attention_scale
from edgeq.runtimes.litert_observer import TfliteObserver
from edgeq.runtimes.observer import ActivationObserver
from edgeq.sources.torch_export import export_torch
from tests import tflite_nets
from tests.exporting import nets
from tests.exporting.tflite.test_torch_layernorm import IMAGE, converted, perturbed, torchvision, zoo
from tests.exporting.tflite.test_torch_passes import assert_same, finish, image, trace


def scales(traced: torch.fx.GraphModule) -> list[float | None]:
    attentions = [node for node in traced.graph.nodes if "scaled_dot_product" in str(node.target)]
    return [node.kwargs.get("scale") for node in attentions]


class Attention(nn.Module):
    """Two heads of four over five tokens."""

    def __init__(self, attend: Callable[[Attention, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.packed, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.q, self.k, self.v = (nn.Linear(8, 8, bias=bias) for bias in (True, False, True))
        self.matrix = nn.Parameter(torch.randn(8, 8))
        self.mask = nn.Parameter(torch.randn(5, 5))
        self.attend = attend

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed = self.attend(self, x).transpose(1, 2).reshape(1, 5, 8)
        found: torch.Tensor = self.out(mixed)
        return found

    def parts(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(heads(layer(x)) for layer in (self.q, self.k, self.v))


def heads(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(1, 5, 2, 4).transpose(1, 2)


def packed(net: Attention, x: torch.Tensor, **options: Any) -> torch.Tensor:
    q, k, v = (heads(part) for part in net.packed(x).chunk(3, 2))
    return scaled_dot_product_attention(q, k, v, **options)


def five_axes(net: Attention, x: torch.Tensor) -> torch.Tensor:
    q, k, v = net.packed(x).reshape(1, 5, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
    return scaled_dot_product_attention(q, k, v)


def three_layers(net: Attention, x: torch.Tensor) -> torch.Tensor:
    q, k, v = net.parts(x)
    return scaled_dot_product_attention(q, k, v)


def one_query(net: Attention, x: torch.Tensor) -> torch.Tensor:
    q, k, v = net.parts(x)
    return scaled_dot_product_attention(q[:, :, :1], k, v).expand(1, 2, 5, 4)


def keys_are_values(net: Attention, x: torch.Tensor) -> torch.Tensor:
    q, k, _ = net.parts(x)
    return scaled_dot_product_attention(q, k, k)


def queries_are_keys(net: Attention, x: torch.Tensor) -> torch.Tensor:
    q, _, v = net.parts(x)
    return scaled_dot_product_attention(q, q, v)


def computed_keys(net: Attention, x: torch.Tensor) -> torch.Tensor:
    q, k, v = net.parts(x)
    return scaled_dot_product_attention(q, k.sigmoid(), v)


def read_elsewhere(net: Attention, x: torch.Tensor) -> torch.Tensor:
    q, k, v = net.parts(x)
    return scaled_dot_product_attention(q, k, v) + q


def product(net: Attention, x: torch.Tensor) -> torch.Tensor:
    q, k, v = net.parts(x)
    return scaled_dot_product_attention(heads(x @ net.matrix), k, v) + q


CASES: dict[str, tuple[int, Callable[[Attention, torch.Tensor], torch.Tensor]]] = {
    "packed": (2, packed),
    "five axes": (2, five_axes),
    "a mask": (2, lambda net, x: packed(net, x, attn_mask=net.mask)),
    "a mask of booleans": (2, lambda net, x: packed(net, x, attn_mask=net.mask > -0.5)),
    "a scale": (2, lambda net, x: packed(net, x, scale=0.3)),
    "three layers": (2, three_layers),
    "one query": (2, one_query),
    "a product": (2, product),
    "keys are values": (1, keys_are_values),
    "computed keys": (1, computed_keys),
    "read elsewhere": (1, read_elsewhere),
    "queries are keys": (0, queries_are_keys),
}


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_the_same_layers_take_the_scale_as_in_the_onnx_graph(name: str) -> None:
    count, attend = CASES[name]
    module = perturbed(lambda: Attention(attend))
    onnx = export_torch(module, torch.zeros(1, 5, 8), ["y"], opset=18)
    traced, x = trace(module, 1, 5, 8), image(1, 1, 5, 8)
    assert fold_attention_scale(traced) == len(fold_onnx(onnx).done) == count
    assert_same(finish(traced)(x), module(x))
    (left,) = scales(traced)
    assert (left == 1) == (count == 2)


@pytest.mark.parametrize("scale", [0.0, -0.5])
@torch.no_grad()
def test_a_scale_that_has_no_root_is_left(scale: float) -> None:
    module = perturbed(lambda: Attention(lambda net, x: packed(net, x, scale=scale)))
    traced, x = trace(module, 1, 5, 8), image(1, 1, 5, 8)
    assert fold_attention_scale(traced) == 0 and scales(traced) == [scale]
    assert_same(finish(traced)(x), module(x))


@pytest.mark.parametrize("make", [zoo, torchvision])
def test_every_linear_layer_of_a_vit_is_matched_with_the_onnx_graph(make: Callable[[], nn.Module]) -> None:
    module = perturbed(make)
    onnx = export_torch(module, torch.zeros(IMAGE), ["y"], opset=18)
    assert len(fold_onnx(onnx).done) == 4
    fold_layernorm_affine(onnx)
    layers = [layer for node in onnx.graph if (layer := linear_of(node)) is not None]
    content = converted(make)
    graph = read_graph(content, "net")
    reference = ActivationObserver(onnx, [str(layer.output.name) for layer in layers])
    observer = TfliteObserver(content, observed_tensors(graph))
    probes = [nets.normal(seed, *IMAGE) for seed in range(2)]
    matched = match_by_value(
        [reference.observe({"image": probe}) for probe in probes],
        [observer.observe(tflite_nets.channel_last(probe)) for probe in probes],
    )
    operators = [operator for operator in graph.operators if operator.kind == "FULLY_CONNECTED"]
    assert len(operators) == 9 and {graph.tensors[each.outputs[0]].name for each in operators} <= matched.keys()
    # In front of the product of queries and keys nothing is left to scale: what is, are the five normalisations.
    assert sum(operator.kind == "MUL" for operator in graph.operators) == 10
