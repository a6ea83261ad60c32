from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edgeq.errors import InputError
from edgeq.exporting.planning.keep import resolve_keep
from edgeq.exporting.planning.selection import observed_tensors, select_layers
from edgeq.schemes import FLOAT32, INT8_ASYMMETRIC
from edgeq.targets import Rules, get_target
from tests.exporting import nets

X86 = get_target("x86").rules
TENSORRT_LIKE = dataclasses.replace(X86.changed(activation=INT8_ASYMMETRIC, bias=FLOAT32), output_pairs="none")

WEIGHTS = {
    "w0": nets.normal(1, 8, 3, 3, 3), "w1": nets.normal(2, 8, 8, 3, 3), "w2": nets.normal(3, 8, 8, 3, 3),
    "hm_w": nets.normal(4, 2, 8, 1, 1), "wh_w": nets.normal(5, 2, 8, 1, 1),
}  # fmt: skip

RESIDUAL_DETECTOR = """g (float[1,3,16,16] image) => (float[1,2,8,8] hm, float[1,2,8,8] wh) {
    c0 = Conv<pads=[1,1,1,1]>(image, w0) r0 = Relu(c0)
    p0 = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r0)
    c1 = Conv<pads=[1,1,1,1]>(p0, w1) r1 = Relu(c1)
    c2 = Conv<pads=[1,1,1,1]>(r1, w2) s = Add(c2, p0) r2 = Relu(s)
    hm = Conv(r2, hm_w) wh = Conv(r2, wh_w) }"""


def tensors(
    text: str, weights: dict[str, np.ndarray], rules: Rules = X86, keep: tuple[str, ...] = ()
) -> tuple[str, ...]:
    model = nets.graph(text, weights)
    return select_layers(model, rules, resolve_keep(model, keep)).tensors


def test_residual_detector() -> None:
    model = nets.graph(RESIDUAL_DETECTOR, WEIGHTS)
    selection = select_layers(model, X86)
    by_type = [(decision.op_type, decision.scheme.name) for decision in selection.decisions]
    assert by_type == [("Conv", "int8")] * 3 + [("Add", "int8")] + [("Conv", "float")] * 2
    assert {decision.reason for decision in selection.decisions[-2:]} == {"last convolution of a head"}
    # The ReLU's output, not the Conv's; both branches of the sum; what the heads read, because the Add ends there.
    assert selection.tensors == ("image", "r0", "p0", "r1", "c2", "r2")


def test_only_what_is_computed_anew_is_observed() -> None:
    model = nets.graph(RESIDUAL_DETECTOR, WEIGHTS)
    assert observed_tensors(model, [select_layers(model, X86)]) == ["image", "r0", "r1", "c2", "r2"]


def test_engine_that_fuses_by_inputs_needs_no_pair_behind_the_last_quantized_layer() -> None:
    assert tensors(RESIDUAL_DETECTOR, WEIGHTS, TENSORRT_LIKE) == ("image", "r0", "p0", "r1", "c2")


def test_keep_by_type_name_or_expression() -> None:
    model = nets.graph(RESIDUAL_DETECTOR, WEIGHTS)
    name = next(str(node.name) for node in model.graph if node.op_type == "Add")
    for pattern in ("Add", name, name[:-1] + "."):
        decisions = select_layers(model, X86, resolve_keep(model, [pattern])).decisions
        precision = {decision.op_type: decision.scheme.name for decision in decisions}
        assert precision["Add"] == "float"


def test_keep_that_matches_nothing_is_an_error_that_shows_names() -> None:
    with pytest.raises(InputError, match="matches no node; names look like"):
        tensors(RESIDUAL_DETECTOR, WEIGHTS, keep=("backbone.*",))
    with pytest.raises(InputError, match="not a regular expression"):
        tensors(RESIDUAL_DETECTOR, WEIGHTS, keep=("(",))


