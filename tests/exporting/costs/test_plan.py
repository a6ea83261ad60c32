"""Which layers of a graph a table puts into INT8."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from edgeq.exporting.costs.cheapest import total_us
from edgeq.exporting.costs.kernel import kernel_of
from edgeq.exporting.costs.plan import choose_by_cost, cost_problem, kernels_of, least_gains, predicted_us
from edgeq.exporting.costs.table import KernelCost, KernelTable
from edgeq.exporting.graphs.graph import infer_shapes
from edgeq.exporting.planning.selection import select_layers
from edgeq.targets import get_target
from edgeq.targets.x86 import for_isa
from tests.exporting import nets

RULES = dataclasses.replace(get_target("x86-openvino").rules, moved_in_float={"MaxPool": 64})
FREE = dataclasses.replace(RULES, moved_in_float={})
NET = """
agraph (float[1, 3, 16, 16] image) => (float[1, 4, 8, 8] out)
{
    c1 = Conv<pads = [1, 1, 1, 1]>(image, w1)
    r1 = Relu(c1)
    c2 = Conv(r1, w2)
    r2 = Relu(c2)
    pool = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r2)
    c3 = Conv<pads = [1, 1, 1, 1]>(pool, w3)
    r3 = Relu(c3)
    c4 = Conv(r3, w4)
    r4 = Relu(c4)
    out = Conv(r4, w5)
}
"""
RESIDUAL = """
agraph (float[1, 3, 16, 16] image) => (float[1, 4, 16, 16] out)
{
    c1 = Conv<pads = [1, 1, 1, 1]>(image, w1)
    c2 = Conv(c1, w2)
    sum = Add(c2, c1)
    c3 = Conv<pads = [1, 1, 1, 1]>(sum, w3)
    out = Conv(c3, w6)
}
"""
WEIGHTS = {
    "w6": nets.normal(0, 4, 16, 1, 1),
    "w1": nets.normal(0, 16, 3, 3, 3),
    "w2": nets.normal(0, 16, 16, 1, 1),
    "w3": nets.normal(0, 16, 16, 3, 3),
    "w4": nets.normal(0, 8, 16, 1, 1),
    "w5": nets.normal(0, 4, 8, 1, 1),
}


@pytest.fixture
def model():
    found = nets.graph(NET, WEIGHTS)
    infer_shapes(found)
    for node in found.graph:
        node.name = f"node_{node.outputs[0].name}"
    return found


def table(model, costs: dict[str, KernelCost]) -> KernelTable:
    rows = {kernel_of(node): costs[node.name] for node in model.graph if node.name in costs}
    return KernelTable("openvino", "1", "a CPU", (), 1, "measured", {k: v for k, v in rows.items() if k is not None})


def quantized(model):
    return select_layers(model, RULES).quantized


def test_layers_with_a_choice_and_what_moves_between_them_have_kernels(model):
    assert quantized(model) == {"node_c1", "node_c2", "node_c3", "node_c4"}
    assert list(kernels_of(model, quantized(model))) == ["node_c1", "node_c2", "node_pool", "node_c3", "node_c4"]


def test_what_is_no_faster_stays_in_float_and_islands_too_small_to_pay_as_well(model):
    costs = {
        "node_c1": KernelCost(20.0, 45.0, quantize_output_us=30.0),
        "node_c2": KernelCost(60.0, 12.0, quantize_us=30.0, dequantize_us=31.0, quantize_output_us=0.0),
        "node_pool": KernelCost(5.0, 40.0, dequantize_us=8.0, quantize_output_us=9.0),
        "node_c3": KernelCost(100.0, 20.0, quantize_us=9.0, dequantize_us=5.0, quantize_output_us=5.0),
        "node_c4": KernelCost(10.0, 2.0, dequantize_us=3.0),
    }
    chosen = choose_by_cost(model, quantized(model), table(model, costs), FREE)
    assert chosen.int8 == {"node_c3", "node_c4"}
    assert chosen.in_float == {
        "node_c1": "INT8 is no faster: 45 us against 20 in float",
        "node_c2": "conversions cost more than INT8 saves: 61 us against 48",
    }
    # In float: 20 + 60 + 5 + 100 + 10; in INT8: 80 and 8 less, 9 behind the pool and 3 before the head.
    assert (chosen.float_us, chosen.predicted_us) == (195.0, 195.0 - 88.0 + 12.0)
    selection = select_layers(model, RULES, slow=chosen.in_float)
    assert selection.quantized == chosen.int8
    assert {each.name: each.reason for each in selection.decisions if each.name in chosen.in_float} == chosen.in_float


def test_an_operator_that_the_file_leaves_in_float_is_not_planned_in_int8(model):
    costs = {
        "node_c1": KernelCost(50.0, 10.0, dequantize_us=1.0),
        "node_c2": KernelCost(50.0, 10.0, dequantize_us=20.0),
        "node_pool": KernelCost(5.0, 1.0, quantize_output_us=70.0),
        "node_c3": KernelCost(50.0, 10.0),
        "node_c4": KernelCost(1.0, 1.0),
    }
    every, given = quantized(model), table(model, costs)
    assert choose_by_cost(model, every, given, FREE).int8 == {"node_c1", "node_c2", "node_c3"}
    assert choose_by_cost(model, every, given, RULES).int8 == {"node_c1", "node_c2"}


def test_a_layer_unlike_any_in_the_table_is_left_to_the_rules(model):
    costs = {"node_c2": KernelCost(10.0, 20.0), "node_c4": KernelCost(10.0, 20.0)}
    chosen = choose_by_cost(model, quantized(model), table(model, costs), FREE)
    assert set(chosen.in_float) == {"node_c2", "node_c4"}
    assert select_layers(model, RULES, slow=chosen.in_float).quantized == {"node_c1", "node_c3"}
    assert chosen.float_us == 20.0


def test_a_sum_without_a_cost_goes_with_the_layers_around_it():
    model = nets.graph(RESIDUAL, WEIGHTS)
    infer_shapes(model)
    for node in model.graph:
        node.name = f"node_{node.outputs[0].name}"
    rules = select_layers(model, RULES)
    assert "node_sum" in rules.quantized
    for int8_us, quantized in ((40.0, set()), (10.0, {"node_c2", "node_c3", "node_sum"})):
        costs = dict.fromkeys(("node_c2", "node_c3"), KernelCost(20.0, int8_us))
        costs["node_c1"] = KernelCost(20.0, 40.0)
        chosen = choose_by_cost(model, rules.quantized, table(model, costs), FREE)
        assert select_layers(model, RULES, slow=chosen.in_float).quantized == quantized


def test_the_choice_is_the_cheapest_of_all_choices(model):
    costs = {
        "node_c1": KernelCost(20.0, 18.0, quantize_output_us=3.0),
        "node_c2": KernelCost(31.0, 12.0, quantize_us=6.0, dequantize_us=7.0, quantize_output_us=8.0),
        "node_pool": KernelCost(5.0, 9.0, dequantize_us=8.0, quantize_output_us=9.0),
        "node_c3": KernelCost(40.0, 22.0, dequantize_us=5.0),
        "node_c4": KernelCost(10.0, 7.0, dequantize_us=3.0),
    }
    given = table(model, costs)
    problem = cost_problem(model, quantized(model), given, FREE)
    layers = sorted(problem.candidates)
    choices = [set(some) for size in range(5) for some in itertools.combinations(layers, size)]
    chosen = choose_by_cost(model, quantized(model), given, FREE)
    assert chosen.predicted_us == min(predicted_us(problem, choice) for choice in choices)
    assert predicted_us(problem, set()) == total_us(problem.layers, problem.conversions, set())


def test_smaller_choices_keep_what_saves_most_for_each_layer(model):
    costs = {
        "node_c1": KernelCost(20.0, 15.0, quantize_output_us=3.0),
        "node_c2": KernelCost(31.0, 12.0, quantize_us=2.0, dequantize_us=1.0, quantize_output_us=2.0),
        "node_pool": KernelCost(5.0, 4.0, dequantize_us=2.0, quantize_output_us=1.0),
        "node_c3": KernelCost(90.0, 22.0, dequantize_us=5.0, quantize_us=1.0),
        "node_c4": KernelCost(10.0, 7.0, dequantize_us=3.0),
    }
    given, every = table(model, costs), quantized(model)
    problem = cost_problem(model, every, given, FREE)
    gains = least_gains(model, every, given, FREE, 4)
    choices = [choose_by_cost(model, every, given, FREE, least).int8 for least in gains]
    whole = choose_by_cost(model, every, given, FREE).int8
    assert len(choices) >= 2
    for smaller, larger in itertools.pairwise([frozenset[str](), *choices, whole]):
        assert smaller < larger
    subsets = [set(some) for size in range(5) for some in itertools.combinations(sorted(problem.candidates), size)]
    for least, choice in zip(gains, choices, strict=True):

        def spent(some, least=least):
            wary = sum(0.03 * problem.layers[name].float_us for name in some)
            return predicted_us(problem, some) + wary + least * len(some)

        assert spent(choice) == pytest.approx(min(map(spent, subsets)))
    assert least_gains(model, every, given, FREE, 1) == gains[:1]
    for reason in choose_by_cost(model, every, given, FREE, gains[0]).in_float.values():
        assert reason.startswith(
            ("a smaller selection is faster than fp32: ", "conversions cost more", "INT8 is no fast")
        )


def test_what_gains_nothing_has_no_smaller_choices(model):
    costs = dict.fromkeys(("node_c1", "node_c2", "node_c3", "node_c4"), KernelCost(10.0, 20.0))
    assert least_gains(model, quantized(model), table(model, costs), FREE, 4) == ()


@pytest.mark.parametrize("noisy", [("node_c2",), ("node_c1", "node_c3"), ("node_c1", "node_c2", "node_c3", "node_c4")])
def test_a_noisy_layer_stays_in_float_and_the_others_are_the_cheapest_without_it(model, noisy):
    costs = {
        "node_c1": KernelCost(20.0, 12.0, quantize_output_us=3.0),
        "node_c2": KernelCost(31.0, 12.0, quantize_us=6.0, dequantize_us=7.0, quantize_output_us=8.0),
        "node_pool": KernelCost(5.0, 9.0, dequantize_us=8.0, quantize_output_us=9.0),
        "node_c3": KernelCost(40.0, 22.0, dequantize_us=5.0),
        "node_c4": KernelCost(10.0, 5.0, dequantize_us=3.0),
    }
    every, given = quantized(model), table(model, costs)
    whole = choose_by_cost(model, every, given, FREE)
    chosen = choose_by_cost(model, every, given, FREE, noisy=dict.fromkeys(noisy, "too loud"))
    assert chosen.int8.isdisjoint(noisy)
    assert [name for name, why in chosen.in_float.items() if why == "too loud"] == sorted(noisy)
    assert chosen.int8 | chosen.in_float.keys() == every
    assert chosen.float_us == whole.float_us, "times of files with other layers in float can be compared"
    problem = cost_problem(model, every, given, FREE)
    others = sorted(problem.candidates.difference(noisy))
    choices = [set(some) for size in range(5) for some in itertools.combinations(others, size)]
    assert chosen.predicted_us == min(predicted_us(problem, choice) for choice in choices) >= whole.predicted_us


def test_a_noisy_layer_that_the_rules_alone_put_into_int8_stays_in_float(model):
    given = table(model, {"node_c2": KernelCost(10.0, 20.0), "node_c4": KernelCost(10.0, 20.0)})
    chosen = choose_by_cost(model, quantized(model), given, FREE, noisy={"node_c1": "too loud"})
    assert select_layers(model, RULES, slow=chosen.in_float).quantized == {"node_c3"}


ATTENTION = """g (float[1,8,16] x) => (float[1,8,16] y) {
    q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) kt = Transpose<perm=[0,2,1]>(k)
    logits = MatMul(q, kt) w = Softmax<axis=-1>(logits) context = MatMul(w, v) y = MatMul(context, wo) }"""


@pytest.mark.parametrize(("second", "in_int8"), [(20.0, True), (70.0, False)])
def test_both_products_of_an_attention_are_one_layer(second: float, in_int8: bool) -> None:
    """The first gains 40 us. If the second loses more than that, neither runs in INT8."""
    model = nets.graph(
        ATTENTION, {name: nets.normal(seed, 16, 16) for seed, name in enumerate(("wq", "wk", "wv", "wo"))}
    )
    infer_shapes(model)
    rules = for_isa(get_target("x86-openvino"), "vnni").rules
    chosen = select_layers(model, rules, vit_plan="fast").quantized
    known = kernels_of(model, chosen)
    kernels = {str(node.outputs[0].name): known[node.name] for node in model.graph if node.name in known}
    assert (str(kernels["logits"]), str(kernels["context"])) == (
        "Gemm 16>8 8x1 k1x1 s1x1 d1 g1", "Gemm 8>16 8x1 k1x1 s1x1 d1 g1",
    )  # fmt: skip
    rows = {
        kernels["q"]: KernelCost(9, 3),
        kernels["logits"]: KernelCost(60, 20),
        kernels["context"]: KernelCost(25, second),
    }
    found = choose_by_cost(model, chosen, KernelTable("openvino", "1", "a CPU", (), 1, "measured", rows), rules)
    products = {str(node.name) for node in model.graph if node.outputs[0].name in ("logits", "context")}
    left = {
        each.name
        for each in select_layers(model, rules, vit_plan="fast", slow=found.in_float).decisions
        if each.is_float
    }
    assert (products <= left, products.isdisjoint(left)) == (not in_int8, in_int8)
    assert found.predicted_us == pytest.approx(4 * 3 + (20 + second if in_int8 else 60 + 25))
