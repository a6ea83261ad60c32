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
