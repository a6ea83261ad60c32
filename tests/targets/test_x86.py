from __future__ import annotations

import numpy as np
import pytest

from edgeq.errors import InputError
from edgeq.exporting.onnx.qdq import insert_qdq
from edgeq.exporting.planning.plan import make_plan
from edgeq.exporting.planning.selection import select_layers
from edgeq.targets import for_runtime, get_target
from tests.exporting import nets
from tests.exporting.test_qdq import ranges_for

POOLED = """g (float[1,3,16,16] x) => (float[1,4,4,4] y) { c = Conv<pads=[1,1,1,1]>(x, w0) r = Relu(c)
    p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r) d = Conv<pads=[1,1,1,1]>(p, w1) q = Relu(d)
    e = Conv<pads=[1,1,1,1], group=8>(q, dw) s = Relu(e)
    t = MaxPool<kernel_shape=[2,2], strides=[2,2]>(s) j = Concat<axis=1>(s2, t) s2 = Relu(t)
    f = Conv(j, w2) u = Relu(f) y = Conv(u, w3) }"""
POOLED = POOLED.replace("j = Concat<axis=1>(s2, t) s2 = Relu(t)", "s2 = Relu(t) j = Concat<axis=1>(s2, t)")
WEIGHTS = {
    "w0": nets.normal(1, 8, 3, 3, 3), "w1": nets.normal(2, 8, 8, 3, 3), "dw": nets.normal(3, 8, 1, 3, 3),
    "w2": nets.normal(4, 8, 16, 1, 1), "w3": nets.normal(5, 4, 8, 1, 1),
}  # fmt: skip


def test_openvinos_plan_has_pairs_only_where_an_int8_layer_reads() -> None:
    rules = get_target("x86-openvino").rules
    model, x = nets.graph(POOLED, WEIGHTS), nets.normal(9, 1, 3, 16, 16)
    expected = nets.run(model, x)[0]
    selection = select_layers(model, rules)
    plan = make_plan(model, selection, ranges_for(model, x, selection.tensors), rules)
    # Not behind a layer that a MaxPool (r) or a depthwise convolution (q) reads in float, nor before the head (u); what
    # is joined for an INT8 layer has them, so that the Concat moves integers.
    assert set(plan.tensors) == {"x", "p", "s2", "t", "j"}
    insert_qdq(model, plan, rules)
    for node in model.graph:
        if node.op_type == "MaxPool":
            assert node.inputs[0] is not None
            assert node.inputs[0].producer().op_type == "Relu", "it reads the float tensor"  # type: ignore[union-attr]
    error = np.abs(nets.run(model, x)[0] - expected).max()
    assert 0 < error < 0.1 * np.abs(expected).max()


def test_a_pool_beside_an_int8_layer_reads_the_float_tensor() -> None:
    text = """g (float[1,3,8,8] x) => (float[1,4,8,8] y) { c = Conv<pads=[1,1,1,1]>(x, w0) r = Relu(c)
        p = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(r) j = Concat<axis=1>(r, p) f = Conv(j, w2) u = Relu(f)
        y = Conv(u, w3) }"""
    rules = get_target("x86-openvino").rules
    model, x = nets.graph(text, WEIGHTS | {"w1": np.zeros(1, np.float32)}), nets.normal(9, 1, 3, 8, 8)
    selection = select_layers(model, rules)
    plan = make_plan(model, selection, ranges_for(model, x, selection.tensors), rules)
    insert_qdq(model, plan, rules)
    (pool,) = (node for node in model.graph if node.op_type == "MaxPool")
    (join,) = (node for node in model.graph if node.op_type == "Concat")
    assert [str(value.name) for value in (*pool.inputs, *join.inputs) if value] == [
        "r",
        "r_dequantized",
        "p_dequantized",
    ]


@pytest.mark.parametrize(
    ("target", "runtime", "expected"),
    [
        ("x86", None, "x86"),
        ("x86", "openvino", "x86-openvino"),
        ("x86", "onnxruntime", "x86-ort"),
        ("x86-ort", "onnxruntime", "x86-ort"),
        ("arm", "litert", "arm"),
    ],
)
def test_a_runtime_names_the_target_that_is_planned_for_it(target: str, runtime: str | None, expected: str) -> None:
    assert for_runtime(target, runtime) == expected
    assert runtime is None or get_target(expected).runtimes[0] == runtime


def test_a_runtime_that_a_target_is_not_planned_for_is_refused() -> None:
    with pytest.raises(InputError, match=r"`runtime` litert: .* x86 are planned for openvino, onnxruntime"):
        for_runtime("x86", "litert")


def test_x86_stands_for_openvinos_plan() -> None:
    assert get_target("x86").rules == get_target("x86-openvino").rules


@pytest.mark.parametrize(("channels", "expected"), [(48, {"x", "p"}), (64, {"x", "r", "p"})])
def test_a_pool_of_many_channels_moves_integers(channels: int, expected: set[str]) -> None:
    text = """g (float[1,3,16,16] x) => (float[1,4,8,8] y) { c = Conv<pads=[1,1,1,1]>(x, w0) r = Relu(c)
        p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r) d = Conv<pads=[1,1,1,1]>(p, w1) q = Relu(d)
        y = Conv(q, w2) }"""
    weights = {
        "w0": nets.normal(1, channels, 3, 3, 3), "w1": nets.normal(2, 8, channels, 3, 3),
        "w2": nets.normal(3, 4, 8, 1, 1),
    }  # fmt: skip
    rules = get_target("x86-openvino").rules
    model, x = nets.graph(text, weights), nets.normal(9, 1, 3, 16, 16)
    selection = select_layers(model, rules)
    assert set(make_plan(model, selection, ranges_for(model, x, selection.tensors), rules).tensors) == expected
