from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.calibration import mean_errors as module
from edgeq.calibration.mean_errors import RememberedErrors, mean_errors
from edgeq.exporting.onnx.qdq import insert_qdq
from edgeq.exporting.planning.bias_correction import correct_biases
from edgeq.exporting.planning.plan import QuantPlan, make_plan
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
    "transposed": ("float[20,6,7,9]", "ConvTranspose<strides=[2,2]>(x, w, b)", (6, 8, 2, 2)),
    "linear": ("float[400,6]", "Gemm<transB=1>(x, w, b)", (8, 6)),
    "linear, not transposed": ("float[400,6]", "Gemm(x, w, b)", (6, 8)),
}


def planned(layer: str) -> tuple[ir.Model, QuantPlan, np.ndarray]:
    shape, call, weight_shape = LAYERS[layer]
    weights = {"w": nets.normal(1, *weight_shape), "b": nets.normal(2, 8)}
    weights |= {"head": nets.normal(3, 8, 2) if "Gemm" in call else nets.normal(3, 2, 8, 1, 1)}
    last = "MatMul" if "Gemm" in call else "Conv"
    text = f"g ({shape} x) => (float[N] y) {{ c = {call} r = Relu(c) y = {last}(r, head) }}"
    model = nets.graph(text, weights)
    x = nets.normal(4, *[int(each) for each in shape.removeprefix("float[").removesuffix("]").split(",")])
    x += np.float32(0.5)
    selection = select_layers(model, QDQ)
    return model, make_plan(model, selection, ranges_for(model, x, selection.tensors), QDQ), x


def output_of_layer(graph: ir.Model, x: np.ndarray) -> np.ndarray:
    layer = next(node for node in graph.graph if node.op_type in ("Conv", "ConvTranspose", "Gemm"))
    graph.graph.outputs[:] = [layer.outputs[0]]
    (found,) = nets.run(graph, x)
    return np.asarray(found, np.float64)


@pytest.mark.parametrize("layer", LAYERS)
def test_what_a_layer_gives_is_right_on_average(layer: str) -> None:
    model, plan, x = planned(layer)
    name = next(iter(plan.biases))
    errors = mean_errors(model, plan, [{"x": x}], 1)
    assert errors[name].shape == (8,)
    corrected, count = correct_biases(plan, errors)
    assert count == len(errors)
    expected = output_of_layer(nets.copy(model), x)

    def mean_error(one: QuantPlan) -> np.ndarray:
        graph = nets.copy(model)
        insert_qdq(graph, one, QDQ)
        others = tuple(axis for axis in range(expected.ndim) if axis != 1)
        mean: np.ndarray = (output_of_layer(graph, x) - expected).mean(axis=others)
        return mean

    plain, better = mean_error(plan), mean_error(corrected)
    np.testing.assert_allclose(plain - better, errors[name], atol=1e-3 + 0.03 * np.abs(plain).max())
    assert np.abs(better).max() < 0.2 * np.abs(plain).max()


def test_inputs_count_together_and_layers_by_themselves_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nets.graph(
        f"g (float[1,6,8,8] x) => (float[1,2,8,8] y) {{ c = {CONV} r = Relu(c) d = Conv(r, v, b) s = Sigmoid(d) "
        "m = Mul(d, s) y = Conv(m, head) }",
        {
            "w": nets.normal(1, 8, 6, 3, 3), "v": nets.normal(5, 8, 8, 1, 1), "b": nets.normal(2, 8),
            "head": nets.normal(3, 2, 8, 1, 1),
        },
    )  # fmt: skip
    inputs = [nets.normal(seed, 1, 6, 8, 8) for seed in (4, 5)]
    rules = dataclasses.replace(QDQ, output_pairs="none")
    selection = select_layers(model, rules)
    plan = make_plan(model, selection, ranges_for(model, inputs[0], selection.tensors), rules)
    feeds = [{"x": x} for x in inputs]
    whole = mean_errors(model, plan, feeds, 1)
    assert len(whole) == 2
    assert all(np.isfinite(found).all() and found.any() for found in whole.values())
    monkeypatch.setattr(module, "_BYTES", 1)
    for name, found in mean_errors(model, plan, feeds, 1).items():
        np.testing.assert_allclose(found, whole[name], rtol=1e-5, atol=1e-7)
    one, two = (mean_errors(model, plan, [feed], 1) for feed in feeds)
    for name, found in whole.items():
        np.testing.assert_allclose(found, (one[name] + two[name]) / 2, rtol=1e-4, atol=1e-6)


def test_without_inputs_or_integer_biases_nothing_is_measured() -> None:
    model, plan, x = planned("dense")
    assert mean_errors(model, plan, []) == {}
    assert mean_errors(model, dataclasses.replace(plan, biases={}), [{"x": x}]) == {}
    same, corrected = correct_biases(plan, {"another layer": np.ones(8)})
    assert corrected == 0 and same == plan


def test_only_layers_with_another_weight_or_grid_are_run_again() -> None:
    model, plan, x = planned("dense")
    (name,) = plan.biases
    (source,) = (str(node.inputs[0].name) for node in model.graph if node.name == name and node.inputs[0] is not None)
    measured = []

    def measure(graph: ir.Model, one: QuantPlan) -> Mapping[str, np.ndarray]:
        measured.append(list(one.biases))
        return mean_errors(graph, one, [{"x": x}], 1)

    remembered = RememberedErrors(measure)
    grid = plan.tensors[source]
    finer = dataclasses.replace(plan, tensors={**plan.tensors, source: dataclasses.replace(grid, scale=grid.scale / 2)})
    weight = plan.weights[name]
    other = dataclasses.replace(
        plan, weights={**plan.weights, name: dataclasses.replace(weight, integers=weight.integers // 2)}
    )
    for each in (plan, finer, other, plan, dataclasses.replace(plan, biases={}), finer):
        np.testing.assert_equal(remembered(model, each), mean_errors(model, each, [{"x": x}], 1))
    assert measured == [[name]] * 3
