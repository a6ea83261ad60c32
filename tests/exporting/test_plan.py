"""What a plan holds, how to ask for one, and that a file holds what its plan does."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.calibrators.ranges import Ranges
from edgeq.errors import InputError
from edgeq.exporting.graphs.channels import _MOVERS
from edgeq.exporting.graphs.graph import constant
from edgeq.exporting.graphs.moves import REARRANGES
from edgeq.exporting.onnx.dynamic import insert_dynamic
from edgeq.exporting.onnx.qdq import insert_qdq
from edgeq.exporting.planning.plan import QuantPlan, make_dynamic_plan, make_plan
from edgeq.exporting.planning.selection import observed_tensors, select_layers, select_named
from edgeq.quantizers import QuantizedWeight
from edgeq.schemes import FLOAT32, INT8_WEIGHT, INT32, UINT8, LayerScheme, PerAxis
from edgeq.targets import TARGETS, get_target
from edgeq.targets.x86 import QDQ
from tests.exporting import nets
from tests.exporting.test_qdq import ranges_for
from tests.exporting.test_topology import RESIDUAL_DETECTOR, WEIGHTS

X86 = QDQ
JETSON = get_target("jetson-orin").rules
IMAGE = nets.normal(9, 1, 3, 16, 16)
BIASED = RESIDUAL_DETECTOR.replace("Conv<pads=[1,1,1,1]>(p0, w1)", "Conv<pads=[1,1,1,1]>(p0, w1, b1)")


def detector() -> ir.Model:
    return nets.graph(BIASED, WEIGHTS | {"b1": nets.normal(7, 8)})


def observed(model: ir.Model) -> Ranges:
    names = observed_tensors(model, [select_layers(model, get_target(name).rules) for name in TARGETS])
    return ranges_for(model, IMAGE, tuple(names))


@pytest.mark.parametrize(
    ("rows", "features", "outputs", "reason"),
    [
        ("2", 16, 16, ""), ("1,2", 32, 16, ""), ("batch", 16, 16, ""), ("batch,1", 64, 1000, ""),
        ("1", 64, 1000, "so few rows"), ("1,1", 64, 1000, "so few rows"),
        ("2", 64, 15, "fewer than 16 features"), ("2", 15, 64, "fewer than 16 features"),
    ],
)  # fmt: skip
def test_products_that_no_tensor_core_computes_stay_float(rows, features, outputs, reason) -> None:
    for operator in ("MatMul",) if "," in rows else ("MatMul", "Gemm"):
        text = f"g (float[{rows},{features}] x) => (float[{rows},{outputs}] y) {{ y = {operator}(x, w) }}"
        model = nets.graph(text, {"w": nets.normal(1, features, outputs)})
        for target in ("jetson-orin", "jetson-orin-trt11", "rtx"):
            (layer,) = select_layers(model, get_target(target).rules).decisions
            assert layer.is_float == bool(reason) and reason in layer.reason
        assert not select_layers(model, X86).decisions[0].is_float


def layer_names(model: ir.Model) -> list[str]:
    return [str(node.name) for node in model.graph if node.op_type == "Conv"]


def test_a_plan_holds_every_weight_and_bias() -> None:
    model = detector()
    plan = make_plan(model, select_layers(model, X86), observed(model), X86)
    first, second, third, *heads = layer_names(model)
    assert set(plan.weights) == {first, second, third} and set(plan.biases) == {second}
    assert plan.quantized == {*plan.weights, *(str(node.name) for node in model.graph if node.op_type == "Add")}
    assert plan.in_float == set(heads)
    weight, bias = plan.weights[second], plan.biases[second]
    assert weight.scheme == INT8_WEIGHT.along(PerAxis(0)) and bias.scheme == INT32.along(PerAxis(0))
    grid = plan.tensors["p0"]
    assert grid.scheme == UINT8
    np.testing.assert_allclose(bias.scale, np.float32(grid.scale) * weight.scale, rtol=1e-6)
    np.testing.assert_allclose(weight.dequantize(), WEIGHTS["w1"], atol=weight.scale.max() / 2)
    unbiased = make_plan(model, select_layers(model, JETSON), observed(model), JETSON)
    assert set(unbiased.weights) == {first, second, third} and not unbiased.biases


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_a_file_holds_the_integers_of_its_plan_whatever_chose_them(target: str) -> None:
    model, rules = detector(), get_target(target).rules
    plan = make_plan(model, select_layers(model, rules), observed(model), rules)
    upwards = {name: one_up(weight) for name, weight in plan.weights.items()}
    insert_qdq(model, dataclasses.replace(plan, weights=upwards), rules)
    names = dict(zip(plan.weights, ("w0", "w1", "w2"), strict=True))
    for name, weight in upwards.items():
        if rules.float_weights:
            model.graph.outputs.append(model.graph.node(f"{names[name]}_quantize").outputs[0])
        else:
            stored = constant(model.graph.initializers[f"{names[name]}_quantized"])
            np.testing.assert_array_equal(stored, weight.integers)
    if rules.float_weights:
        for found, weight in zip(nets.run(model, IMAGE)[-3:], upwards.values(), strict=True):
            np.testing.assert_array_equal(found, weight.integers)


def test_a_dynamic_file_does_too() -> None:
    model = detector()
    plan = make_dynamic_plan(model, select_layers(model, X86), X86)
    assert set(plan.weights) == plan.quantized == set(layer_names(model)[:3])
    upwards = {name: one_up(weight) for name, weight in plan.weights.items()}
    insert_dynamic(model, dataclasses.replace(plan, weights=upwards))
    for name, weight in upwards.items():
        stored = constant(model.graph.initializers[f"{name}_weight_quantized"])
        np.testing.assert_array_equal(stored, weight.integers)


def one_up(weight: QuantizedWeight) -> QuantizedWeight:
    """Returns a weight that rounding to nearest would not give."""
    return dataclasses.replace(weight, integers=np.minimum(weight.integers, 126) + 1)


def test_exactly_the_layers_that_are_named_are_quantized() -> None:
    model = detector()
    first, second, *others = layer_names(model)
    int8 = X86.static("Conv")
    assert int8 is not None
    selection = select_named(model, X86, {first: int8, others[-1]: int8.with_bits(4, 8)})
    plan = make_plan(model, selection, observed(model), X86)
    assert plan.quantized == {first, others[-1]}, "a head as well, if it is named"
    assert {second, *others[:-1]} <= plan.in_float
    assert {name: weight.scheme.bits for name, weight in plan.weights.items()} == {first: 8, others[-1]: 4}
    assert set(plan.tensors) == {"image", "r0", "r2"}
    insert_qdq(model, plan, X86)
    want = nets.run(detector(), IMAGE)
    for found, wanted in zip(nets.run(model, IMAGE), want, strict=True):
        assert np.abs(found - wanted).max() < 0.2 * np.abs(wanted).max()


def test_a_selection_by_name_is_that_of_the_rules_if_it_names_the_same() -> None:
    model = detector()
    chosen = select_layers(model, X86)
    named = {decision.name: decision.scheme for decision in chosen.decisions if not decision.is_float}
    assert select_named(model, X86, named).tensors == chosen.tensors


@pytest.mark.parametrize(
    ("name", "message"), [("nothing", "the graph has no such node"), ("Relu", "edgeq does not quantize Relu")]
)
def test_what_cannot_be_quantized_is_refused_by_name(name: str, message: str) -> None:
    model = detector()
    if name == "Relu":
        name = next(str(node.name) for node in model.graph if node.op_type == "Relu")
    with pytest.raises(InputError, match=message):
        select_named(model, X86, {name: LayerScheme(INT8_WEIGHT, UINT8, FLOAT32)})


METHOD = '''
"""A weight method of somebody else's: 4 bits, towards zero."""

