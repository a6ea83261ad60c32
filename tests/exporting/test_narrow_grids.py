"""Grids of tensors whose pair stands behind what moves them: as wide as what they come from."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.exporting.planning.plan import QuantPlan, make_plan
from edgeq.exporting.planning.selection import select_layers
from edgeq.targets import get_target
from tests.exporting import nets
from tests.exporting.test_qdq import ranges_for

# Half of the channels go through a layer and are joined with all, as in ShuffleNet; the layer makes them larger.
SHUFFLED = """g (float[1,4,8,8] x) => (float[1,2,8,8] y) {
    a = Conv<pads=[1,1,1,1]>(x, wa) ra = Relu(a) part = Gather<axis=1>(ra, first)
    b = Conv<pads=[1,1,1,1]>(part, wb) rb = Relu(b) j = Concat<axis=1>(ra, rb) mixed = Gather<axis=1>(j, odd)
    c = Conv<pads=[1,1,1,1]>(mixed, wc) rc = Relu(c) %BEHIND% y = Conv(rd, hm) }"""
PLAIN = "rd = Relu(rc)"
MOVED_ON = "k = Concat<axis=1>(part, rc) d = Conv(k, wd) rd = Relu(d)"
WEIGHTS = {
    "wa": nets.normal(1, 8, 4, 3, 3) / 6, "wb": nets.normal(2, 8, 4, 3, 3), "wc": nets.normal(3, 8, 8, 3, 3) / 9,
    "wd": nets.normal(4, 8, 12, 1, 1), "hm": nets.normal(5, 2, 8, 1, 1), "first": np.arange(4),
    "odd": np.arange(1, 16, 2),
}  # fmt: skip
X = nets.normal(9, 1, 4, 8, 8)


def planned(target: str, behind: str = PLAIN, unknown: str = "") -> tuple[QuantPlan, dict[str, float]]:
    """Returns the plan, and the largest magnitude of each tensor that a range is known of."""
    weights = WEIGHTS if "wd" in behind else {name: array for name, array in WEIGHTS.items() if name != "wd"}
    model, rules = nets.graph(SHUFFLED.replace("%BEHIND%", behind), weights), get_target(target).rules
    selection = select_layers(model, rules)
    ranges = ranges_for(model, X, tuple(name for name in selection.tensors if name != unknown))
    return make_plan(model, selection, ranges, rules), {name: each.threshold for name, each in ranges.tensors.items()}


@pytest.mark.parametrize("target", ["jetson-orin", "jetson-orin-trt11", "rtx"])
def test_a_grid_holds_what_comes_from_upstream(target: str) -> None:
    plan, largest = planned(target)
    assert largest["rb"] > 2 * largest["ra"]
    assert plan.tensors["part"].scale == pytest.approx(largest["ra"] / 127)
    assert plan.tensors["mixed"].scale == pytest.approx(largest["rb"] / 127)


def test_engines_that_move_integers_have_one_grid() -> None:
    plan, _ = planned("x86")
    grids = {**plan.tensors, **plan.tied}
    assert grids["ra"] == grids["rb"] == grids["mixed"]


def test_what_is_moved_on_is_rounded_on_one_grid() -> None:
    plan, _ = planned("jetson-orin", MOVED_ON)
    assert plan.tensors["part"] == plan.tensors["k"]


def test_a_grid_stays_where_something_upstream_has_no_range() -> None:
    plan, largest = planned("jetson-orin", unknown="ra")
    assert "ra" not in largest and plan.tensors["part"] == plan.tensors["mixed"]
