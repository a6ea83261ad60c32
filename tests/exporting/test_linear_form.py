"""Matrix products by constants, however a file spells them: the same values, and a form that every target quantizes."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.errors import InputError
from edgeq.exporting.graphs.graph import constant
from edgeq.exporting.onnx.qdq import insert_qdq
from edgeq.exporting.passes.linear_form import normalize_linear
from edgeq.exporting.passes.order import SIMPLIFYING, for_engine, for_integers, run_passes
from edgeq.exporting.planning.plan import make_plan
from edgeq.exporting.planning.selection import observed_tensors, select_layers, select_named
from edgeq.schemes import INT8_WEIGHT, UINT8, LayerScheme
from edgeq.targets import TARGETS, get_target
from tests.exporting import nets
from tests.exporting.test_qdq import ranges_for

ROWS = nets.normal(0, 6, 16)
WEIGHT = nets.normal(1, 16, 24)
GEMM = "g (float[6,16] x) => (float[6,24] y) {{ r = Relu(x) y = Gemm<{attributes}>(r, w, c) }}"
BIASES = {
    "(24,)": nets.normal(2, 24),
    "(1, 24)": nets.normal(2, 1, 24),
    "(1,)": nets.normal(2, 1),
    "(1, 1)": nets.normal(2, 1, 1),
    "()": nets.normal(2, 1)[0],
    "(6, 1)": nets.normal(2, 6, 1),
    "(6, 24)": nets.normal(2, 6, 24),
}
FORMS = {
    "plain": "transB=0",
    "scaled": "alpha=0.5, beta=3.0",
    "transposed weight": "transB=1, alpha=2.0",
    "transposed input": "transA=1",
    "all": "transA=1, transB=1, alpha=0.25, beta=-2.0",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bias", BIASES)
def test_every_gemm_computes_the_same_and_runs_in_int8(bias: str, form: str) -> None:
    attributes = FORMS[form]
    text = GEMM.format(attributes=attributes).replace("[6,16]", "[16,6]" if "transA=1" in attributes else "[6,16]")
    weight = WEIGHT.T.copy() if "transB=1" in attributes else WEIGHT
    model = nets.graph(text, {"w": weight, "c": np.asarray(BIASES[bias])})
    inputs = ROWS.T.copy() if "transA=1" in attributes else ROWS
    (wanted,) = nets.run(model, inputs)
    run_passes(model, SIMPLIFYING)
    np.testing.assert_allclose(nets.run(model, inputs)[0], wanted, rtol=1e-4, atol=1e-4)
    gemm = next(node for node in model.graph if node.op_type == "Gemm")
    assert not {"alpha", "beta"} & set(gemm.attributes) or form == "plain"
    (held,) = [constant(value) for value in gemm.inputs[2:]] or [np.zeros(24)]
    assert held is not None and held.shape == (24,)
    for target in ("x86-ort", "jetson-orin"):
        quantized, rules = nets.copy(model), get_target(target).rules
        run_passes(quantized, (*for_engine(rules), *for_integers(rules)))
        selection = select_layers(quantized, rules)
        assert [each.is_float for each in selection.decisions if each.op_type == "Gemm"] == [False]
        names = tuple(observed_tensors(quantized, [selection]))
        plan = make_plan(quantized, selection, ranges_for(quantized, inputs, names), rules)
        assert next(iter(plan.weights.values())).scale.shape == (24,)
        insert_qdq(quantized, plan, rules)
        np.testing.assert_allclose(nets.run(quantized, inputs)[0], wanted, atol=0.05 * np.abs(wanted).max())


def test_a_gemm_whose_bias_is_computed_is_a_layer_and_a_sum() -> None:
    text = (
        "g (float[6,16] x, float[6,24] c) => (float[6,24] y, float[6,24] z) { y = Gemm<beta=0.5>(x, w, c) z = Relu(y) }"
    )
    model, added = nets.graph(text, {"w": WEIGHT}), nets.normal(3, 6, 24)
    wanted = nets.run(model, ROWS, added)
    assert normalize_linear(model).done
    assert nets.ops(model) == ["Mul", "Gemm", "Add", "Relu"]
    assert [value.name for value in model.graph.outputs] == ["y", "z"]
    for found, each in zip(nets.run(model, ROWS, added), wanted, strict=True):
        np.testing.assert_allclose(found, each, rtol=1e-5, atol=1e-5)


def test_a_weight_that_others_read_is_left_to_them() -> None:
    text = "g (float[6,16] x) => (float[6,24] y) { a = Gemm<alpha=0.5>(x, w) b = Gemm(x, w) y = Add(a, b) }"
    model = nets.graph(text, {"w": WEIGHT})
    (wanted,) = nets.run(model, ROWS)
    assert len(normalize_linear(model).done) == 1
    np.testing.assert_allclose(nets.run(model, ROWS)[0], wanted, rtol=1e-5, atol=1e-5)


def test_a_gemm_in_the_usual_form_is_not_touched() -> None:
    text = "g (float[6,16] x) => (float[6,24] y) { y = Gemm<alpha=1.0, beta=1.0, transA=0>(x, w, c) }"
    model = nets.graph(text, {"w": WEIGHT, "c": BIASES["(24,)"]})
    assert not normalize_linear(model).changed


STACKS = "g (float[2,6,16] x) => (float[{shape}] y) {{ r = Relu(x) y = MatMul(r, w) }}"


def test_a_stack_of_one_matrix_is_that_matrix() -> None:
    model, values = nets.graph(STACKS.format(shape="2,6,24"), {"w": WEIGHT[None]}), nets.normal(4, 2, 6, 16)
    (wanted,) = nets.run(model, values)
    run_passes(model, SIMPLIFYING)
    np.testing.assert_array_equal(nets.run(model, values)[0], wanted)
    (decision,) = select_layers(model, get_target("x86").rules).decisions
    assert not decision.is_float


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("weight", "shape", "reason"),
    [(nets.normal(1, 2, 16, 24), "2,6,24", "a stack of matrices (2, 16, 24)"), (nets.normal(1, 16), "2,6", "a vector")],
)
def test_what_has_no_channels_of_its_own_stays_in_float_with_the_reason(weight, shape, reason, target) -> None:
    text, rules = STACKS.format(shape=shape), get_target(target).rules
    model, values = nets.graph(text, {"w": weight}), nets.normal(4, 2, 6, 16)
    (wanted,) = nets.run(model, values)
    run_passes(model, (*SIMPLIFYING, *for_engine(rules), *for_integers(rules)))
    selection = select_layers(model, rules)
    (decision,) = selection.decisions
    assert decision.is_float and reason in decision.reason
    with pytest.raises(InputError, match="by output channels"):
        select_named(model, rules, {decision.name: LayerScheme(INT8_WEIGHT, UINT8)})
    insert_qdq(model, make_plan(model, selection, ranges_for(model, values, ()), rules), rules)
    np.testing.assert_array_equal(nets.run(model, values)[0], wanted)
