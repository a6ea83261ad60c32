"""The exact front of the additive model, against all files of small problems and the minimum cut of the cost plan."""

from __future__ import annotations

import ctypes
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.exporting.costs.cheapest import Conversion, LayerCost, cheapest, total_us
from edgeq.tuning.candidate import FLOAT, INT8, W4A8
from edgeq.tuning.front import Cost, Link, Option, Problem, Solver, pareto

NUMBERS = st.integers(0, 40).map(float)


@st.composite
def problems(draw) -> Problem:
    """Up to five groups of one to three precisions, and tensors between them."""
    names = "abcde"[: draw(st.integers(1, 5))]
    groups = {}
    for name in names:
        options = {FLOAT: Option(0.0, draw(NUMBERS), draw(NUMBERS))}
        for precision in (INT8, W4A8)[: draw(st.integers(0, 2))]:
            options[precision] = Option(draw(NUMBERS), draw(NUMBERS), draw(NUMBERS))
        groups[name] = options
    links = [
        Link(draw(st.sampled_from(names)), tuple(draw(st.sets(st.sampled_from(names), min_size=1))), draw(NUMBERS),
             draw(NUMBERS))
        for _ in range(draw(st.integers(0, 3)))
    ]  # fmt: skip
    return Problem(groups, tuple(links))


def all_files(problem: Problem):
    for chosen in itertools.product(*(options for options in problem.groups.values())):
        yield dict(zip(problem.groups, chosen, strict=True))


@settings(max_examples=60, deadline=None)
@given(problems(), st.integers(0, 120), st.integers(0, 120))
def test_no_file_within_the_limits_leaves_less_noise(problem, time_us, size_bytes):
    limits: dict[Cost, float] = {"time_us": float(time_us), "size_bytes": float(size_bytes)}
    fitting = [
        problem.total("noise", file) for file in all_files(problem)
        if all(problem.total(cost, file) <= most for cost, most in limits.items())
    ]  # fmt: skip
    found = Solver(problem).least("noise", limits)
    if not fitting:
        assert found is None
        return
    assert found is not None
    assert problem.total("noise", found) == pytest.approx(min(fitting))
    assert all(problem.total(cost, found) <= most * (1 + 1e-5) for cost, most in limits.items())


@settings(max_examples=30, deadline=None)
@given(problems(), st.sampled_from(["time_us", "size_bytes"]))
def test_every_file_of_the_front_is_on_the_front_of_all_files(problem, cost):
    every = [(problem.total(cost, file), problem.total("noise", file)) for file in all_files(problem)]
    best = {every[index] for index in pareto(every)}
    found = [(problem.total(cost, each), problem.total("noise", each))
             for each in Solver(problem).front(cost, {}, 5)]  # fmt: skip
    for amount, noise in found:
        assert not any(other[0] <= amount + 1e-6 and other[1] < noise - 1e-3 for other in best)
    assert min(amount for amount, _ in found) == pytest.approx(min(amount for amount, _ in every))
    assert min(noise for _, noise in found) == pytest.approx(min(noise for _, noise in every))


@settings(max_examples=30, deadline=None)
@given(problems())
def test_the_least_time_is_that_of_the_minimum_cut(problem):
    layers = {
        name: LayerCost(options[FLOAT].time_us, options[INT8].time_us if INT8 in options else math.inf)
        for name, options in problem.groups.items()
    }
    links = [Conversion(each.writer, each.readers, each.quantize_us, each.dequantize_us) for each in problem.links]
    two = Problem(
        {name: {key: each for key, each in options.items() if key != W4A8} for name, options in problem.groups.items()},
        problem.links,
    )
    found = Solver(two).least("time_us", {})
    assert found is not None
    assert two.total("time_us", found) == pytest.approx(total_us(layers, links, cheapest(layers, links)))


def test_the_solver_prints_nothing(capfd):
    rng = np.random.default_rng(2)
    groups = {}
    for number in range(30):
        weights, time_us, noise = 10 ** rng.uniform(2, 4.6), rng.uniform(1, 30), 10 ** rng.uniform(-3, -1)
        groups[f"{number}"] = {
            FLOAT: Option(0.0, time_us, 4 * weights),
            INT8: Option(noise, time_us / 2.5, weights + 400),
            W4A8: Option(noise * rng.uniform(3, 60), time_us / 2.5, weights / 2 + 460),
        }
    limit = 0.2 * sum(options[FLOAT].size_bytes for options in groups.values())
    assert list(Solver(Problem(groups)).front("size_bytes", {"size_bytes": limit}, 5))
    ctypes.CDLL(None).fflush(None)
    assert capfd.readouterr().out == ""


def test_what_another_one_dominates_is_not_on_the_front_and_of_equal_ones_the_first_is():
    assert pareto([(1, 5), (2, 2), (2, 3), (3, 2), (2, 2), (5, 1)]) == [0, 1, 5]
