"""Rewrites of traced graphs compute what the module computes, and the converter takes their results."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn

from edgeq.exporting.tflite.torch_passes import capture, fold_batchnorm, pad_pools_with_zeros, simplify_conv_transposes
from tests import tflite_nets
from tests.exporting import nets

Conv = Callable[[], nn.Module]


def trace(module: nn.Module, *shape: int) -> fx.GraphModule:
    traced = torch.export.export(module.eval(), (torch.zeros(shape),)).module()
    assert isinstance(traced, fx.GraphModule)
    return traced


def finish(graph_module: fx.GraphModule) -> fx.GraphModule:
    graph_module.graph.eliminate_dead_code()
    graph_module.graph.lint()
    graph_module.recompile()
    return graph_module


def operators(graph_module: fx.GraphModule) -> list[str]:
    return [str(node.target).split(".")[1] for node in graph_module.graph.nodes if node.op == "call_function"]


def image(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(nets.normal(seed, *shape))


def random_batchnorm(channels: int, affine: bool = True) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, affine=affine)
    for tensor in norm.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape) * 3 + 0.1)
    return norm


def assert_same(found: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) <= tolerance * max(1.0, float(wanted.abs().max()))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    "conv",
    [
        lambda: nn.Conv2d(4, 6, 3, padding=1),
        lambda: nn.Conv2d(4, 6, 3, bias=False, stride=2),
        lambda: nn.Conv2d(4, 6, 3, groups=2, padding="same"),
        lambda: nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1),
        lambda: nn.ConvTranspose2d(4, 6, 4, stride=2, bias=False),
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2),
        lambda: nn.ConvTranspose2d(6, 6, 3, groups=6, bias=False),
    ],
)
@torch.no_grad()
def test_a_folded_batchnorm_computes_the_same(conv: Conv, affine: bool) -> None:
    torch.manual_seed(0)
    layer = conv()
    net = nn.Sequential(layer, random_batchnorm(6, affine), nn.ReLU())
    x = image(1, 2, int(layer.in_channels), 7, 9)  # type: ignore[arg-type]
    traced = trace(net, *x.shape)
    assert fold_batchnorm(traced) == 1
    assert "batch_norm" not in operators(finish(traced))
    assert_same(traced(x), net(x))


class ReadTwice(nn.Module):
    """A convolution whose output something else reads too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), random_batchnorm(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        found: torch.Tensor = self.norm(y) + y
        return found


class SharedLayer(nn.Module):
    """One convolution used twice, with another BatchNorm each time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.other = nn.Conv2d(3, 3, 1), random_batchnorm(3), random_batchnorm(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.one(self.conv(x)) - self.other(self.conv(2 * x))
        return found


@pytest.mark.parametrize(
    ("make", "folded"),
    [
        (ReadTwice, 0),
        (SharedLayer, 2),
        (lambda: nn.Sequential(random_batchnorm(3), nn.Conv2d(3, 3, 1)), 0),
        (lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), random_batchnorm(3)), 0),
    ],
)
@torch.no_grad()
def test_only_a_batchnorm_that_alone_reads_a_convolution_is_folded(make: Conv, folded: int) -> None:
    torch.manual_seed(0)
    net, x = make(), image(1, 1, 3, 5, 5)
    traced = trace(net, *x.shape)
    assert fold_batchnorm(traced) == folded
    assert_same(finish(traced)(x), net.eval()(x))


class Clamp(nn.Module):
    """torch.clamp with a lower end."""

    def __init__(self, low: float) -> None:
        super().__init__()
        self.low = low

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.clamp(x, min=self.low, max=4.0)


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(3, 2, 1),
        nn.MaxPool2d((3, 5), (1, 2), (1, 2)),
        nn.MaxPool2d(2, 2, 1, ceil_mode=True),
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        nn.MaxPool2d(2, 3, ceil_mode=True),
        nn.MaxPool2d(3, 1, 1, dilation=2),
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(9, 9), (10, 11)])
@pytest.mark.parametrize(
    "before", [nn.ReLU(), nn.ReLU6(), Clamp(0.0), nn.Sigmoid(), nn.Sequential(nn.ReLU(), nn.AvgPool2d(2, 1))], ids=str
)
@torch.no_grad()
def test_a_pool_padded_with_zeros_computes_the_same(before: nn.Module, pool: nn.Module, size: tuple[int, int]) -> None:
    # All below zero but a few: a zero that comes from the padding would show as the largest where it must not.
    net, x = nn.Sequential(before, pool), image(2, 1, 3, *size) - 2
    traced = trace(net, *x.shape)
    assert pad_pools_with_zeros(traced) == 1
    assert "constant_pad_nd" in operators(finish(traced))
    torch.testing.assert_close(traced(x), net(x), rtol=0, atol=0)


@pytest.mark.parametrize("before", [nn.SiLU(), nn.Identity(), nn.LeakyReLU(), Clamp(-1.0), nn.GELU()], ids=str)
@torch.no_grad()
def test_a_pool_of_values_below_zero_keeps_its_padding(before: nn.Module) -> None:
    net, x = nn.Sequential(before, nn.MaxPool2d(3, 2, 1)), image(2, 1, 3, 9, 9) - 5
    traced = trace(net, *x.shape)
    assert pad_pools_with_zeros(traced) == 0
    torch.testing.assert_close(finish(traced)(x), net(x), rtol=0, atol=0)


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)), stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)), more=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)), groups=st.sampled_from([1, 2]), bias=st.booleans(),
    seed=st.integers(0, 99),
)  # fmt: skip
@torch.no_grad()
def test_conv_transposes_keep_their_numbers_without_dilation_and_output_padding(
    kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int], more: tuple[int, int],
    padding: tuple[int, int], groups: int, bias: bool, seed: int,
) -> None:  # fmt: skip
    # torch allows output padding below the stride or the dilation.
    padding = tuple(min(p, d * (k - 1)) for p, d, k in zip(padding, dilation, kernel, strict=True))  # type: ignore[assignment]
    more = tuple(min(m, max(s, d) - 1) for m, s, d in zip(more, stride, dilation, strict=True))  # type: ignore[assignment]
    torch.manual_seed(seed)
    layer = nn.ConvTranspose2d(4, 2 * groups, kernel, stride, padding, more, groups, bias, dilation)
    x = image(seed, 1, 4, 5, 6)
    traced = trace(layer, *x.shape)
    simplify_conv_transposes(traced)
    for node in finish(traced).graph.nodes:
        if "conv_transpose" in str(node.target):
            assert [list(argument) for argument in node.args[5::2]] in ([], [[0, 0]], [[0, 0], [1, 1]])
    assert_same(traced(x), layer(x), 1e-6)


def test_what_the_converter_takes_as_it_is_stays_as_it_is() -> None:
    """A detector's upsampling: in 4x4 kernels of stride 2 and 2x2 ones."""
    up = (nn.ConvTranspose2d(3, 3, 4, 2, 1), nn.ConvTranspose2d(3, 3, 2, 2), nn.ConvTranspose2d(3, 3, 3, 1, 1))
    assert simplify_conv_transposes(trace(nn.Sequential(*up), 1, 3, 5, 5)) == 0


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1),
        lambda: nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, dilation=2),
        lambda: nn.ConvTranspose2d(3, 4, 3, stride=2, padding=(1, 0)),
    ],
)
@torch.no_grad()
def test_what_the_converter_refuses_is_converted_after_the_rewrite(layer: Conv) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(layer(), random_batchnorm(4), nn.ReLU())
    content = tflite_nets.convert(net, (1, 3, 6, 7))
    x = nets.normal(1, 1, 3, 6, 7)
    (found,) = tflite_nets.run(content, tflite_nets.channel_last(x))
    assert_same(torch.from_numpy(tflite_nets.channel_first(found)), net(torch.from_numpy(x)))


@torch.no_grad()
def test_capture_applies_them_all() -> None:
    torch.manual_seed(0)
    up = nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1, output_padding=1)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), random_batchnorm(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1), up)
    x = image(1, 1, 3, 12, 12)
    captured = capture(net, torch.zeros(x.shape))
    found = operators(captured)
    assert "batch_norm" not in found and "constant_pad_nd" in found
    assert np.isfinite(captured(x).numpy()).all()
    assert_same(captured(x), net.eval()(x))
