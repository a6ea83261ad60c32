from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.exporting.onnx.qdq import insert_qdq
from edgeq.exporting.planning.bias_correction import correct_biases
from edgeq.exporting.planning.plan import make_plan
from edgeq.exporting.planning.selection import select_layers
from edgeq.targets.x86 import QDQ
from tests.exporting import nets
from tests.exporting.test_qdq import ranges_for

CONV = "Conv<pads=[1,1,1,1]>(x, w, b)"
LAYERS = {
    "dense": ("float[1,6,24,24]", CONV, (8, 6, 3, 3)),
    "grouped": ("float[1,6,24,24]", CONV.replace("<", "<group=2, "), (8, 3, 3, 3)),
    "dense, on a map that is mostly edges": ("float[60,6,4,5]", CONV, (8, 6, 3, 3)),
    "strided and dilated": (
        "float[60,6,7,9]",
        CONV.replace("[1,1,1,1]", "[2,0,1,3], strides=[2,1], dilations=[1,2]"),
        (8, 6, 3, 3),
    ),
    "linear": ("float[400,6]", "Gemm<transB=1>(x, w, b)", (8, 6)),
    "linear, not transposed": ("float[400,6]", "Gemm(x, w, b)", (6, 8)),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_the_mean_output_is_that_of_the_float_weights(layer: str) -> None:
    shape, call, weight_shape = LAYERS[layer]
    behind = "y = Conv(r, head)" if "Conv" in call else "y = MatMul(r, head)"
    weights = {"w": nets.normal(1, *weight_shape), "b": nets.normal(2, 8)}
    weights |= {"head": nets.normal(3, 2, 8, 1, 1) if "Conv" in call else nets.normal(3, 8, 2)}
    model = nets.graph(f"g ({shape} x) => (float[N] y) {{ c = {call} r = Relu(c) {behind} }}", weights)
    size = [int(each) for each in shape.removeprefix("float[").removesuffix("]").split(",")]
    x = nets.normal(4, *size) + np.float32(3)
    axis = 1 if "Conv" in call else -1
    means = {"x": x.mean(axis=tuple(each for each in range(x.ndim) if each != axis % x.ndim), dtype=np.float64)}

    def mean_outputs(correct: bool) -> np.ndarray:
        graph = nets.copy(model)
        selection = select_layers(graph, QDQ)
        plan = make_plan(graph, selection, ranges_for(graph, x, selection.tensors), QDQ)
        if correct:
            plan, corrected = correct_biases(graph, plan, means)
            assert corrected == 1
        insert_qdq(graph, plan, QDQ)
        return _mean_of_layer(graph, x, axis)

    expected = _mean_of_layer(nets.copy(model), x, axis)
    plain, better = (np.abs(mean_outputs(correct) - expected).max() for correct in (False, True))
    assert plain > 0.02, "rounded weights shift the means"
    assert better < 0.2 * plain


def _mean_of_layer(graph: ir.Model, x: np.ndarray, axis: int) -> np.ndarray:
    layer = next(node for node in graph.graph if node.op_type in ("Conv", "Gemm"))
    graph.graph.outputs[:] = [layer.outputs[0]]
    (found,) = nets.run(graph, x)
    means: np.ndarray = found.mean(axis=tuple(each for each in range(found.ndim) if each != axis % found.ndim))
    return means


def test_layers_whose_means_are_not_known_keep_their_biases() -> None:
    model = nets.graph(
        f"g (float[1,6,8,8] x) => (float[1,2,8,8] y) {{ c = {CONV} r = Relu(c) y = Conv(r, head) }}",
        {"w": nets.normal(1, 8, 6, 3, 3), "b": nets.normal(2, 8), "head": nets.normal(3, 2, 8, 1, 1)},
    )
    x = nets.normal(4, 1, 6, 8, 8)
    selection = select_layers(model, QDQ)
    plan = make_plan(model, selection, ranges_for(model, x, selection.tensors), QDQ)
    for means in ({}, {"r": np.ones(8)}, {"x": np.ones(5)}):
        same, corrected = correct_biases(model, plan, means)
        assert corrected == 0
        (name,) = plan.biases
        assert np.array_equal(same.biases[name].integers, plan.biases[name].integers)
