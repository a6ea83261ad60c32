"""The cheapest choice of INT8 layers, held against all choices."""

from __future__ import annotations

import itertools
import math

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings

from edgeq.exporting.costs.cheapest import Conversion, LayerCost, cheapest, total_us

TIMES = st.integers(0, 20).map(float)


@st.composite
def problems(draw):
    """Up to seven layers; each may read what any earlier ones write, as graphs that fork and join do."""
    names = [f"layer{index}" for index in range(draw(st.integers(1, 7)))]
    layers = {name: LayerCost(draw(TIMES), draw(st.one_of(TIMES, st.just(math.inf)))) for name in names}
    conversions = []
    for index, writer in enumerate(names[:-1]):
        readers = draw(st.sets(st.sampled_from(names[index + 1 :]), max_size=3))
        conversions.append(Conversion(writer, tuple(sorted(readers)), draw(TIMES), draw(TIMES)))
    return layers, conversions


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(problems())
def test_no_choice_is_cheaper_and_none_as_cheap_has_fewer_layers_in_int8(problem):
    layers, conversions = problem
    choices = [frozenset(some) for size in range(len(layers) + 1) for some in itertools.combinations(layers, size)]
    costs = {choice: total_us(layers, conversions, choice) for choice in choices}
    found, least = cheapest(layers, conversions), min(costs.values())
    assert costs[found] == least
    assert len(found) == min(len(choice) for choice, cost in costs.items() if cost == least)


def test_an_island_pays_only_if_it_is_long_enough():
    names = [f"conv{index}" for index in range(4)]
    layers = {"image": LayerCost(0.0), **{name: LayerCost(50.0, 30.0) for name in names}, "head": LayerCost(5.0)}
    line = list(layers)
    chain = [Conversion(one, (other,), 40.0, 30.0) for one, other in itertools.pairwise(line)]
    assert cheapest(layers, chain) == set(names)  # four times 20 saved, 70 paid once
    shorter = {name: layers[name] for name in line if name != "conv3"}  # three times 20 saved
    assert cheapest(shorter, [*chain[:3], Conversion("conv2", ("head",), 40.0, 30.0)]) == set()


def test_a_tensor_is_converted_once_for_all_its_readers():
    layers = {
        "stem": LayerCost(10.0),
        "left": LayerCost(20.0, 12.0),
        "right": LayerCost(20.0, 12.0),
    }
    assert cheapest(layers, [Conversion("stem", ("left", "right"), 15.0)]) == {"left", "right"}
    assert cheapest(layers, [Conversion("stem", ("left", "right"), 17.0)]) == set()


def test_of_equal_choices_the_one_in_float_is_taken():
    assert cheapest({"conv": LayerCost(10.0, 10.0)}, []) == set()
