"""Tensors and nodes of a graph keep their names, even those that edgeq would give to its own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeq.exporting.graphs.names import keeps_names
from edgeq.exporting.onnx.dynamic import insert_dynamic
from edgeq.exporting.onnx.qdq import insert_qdq
from edgeq.exporting.onnx.writer import halve_weights
from edgeq.exporting.passes.cleaning import clean
from edgeq.exporting.passes.order import for_engine, for_integers, run_passes
from edgeq.exporting.planning.plan import make_dynamic_plan, make_plan
from edgeq.exporting.planning.selection import observed_tensors, select_layers
from edgeq.exporting.tensorrt.strong_typing import to_fp16
from edgeq.targets import get_target
from tests.exporting import nets
from tests.exporting.test_qdq import ranges_for

NET = """g (float[1,3,16,16] image) => (float[1,4,16,16] y, float[1,16,6] z) {
    [c0] a = Conv<pads=[1,1,1,1]>(image, w0)
    [r0] b = Relu(a)
    [c1] c = Conv<pads=[1,1,1,1]>(b, w1, b1)
    [r1] d = Relu(c)
    [up] u = ConvTranspose<strides=[2,2], pads=[1,1,1,1]>(d, wt)
    [pool] v = MaxPool<kernel_shape=[2,2], strides=[2,2]>(u)
    [c2] e = Conv<pads=[1,1,1,1]>(v, w2)
    [r2] f = Relu(e)
    [head] y = Conv(f, w3)
    [flat] s = Reshape(d, shape)
    [m0] t = MatMul(s, m0)
    [r3] q = Relu(t)
    [m1] o = MatMul(q, m1)
    [a1] z = Add(o, mb)
}"""
WEIGHTS = {
    "w0": nets.normal(0, 8, 3, 3, 3),
    "w1": nets.normal(1, 8, 8, 3, 3),
    "b1": nets.normal(2, 8),
    "wt": nets.normal(3, 8, 8, 4, 4),
    "w2": nets.normal(4, 8, 8, 3, 3),
    "w3": nets.normal(5, 4, 8, 1, 1),
    "shape": np.array([1, 16, 128], np.int64),
    "m0": nets.normal(6, 128, 12),
    "m1": nets.normal(7, 12, 6),
    "mb": nets.normal(8, 6),
}
IMAGE = nets.normal(9, 1, 3, 16, 16)

Change = Callable[[ir.Model], object]


def _int8(target: str) -> Change:
    rules = get_target(target).rules

    def change(model: ir.Model) -> None:
        ranges = ranges_for(model, IMAGE, tuple(observed_tensors(model, [select_layers(model, rules)])))
        run_passes(model, (*for_engine(rules), *for_integers(rules)))
        insert_qdq(model, make_plan(model, select_layers(model, rules), ranges, rules), rules)
        if rules.fp16 == "graph":
            to_fp16(model)

    return change


def _dynamic(model: ir.Model) -> None:
    rules = get_target("x86").rules
    insert_dynamic(model, make_dynamic_plan(model, select_layers(model, rules), rules))


CHANGES: dict[str, Change] = {
    "fp16 in the graph": to_fp16,
    "fp16 weights": halve_weights,
    "dynamic": _dynamic,
    **{name: _int8(name) for name in ("x86", "x86-ort", "jetson-orin", "jetson-orin-trt11")},
}


def _tensors(model: ir.Model) -> dict[str, ir.Value]:
    made = (value for node in model.graph for value in node.outputs)
    every = (*model.graph.inputs, *model.graph.initializers.values(), *made)
    return {str(value.name): value for value in every}


def _renamed(model: ir.Model, names: list[str]) -> ir.Model:
    """Returns a copy whose inner tensors, weights and nodes have these names, as far as they suffice."""
    result = nets.copy(model)
    ends = {str(value.name) for value in (*result.graph.inputs, *result.graph.outputs)}
    inner = [value for name, value in _tensors(result).items() if name not in ends]
    for value, name in zip(inner, names, strict=False):
        value.name = name
    for node, name in zip(result.graph, reversed(names), strict=False):
        node.name = name
    return result


@pytest.mark.parametrize("name", CHANGES)
def test_names_that_are_ours_may_be_the_graphs(name):
    plain = nets.in_opset(nets.graph(NET, WEIGHTS), 19)
    expected = nets.copy(plain)
    CHANGES[name](expected)
    ours = sorted(_tensors(expected).keys() - _tensors(plain).keys() - {"image", "y", "z"})
    assert len(ours) > 2
    for names in (ours, ours[::-1], ours[len(ours) // 2 :] + ours[: len(ours) // 2]):
        model = _renamed(plain, names)
        before = {id(value): (value, value.name) for value in _tensors(model).values()}
        CHANGES[name](model)
        found = [*model.graph.inputs, *model.graph.initializers.values()]
        found += [value for node in model.graph for value in node.outputs]
        assert len({value.name for value in found}) == len(found)
        assert len({node.name for node in model.graph}) == len(model.graph)
        onnx.checker.check_model(ir.to_proto(model))
        assert [value.name for value in model.graph.outputs] == ["y", "z"]
        kept = [value for value in found if id(value) in before and value in model.graph.inputs]
        assert all(value.name == before[id(value)][1] for value in kept)
        for got, want in zip(nets.run(model, IMAGE), nets.run(expected, IMAGE), strict=True):
            np.testing.assert_array_equal(got, want)


def test_a_name_inside_a_subgraph_is_taken_too():
    model = nets.graph(
        """g (float[4] x, bool c) => (float[4] y) {
            y = If(c) <then_branch = t() => (float[4] a) { x_new = Relu(x)  a = Neg(x_new) },
                       else_branch = e() => (float[4] b) { x_new = Neg(x)  b = Relu(x_new) }>
        }"""
    )

    @keeps_names
    def change(model: ir.Model) -> None:
        doubled = ir.node("Add", [model.graph.inputs[0]] * 2, name="doubled")
        doubled.outputs[0].name = "x_new"
        doubled.outputs[0].shape, doubled.outputs[0].type = model.graph.inputs[0].shape, model.graph.inputs[0].type
        readers = [use for use in model.graph.inputs[0].uses() if use.node is not doubled]
        model.graph.insert_before(next(iter(model.graph)), doubled)
        for use in readers:
            use.node.replace_input_with(use.idx, doubled.outputs[0])

    change(model)
    assert [value.name for node in model.graph for value in node.outputs] == ["x_new_1", "y"]
    x = nets.normal(0, 4)
    for condition, want in ((True, -np.maximum(2 * x, 0)), (False, np.maximum(-2 * x, 0))):
        np.testing.assert_array_equal(nets.run(model, x, np.array(condition))[0], want)


def test_nodes_of_one_name_or_none_and_outputs_that_nobody_wants():
    text = """g (float[1,3,8,8] x) => (float[1,4,4,4] y) {
        [same] a = Conv<pads=[1,1,1,1]>(x, w)
        [same] b = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)
        y = Relu(b)
    }"""
    proto = ir.to_proto(nets.parse(text, {"w": nets.normal(0, 4, 3, 3, 3)}))
    proto.graph.node[1].output.append("")  # MaxPool's indices
    model = ir.from_proto(proto)
    clean(model)
    assert len({node.name for node in model.graph}) == 3
    assert [len(node.outputs) for node in model.graph] == [1, 1, 1]
