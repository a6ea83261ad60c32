"""Units of a graph, and that a window of one computes what the whole graph computes there."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch

from edgeq.calibration.reconstruction.torch_unit import TorchUnit
from edgeq.calibration.reconstruction.units import Unit, find_units
from edgeq.exporting.planning.plan import QuantPlan
from tests.exporting import nets

BLOCK = """g (float[1,3,13,10] x) => (float[1,5,7,5] y) {
    s = Conv<pads=[1,1,1,1]>(x, w0, b0) t = Relu(s)
    a = Conv<pads=[1,1,1,1], strides=[2,2]>(t, w1, b1) b = Relu(a) c = Conv<pads=[1,1,1,1]>(b, w2, b1)
    d = Conv<strides=[2,2]>(t, w3) e = Add(c, d) y = Relu(e) }"""
BLOCK_WEIGHTS = {
    "w0": (4, 3, 3, 3),
    "b0": (4,),
    "w1": (5, 4, 3, 3),
    "b1": (5,),
    "w2": (5, 5, 3, 3),
    "w3": (5, 4, 1, 1),
}
LAYERS = {
    "dilated, uneven": ("Conv<dilations=[2,1], strides=[1,2], pads=[2,0,1,3]>(x, w, b)", (6, 3, 3, 2)),
    "depthwise": ("Conv<group=3, pads=[1,1,1,1]>(x, w, b)", (3, 1, 3, 3)),
    "transposed": ("ConvTranspose<strides=[2,2], pads=[1,1,1,1]>(x, w, b)", (3, 6, 4, 4)),
    "transposed, uneven": (
        "ConvTranspose<strides=[3,2], pads=[0,1,1,0], output_padding=[1,0], group=3>(x, w, b)",
        (3, 2, 3, 3),
    ),
}


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    return {name: nets.normal(seed, *shape) / 3 for seed, (name, shape) in enumerate(shapes.items())}


def layers_of(model: ir.Model) -> list[str]:
    return [str(node.name) for node in model.graph if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")]


def assert_windows_are_parts_of_the_output(model: ir.Model, unit: Unit) -> None:
    observed = nets.copy(model)
    values = {value.name: value for node in observed.graph for value in node.outputs}
    inputs = {value.name: value for value in observed.graph.inputs}
    x = nets.normal(9, *(observed.graph.inputs[0].shape or ir.Shape([])).numpy())
    observed.graph.outputs[:] = [values[unit.output]]
    (expected,) = nets.run(observed, x)
    source = x
    if unit.source not in inputs:
        observed.graph.outputs[:] = [values[unit.source]]
        (source,) = nets.run(observed, x)
    module = TorchUnit(unit, QuantPlan((), {}), source.shape[2:], 4)
    whole = torch.from_numpy(source)
    padded = torch.nn.functional.pad(whole, (20, 20, 20, 20))
    for top in range(0, expected.shape[2] - module.size[0] + 1, module.steps[0]):
        for left in range(0, expected.shape[3] - module.size[1] + 1, module.steps[1]):
            (y, x_), (height, width) = (
                (window.start(origin) + 20 for window, origin in zip(module.source_windows, (top, left), strict=True)),
                (window.size for window in module.source_windows),
            )
            window = padded[:, :, y : y + height, x_ : x_ + width]
            found = module(window, window, torch.tensor([[top, left]]), {})
            wanted = expected[:, :, top : top + module.size[0], left : left + module.size[1]]
            np.testing.assert_allclose(found.numpy(), wanted, atol=2e-5)


def test_a_residual_block_is_one_unit_and_its_windows_are_exact_up_to_the_border() -> None:
    model = nets.graph(BLOCK, weights(BLOCK_WEIGHTS))
    stem, *block = layers_of(model)
    units = find_units(model, layers_of(model))
    assert [(unit.layers, unit.source, unit.output) for unit in units] == [
        ((stem,), "x", "t"),
        (tuple(block), "t", "y"),
    ]
    assert_windows_are_parts_of_the_output(model, units[1])
    alone = find_units(model, layers_of(model), blocks=False)
    assert [unit.layers for unit in alone] == [(name,) for name in (stem, *block)]


@pytest.mark.parametrize("layer", LAYERS)
def test_windows_of_a_layer_are_exact_up_to_the_border(layer: str) -> None:
    call, shape = LAYERS[layer]
    channels = 6 if "transposed" in layer or "dilated" in layer else 3
    text = f"g (float[1,3,9,8] x) => (float[N] y) {{ c = {call} y = LeakyRelu(c) }}"
    model = nets.graph(text, weights({"w": shape, "b": (channels,)}))
    (unit,) = find_units(model, layers_of(model))
    assert_windows_are_parts_of_the_output(model, unit)


@pytest.mark.parametrize(
    "text",
    [
        # What it adds comes from two tensors, is read outside, or is moved on the way.
        "a = Conv(x, w) b = Conv(z, w) y = Add(a, b)",
        "a = Conv(x, w) b = Conv(a, v) e = Add(b, x2) q = Sigmoid(a) y = Mul(e, q)",
        "a = Conv(x, w) b = MaxPool<kernel_shape=[1,1]>(a) y = Add(b, x)",
    ],
)
def test_what_is_no_block_is_learned_layer_by_layer(text: str) -> None:
    text = text.replace("x2", "x")
    head = "g (float[1,3,4,4] x, float[1,3,4,4] z) => (float[1,3,4,4] y) {"
    model = nets.graph(f"{head} {text} }}", weights({"w": (3, 3, 1, 1), "v": (3, 3, 1, 1)}))
    units = find_units(model, layers_of(model))
    assert [unit.layers for unit in units] == [(name,) for name in layers_of(model)]