def test_heads_behind_a_joined_output_stay_float() -> None:
    text = """g (float[1,3,8,8] x) => (float[1,4,64] y) { c = Conv<pads=[1,1,1,1]>(x, w0) r = Relu(c)
        b = Conv(r, hm_w) o = Conv(r, wh_w) s = Sigmoid(o) j = Concat<axis=1>(b, s) y = Reshape(j, shape) }"""
    selection = select_layers(nets.graph(text, WEIGHTS | {"shape": np.array([1, 4, 64])}), X86)
    assert [decision.scheme.name for decision in selection.decisions] == ["int8", "float", "float"]
    assert selection.tensors == ("x", "r")


def test_a_residual_output_does_not_drag_the_backbone_into_the_heads() -> None:
    text = """g (float[1,8,8,8] x) => (float[1,8,8,8] y) { a = Conv<pads=[1,1,1,1]>(x, w1) r = Relu(a)
        b = Conv<pads=[1,1,1,1]>(r, w2) s = Add(b, r) y = Relu(s) }"""
    assert [decision.scheme.name for decision in select_layers(nets.graph(text, WEIGHTS), X86).decisions] == [
        "int8"
    ] * 3


def test_no_pair_before_a_function_that_flattens_the_tail() -> None:
    text = """g (float[1,3,8,8] x) => (float[1,2,8,8] y) { c = Conv<pads=[1,1,1,1]>(x, w0) g = Sigmoid(c) m = Mul(c, g)
        d = Conv<pads=[1,1,1,1]>(m, w1) r = Relu(d) y = Conv(r, hm_w) }"""
    assert tensors(text, WEIGHTS) == ("x", "m", "r")
    # An engine that fuses a layer with the pair behind it gains nothing here and would pay for the conversions.
    choices = select_layers(nets.graph(text, WEIGHTS), get_target("x86-ort").rules).decisions
    assert [decision.scheme.name for decision in choices] == ["float", "int8", "float"]
    assert "other than ReLU" in choices[0].reason


def test_depthwise_stays_float_where_the_target_says_so() -> None:
    text = """g (float[1,8,8,8] x) => (float[1,2,8,8] y) { c = Conv<pads=[1,1,1,1], group=8>(x, dw) r = Relu(c)
        d = Conv<pads=[1,1,1,1]>(r, w1) q = Relu(d) y = Conv(q, hm_w) }"""
    weights = WEIGHTS | {"dw": nets.normal(6, 8, 1, 3, 3)}
    assert tensors(text, weights) == ("r", "q")
    assert tensors(text, weights, X86.requested("DepthwiseConv")) == ("x", "r", "q")


def test_depthwise_between_two_pairs_is_int8_where_the_engine_would_round_its_weight_anyway() -> None:
    text = """g (float[1,3,8,8] x) => (float[1,2,8,8] y) { a = Conv<pads=[1,1,1,1]>(x, w0) p = Relu(a)
        c = Conv<pads=[1,1,1,1], group=8>(p, dw) r = Relu(c) d = Conv<pads=[1,1,1,1]>(r, w1) q = Relu(d)
        e = Conv<pads=[1,1,1,1], group=8>(q, dw) s = Sigmoid(e) m = Mul(e, s) f = Conv(m, w3) t = Relu(f)
        y = Conv(t, hm_w) }"""
    weights = WEIGHTS | {"dw": nets.normal(6, 8, 1, 3, 3), "w3": nets.normal(7, 8, 8, 1, 1)}
    model = nets.graph(text, weights)
    # Behind the second stands a function, so no pair; only the first stands between two.
    for rules, wanted in (
        (X86, ["int8", "int8", "int8", "float", "int8", "float"]),
        (get_target("x86-ort").rules, ["int8", "int8", "int8", "float", "int8", "float"]),
        (TENSORRT_LIKE, ["int8", "float", "int8", "float", "int8", "float"]),
    ):
        selection = select_layers(model, rules)
        assert [decision.scheme.name for decision in selection.decisions] == wanted
        assert "e" not in selection.tensors
    kept = select_layers(model, X86, resolve_keep(model, [str(model.graph[2].name)]))
    assert kept.decisions[1].is_float and "kept by" in kept.decisions[1].reason


def test_product_of_two_activations_stays_float_with_the_reason() -> None:
    text = "g (float[1,4,4] x) => (float[1,4,4] y) { y = MatMul(x, x) }"
    assert select_layers(nets.graph(text), X86).decisions[0].reason == "its weight is not a constant"
