"""The table of graph passes: what each needs is there when it runs, and what it is said to leave holds."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.exporting.graphs.data_flow import constant_values
from edgeq.exporting.graphs.graph import opset_of
from edgeq.exporting.passes.order import (
    SIMPLIFYING,
    GraphPass,
    Property,
    for_engine,
    for_integers,
    for_loading,
    reading,
    run_passes,
)
from edgeq.targets import TARGETS, get_target
from tests.exporting import nets

OPSET = 18
FREE = """g (float[N,3,8,8] x) => (float[N,4,8,8] y, float16[N,4,8,8] h) {
    folded = Identity(w)
    a = Conv<pads=[1,1,1,1]>(x, folded)
    b = BatchNormalization(a, gamma, beta, mean, variance)
    y = Dropout(b)
    n = Cast<to=10>(y)
    h = Neg(n)
}"""
WEIGHTS = {
    "w": nets.normal(1, 4, 3, 3, 3),
    "gamma": np.full(4, 2, np.float32),
    "beta": np.ones(4, np.float32),
    "mean": np.zeros(4, np.float32),
    "variance": np.ones(4, np.float32),
}


def _is_static(model: ir.Model) -> bool:
    return all(value.shape is not None and value.shape.is_static() for value in model.graph.inputs)


def _is_clean(model: ir.Model) -> bool:
    names = [str(value.name) for node in model.graph for value in node.outputs]
    operators = {node.op_type for node in model.graph}
    return len(set(names)) == len(names) and not model.functions and not operators & {"Constant", "Identity", "Dropout"}


def _is_single(model: ir.Model) -> bool:
    others = {ir.DataType.FLOAT16, ir.DataType.DOUBLE}
    makers = {node.op_type for node in model.graph for value in node.outputs if value.dtype in others}
    return makers <= {"Cast"}


HOLDS: dict[Property, Callable[[ir.Model], bool]] = {
    "static": _is_static,
    "opset": lambda model: opset_of(model) == OPSET,
    "clean": _is_clean,
    "shapes": lambda model: all(value.shape is not None for node in model.graph for value in node.outputs),
    "float32": _is_single,
    "folded": lambda model: constant_values(model) == set(model.graph.initializers.values()),
    "batchnorm": lambda model: "BatchNormalization" not in {node.op_type for node in model.graph},
}


def _everything(size: tuple[int, int] | None, dynamic_batch: bool, target: str) -> list[GraphPass]:
    rules = get_target(target).rules
    read = reading(OPSET, size, dynamic_batch=dynamic_batch)
    stages = (read, SIMPLIFYING, for_engine(rules), for_integers(rules), for_loading(rules))
    return list(itertools.chain.from_iterable(stages))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("size", "dynamic_batch"), [(None, False), ((8, 8), True)])
def test_what_a_pass_needs_is_left_by_those_before(size, dynamic_batch, target):
    holding: set[Property] = set()
    for each in _everything(size, dynamic_batch, target):
        assert each.needs <= holding, each.name
        holding = (holding | each.leaves) - (each.undoes - each.leaves)


@pytest.mark.parametrize("opset", [15, 18, 19])
def test_what_a_pass_leaves_holds(opset):
    model = nets.parse(FREE, WEIGHTS, opset=opset)
    assert not _is_static(model)
    holding: set[Property] = set()
    for each in _everything(None, False, "x86"):
        each.run(model)
        holding = (holding | each.leaves) - (each.undoes - each.leaves)
        assert [name for name in holding if not HOLDS[name](model)] == [], each.name
        assert [(value.name, str(value.dtype)) for value in model.graph.outputs] == [("y", "FLOAT"), ("h", "FLOAT16")]
    assert holding == set(HOLDS)


def test_a_report_says_what_was_changed():
    reports = run_passes(nets.graph(FREE.replace("[N,", "[1,"), WEIGHTS), SIMPLIFYING)
    assert reports["fold_batchnorm"].changed
    assert [name for name, report in reports.items() if report.changed] == ["fold_batchnorm"]
