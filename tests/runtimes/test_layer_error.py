"""One layer by itself: its error is that of the quantized arithmetic written out in numpy and torch."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.calibrators import Grid
from edgeq.quantizers.round_nearest import round_nearest
from edgeq.runtimes import layer_error
from edgeq.runtimes.layer_error import LayerError
from edgeq.schemes import INT8_WEIGHT, PerAxis
from tests.exporting.nets import graph, normal

GRIDS = [Grid.asymmetric(-1.5, 2.0), Grid.symmetric(1.0), Grid.asymmetric(-3.0, 3.0, 4), Grid.symmetric(2.5, 6)]


def only_node(model: ir.Model) -> ir.Node:
    (node,) = model.graph
    return node


def weight_on_grid(weight: np.ndarray, axis: int, bits: int) -> np.ndarray:
    return round_nearest(weight, INT8_WEIGHT.with_bits(bits).along(PerAxis(axis)), {}).dequantize()


def torch_layer(kind: str, value: np.ndarray, weight: np.ndarray) -> np.ndarray:
    torch = pytest.importorskip("torch")
    x, w = torch.from_numpy(value.astype(np.float64)), torch.from_numpy(weight.astype(np.float64))
    functional = torch.nn.functional
    found = {
        "conv": lambda: functional.conv2d(x, w, stride=2, padding=1),
        "depthwise": lambda: functional.conv2d(x, w, padding=1, groups=6),
        "deconv": lambda: functional.conv_transpose2d(x, w, stride=2, padding=1),
        "gemm": lambda: x @ w.T,
        "matmul": lambda: x @ w,
    }[kind]()
    return np.asarray(found)


LAYERS = {
    "conv": ("float[2,6,9,9] x", "Conv<strides=[2,2], pads=[1,1,1,1]>(x, w, b)", (8, 6, 3, 3), 0),
    "depthwise": ("float[1,6,9,9] x", "Conv<pads=[1,1,1,1], group=6>(x, w)", (6, 1, 3, 3), 0),
    "deconv": ("float[1,6,5,5] x", "ConvTranspose<strides=[2,2], pads=[1,1,1,1]>(x, w, b)", (6, 8, 4, 4), 1),
    "gemm": ("float[3,10] x", "Gemm<transB=1>(x, w, b)", (8, 10), 0),
    "matmul": ("float[2,5,10] x", "MatMul(x, w)", (10, 7), 1),
}


@pytest.mark.parametrize("bits", [8, 6])
@pytest.mark.parametrize("kind", LAYERS)
def test_the_error_of_a_layer_is_that_of_quantized_arithmetic(kind, bits, monkeypatch):
    inputs, call, shape, axis = LAYERS[kind]
    weight = normal(0, *shape)
    names = {"w": weight, "b": normal(1, 8)} if "b)" in call else {"w": weight}
    model = graph(f"g ({inputs}) => (float[N] y) {{ y = {call} }}", names)
    dims = tuple(int(dim) for dim in inputs.split("[")[1].split("]")[0].split(","))
    value = normal(2, *dims)
    monkeypatch.setattr(layer_error, "_STACK_BYTES", 3 * 4 * value.size)  # in several goes
    found, energy = LayerError(only_node(model), 0, 18, bits).measure(value, None, GRIDS)
    reference = torch_layer(kind, value, weight)
    quantized = weight_on_grid(weight, axis, bits)
    expected = [np.sum((torch_layer(kind, grid.quantize(value), quantized) - reference) ** 2) for grid in GRIDS]
    assert found == pytest.approx(expected, rel=1e-4)
    assert energy == pytest.approx(np.sum(reference**2), rel=1e-5)
    assert found.argmin() == np.argmin(expected)


@pytest.mark.parametrize("side", [0, 1])
def test_one_side_of_a_product_at_a_time(side):
    model = graph("g (float[1,2,5,8] q, float[1,2,8,6] k) => (float[1,2,5,6] y) { y = MatMul(q, k) }")
    sides = [normal(0, 1, 2, 5, 8), normal(1, 1, 2, 8, 6)]
    found, energy = LayerError(only_node(model), side, 18).measure(sides[side], sides[1 - side], GRIDS)
    reference = sides[0].astype(np.float64) @ sides[1]
    expected = []
    for grid in GRIDS:
        operands = list(sides)
        operands[side] = grid.quantize(sides[side])
        expected.append(np.sum((operands[0] @ operands[1] - reference) ** 2))
    assert found == pytest.approx(expected, rel=1e-4)
    assert energy == pytest.approx(np.sum(reference**2), rel=1e-5)


def test_what_lies_on_the_grid_costs_nothing_but_the_weight():
    weight = np.array([[127, -64], [0, 127]], np.float32) / 127
    model = graph("g (float[4,2] x) => (float[4,2] y) { y = MatMul(x, w) }", {"w": weight})
    grid = Grid.asymmetric(-127.5, 127.5)
    value = np.array([[1, -2], [3, 100], [-100, 7], [0, 0]], np.float32)
    found, _ = LayerError(only_node(model), 0, 18).measure(value, None, [grid])
    assert found[0] < 1e-6
