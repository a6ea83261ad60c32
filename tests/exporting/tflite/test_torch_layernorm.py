"""LayerNorm's scale and shift in the linear layers behind it, in the traced torch graph as in the ONNX graph."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

pytest.importorskip("torchvision")

from torchvision.models import VisionTransformer as TorchvisionTransformer

from edgeq.exporting.passes.layernorm import fold_layernorm_affine as fold_onnx
from edgeq.exporting.tflite.graph import read_graph
from edgeq.exporting.tflite.match import match_by_value
from edgeq.exporting.tflite.plan import observed_tensors
from edgeq.exporting.tflite.torch_linear import fold_layernorm_affine
from edgeq.exporting.tflite.torch_passes import capture
from edgeq.models.vit import VisionTransformer
from edgeq.models.vit_configs import VitConfig
from edgeq.runtimes.litert_observer import TfliteObserver
from edgeq.runtimes.observer import ActivationObserver
from edgeq.sources.torch_export import export_torch
from tests import tflite_nets
from tests.exporting import encoders, nets
from tests.exporting.tflite.test_torch_passes import assert_same, finish, image, operators, trace
from tests.kept_exports import made_once

IMAGE = (1, 3, 8, 8)


def zoo() -> nn.Module:
    return VisionTransformer(VitConfig(16, 2, 2, 32, 4, image_px=8, outputs=3))


def torchvision() -> nn.Module:
    encoder: nn.Module = TorchvisionTransformer(8, 4, 2, 2, 16, 32, num_classes=3)
    return encoder


def perturbed(make: Callable[[], nn.Module]) -> nn.Module:
    """Returns a module in eval mode whose LayerNorms do something."""
    torch.manual_seed(3)
    module = make().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module


def converted(make: Callable[[], nn.Module]) -> bytes:
    """Returns the TFLite file of `perturbed(make)`."""
    return made_once(f"perturbed_{make.__name__}.tflite", lambda: tflite_nets.convert(perturbed(make), IMAGE))


@pytest.mark.parametrize("name", ["zoo", "torchvision", *encoders.ENCODERS])
@torch.no_grad()
def test_the_same_norms_are_folded_as_in_the_onnx_graph(name: str) -> None:
    own = {"zoo": zoo, "torchvision": torchvision}
    module, shape = (perturbed(own[name]), IMAGE) if name in own else (encoders.module(name), encoders.IMAGE)
    onnx = export_torch(module, torch.zeros(shape), ["y"], opset=18)
    traced = trace(module, *shape)
    assert fold_layernorm_affine(traced) == len(fold_onnx(onnx).done) > 1
    x = image(1, *shape)
    assert_same(finish(traced)(x), module(x))
    assert fold_layernorm_affine(traced) == 0


@pytest.mark.parametrize("make", [zoo, torchvision])
def test_what_reads_a_norm_in_the_tflite_file_is_matched_with_the_onnx_graph(make: Callable[[], nn.Module]) -> None:
    module = perturbed(make)
    onnx = export_torch(module, torch.zeros(IMAGE), ["y"], opset=18)
    fold_onnx(onnx)
    content = converted(make)
    names = [str(node.outputs[0].name) for node in onnx.graph if node.op_type in ("LayerNormalization", "Gelu", "Add")]
    reference = ActivationObserver(onnx, names)
    observer = TfliteObserver(content, observed_tensors(read_graph(content, "net")))
    probes = [nets.normal(seed, *IMAGE) for seed in range(2)]
    matched = match_by_value(
        [reference.observe({"image": probe}) for probe in probes],
        [observer.observe(tflite_nets.channel_last(probe)) for probe in probes],
    )
    norms = {str(node.outputs[0].name) for node in onnx.graph if node.op_type == "LayerNormalization"}
    assert len(norms) == 5 and norms <= set(matched.values())
    (found,) = tflite_nets.run(content, tflite_nets.channel_last(probes[0]))
    with torch.no_grad():
        assert_same(torch.from_numpy(found), module(torch.from_numpy(probes[0])), 1e-4)


class Normed(nn.Module):
    """A LayerNorm and what reads it."""

    def __init__(self, read: Callable[[Normed, torch.Tensor], torch.Tensor], bias: bool = True) -> None:
        super().__init__()
        self.norm, self.layer, self.other = nn.LayerNorm(6), nn.Linear(6, 6, bias=bias), nn.Linear(6, 6)
        self.matrix = nn.Parameter(torch.randn(6, 4))
        self.read = read

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.read(self, self.norm(x))


Read = Callable[[Normed, torch.Tensor], torch.Tensor]

FOLDED: dict[str, Read] = {
    "a layer": lambda net, n: net.layer(n),
    "two layers": lambda net, n: net.layer(n) * net.other(n).sigmoid(),
    "one weight twice": lambda net, n: net.layer(n) + net.layer(n[:, 1:2]),
    "a weight that others read": lambda net, n: net.layer(net.layer(n)),
    "a product": lambda net, n: n @ net.matrix,
    "a product of one token": lambda net, n: n[:, 0] @ net.matrix,
    "parts": lambda net, n: torch.cat([net.layer(part) for part in n.split([1, 4], 1)], 1),
    "moved tokens": lambda net, n: net.layer(n.transpose(0, 1).reshape(5, 1, 1, 6).unsqueeze(0)).flatten(1),
}
LEFT: dict[str, Read] = {
    "the output": lambda net, n: n,
    "a function": lambda net, n: net.layer(n.relu()),
    "one of two readers": lambda net, n: net.layer(n) + n,
    "some channels": lambda net, n: n[..., 1:5] @ net.matrix.T[:, 1:5],
    "moved channels": lambda net, n: net.layer(n.reshape(1, 6, 5).transpose(1, 2)),
    "reversed channels": lambda net, n: net.layer(n.flip(-1)),
    "a computed weight": lambda net, n: nn.functional.linear(n, net.layer(n[0, :1].expand(6, 6))),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", [*FOLDED, *LEFT])
@torch.no_grad()
def test_only_linear_layers_on_whole_channels_take_scale_and_shift(name: str, bias: bool) -> None:
    module = perturbed(lambda: Normed((FOLDED | LEFT)[name], bias))
    traced, x = trace(module, 1, 5, 6), image(1, 1, 5, 6)
    assert fold_layernorm_affine(traced) == (name in FOLDED)
    assert_same(finish(traced)(x), module(x))
    affine = any("norm" in str(node.target) for node in traced.graph.nodes if node.op == "get_attr")
    assert affine == (name in LEFT)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("make", [torchvision, lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)])
def test_torch_s_fast_path_is_not_traced(make: Callable[[], nn.Module], grad: bool) -> None:
    module = perturbed(make)
    with torch.set_grad_enabled(grad):
        captured = capture(module, torch.zeros(IMAGE if make is torchvision else (1, 5, 8)))
    found = operators(captured)
    assert "scaled_dot_product_attention" in found and not [name for name in found if name.startswith("_")]