import numpy as np

from edgeq.quantizers import QuantizedWeight
from edgeq.quantizers.round_nearest import round_nearest


def towards_zero(weight, scheme, statistics):
    rounded = round_nearest(weight, scheme, statistics)
    exact = weight / rounded.scale.reshape(-1, 1, 1, 1)
    return QuantizedWeight(np.trunc(exact).astype(np.int8), rounded.scale, rounded.zero_point, scheme)
'''


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with one weight method: one file, and one line that names it."""
    (tmp_path / "truncating.py").write_text(METHOD)
    information = tmp_path / "truncating-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: truncating\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[edgeq.weight_methods]\ntruncate = truncating:towards_zero\n")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("installed")
def test_a_weight_method_of_four_bits_is_one_file_and_one_line() -> None:
    model = detector()
    selection = select_layers(model, X86).with_bits(4, 8)
    plans: list[QuantPlan] = [
        make_plan(model, selection, observed(model), X86, weight_method=method) for method in ("round", "truncate")
    ]
    for name, rounded in plans[0].weights.items():
        truncated = plans[1].weights[name]
        assert (np.abs(truncated.integers) <= np.abs(rounded.integers)).all()
        assert np.abs(rounded.integers).max() == np.abs(truncated.integers).max() == 7
        assert np.any(truncated.integers != rounded.integers)
    insert_qdq(model, plans[1], X86)
    stored = constant(model.graph.initializers["w1_quantized"])
    np.testing.assert_array_equal(stored, plans[1].weights[layer_names(detector())[1]].integers)


def test_each_operator_that_rearranges_values_can_be_followed() -> None:
    assert _MOVERS.keys() == REARRANGES
