from __future__ import annotations

import numpy as np
import pytest

from edgeq.exporting.onnx.dynamic import insert_dynamic
from edgeq.exporting.planning.plan import make_dynamic_plan
from edgeq.exporting.planning.selection import select_layers
from edgeq.targets import get_target
from tests.exporting import nets
from tests.exporting.test_topology import RESIDUAL_DETECTOR, WEIGHTS

pytestmark = pytest.mark.kernels

X86 = get_target("x86").rules


def test_dynamic_detector_computes_nearly_the_same() -> None:
    model, x = nets.graph(RESIDUAL_DETECTOR, WEIGHTS), nets.normal(9, 1, 3, 16, 16)
    expected = nets.run(model, x)
    plan = make_dynamic_plan(model, select_layers(model, X86), X86)
    assert len(plan.weights) == len(plan.quantized) == 3 and not plan.tensors
    insert_dynamic(model, plan)
    assert nets.ops(model).count("ConvInteger") == 3 and nets.ops(model).count("DynamicQuantizeLinear") == 3
    for got, want in zip(nets.run(model, x), expected, strict=True):
        assert np.abs(got - want).max() < 0.06 * np.abs(want).max()


def test_linear_layers_and_a_tensor_with_two_readers() -> None:
    text = """g (float[4,16] x) => (float[4,8] y, float[4,8] z) {
        y = Gemm<transB=1>(x, wt, b) z = MatMul(x, w) }"""
    weights = {"wt": nets.normal(1, 8, 16), "w": nets.normal(2, 16, 8), "b": nets.normal(3, 8)}
    model, x = nets.graph(text, weights), nets.normal(9, 4, 16)
    expected = nets.run(model, x)
    insert_dynamic(model, make_dynamic_plan(model, select_layers(model, X86), X86))
    assert nets.ops(model).count("MatMulInteger") == 2
    assert nets.ops(model).count("DynamicQuantizeLinear") == 1
    for got, want in zip(nets.run(model, x), expected, strict=True):
        assert np.abs(got - want).max() < 0.03 * np.abs(want).max()


def test_a_depthwise_convolution_that_is_planned_in_int8_stays_float_in_a_dynamic_file() -> None:
    text = """g (float[1,3,8,8] x) => (float[1,2,8,8] y) { c = Conv<pads=[1,1,1,1]>(x, w0) r = Relu(c)
        d = Conv<pads=[1,1,1,1], group=8>(r, dw) s = Relu(d) e = Conv(s, w1) t = Relu(e) y = Conv(t, w2) }"""
    weights = {
        "w0": nets.normal(1, 8, 3, 3, 3), "dw": nets.normal(2, 8, 1, 3, 3), "w1": nets.normal(3, 8, 8, 1, 1),
        "w2": nets.normal(4, 2, 8, 1, 1),
    }  # fmt: skip
    model, rules = nets.graph(text, weights), get_target("x86-ort").rules
    selection = select_layers(model, rules)
    assert len(selection.quantized) == 3, "ONNX Runtime's static plan has it in INT8"
    plan = make_dynamic_plan(model, selection, rules)
    assert {str(node.inputs[1].name) for node in model.graph if node.name in plan.quantized and node.inputs[1]} == {
        "w0", "w1"
    }  # fmt: skip
