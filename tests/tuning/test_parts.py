"""Groups of layers, stages of images, and what an interval says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeq.exporting.graphs.transformer import Role, Transformer
from edgeq.exporting.planning.decision import LayerDecision
from edgeq.exporting.planning.selection import Selection
from edgeq.results.evaluation import Score, ScoreColumn
from edgeq.schemes import FLOAT, INT8_ASYMMETRIC, LayerScheme
from edgeq.tasks.prediction_records import PredictionRecords
from edgeq.tasks.resampling import mean_over_draws
from edgeq.tuning.groups import find_groups
from edgeq.tuning.paired import score_change
from edgeq.tuning.screening import Noise
from edgeq.tuning.staged import FIRST, draw_stages

INT8 = LayerScheme(INT8_ASYMMETRIC, INT8_ASYMMETRIC, INT8_ASYMMETRIC)


def selection(*names: str, roles: Mapping[str, Role] | None = None, in_float: tuple[str, ...] = ()) -> Selection:
    """Returns the selection of nodes; those called `add...` are sums."""
    decisions = tuple(
        LayerDecision(name, "Add" if "add" in name else "Conv", FLOAT if name in in_float else INT8, "")
        for name in names
    )
    return Selection(decisions, (), Transformer(len(roles or ()), roles or {}, ()))


def named(found, by):
    return {group.name: group.layers for group in find_groups(found, by)}


def test_a_sum_belongs_to_the_layer_before_it_and_what_is_float_to_none():
    found = selection("a", "b", "add1", "c", "d", in_float=("c",))
    assert named(found, "layer") == {"a": ("a",), "b": ("b", "add1"), "d": ("d",)}


def test_blocks_are_the_modules_that_names_tell():
    found = selection("/stem/Conv", "/l1/l1.0/c1/Conv", "/l1/l1.0/c2/Conv", "/l1/l1.1/c1/Conv", "/l1/l1.1/c2/Conv")
    assert list(named(found, "block").values()) == [
        ("/stem/Conv",), ("/l1/l1.0/c1/Conv", "/l1/l1.0/c2/Conv"), ("/l1/l1.1/c1/Conv", "/l1/l1.1/c2/Conv")
    ]  # fmt: skip


def test_blocks_end_with_the_sum_of_a_residual_where_names_tell_nothing():
    found = selection("stem", "a", "b", "add1", "c", "d", "add2", "head")
    assert named(found, "block") == {
        "stem": ("stem", "a", "b", "add1"), "c": ("c", "d", "add2"), "head": ("head",)
    }  # fmt: skip


def test_layers_of_a_transformer_are_called_by_block_and_part():
    parts = {"q": "q", "mul1": "logits", "mul2": "context", "fc1": "fc1"}
    roles = {name: Role(0, part) for name, part in parts.items()} | {"q2": Role(1, "q")}
    found = selection("stem", *parts, "q2", roles=roles)
    assert list(named(found, "layer")) == ["stem", "vit.0.q", "vit.0.attention", "vit.0.fc1", "vit.1.q"]
    assert named(found, "layer")["vit.0.attention"] == ("mul1", "mul2")
    assert named(found, "block")["vit.0"] == tuple(parts)


@given(st.integers(1, 700), st.integers(1, 800), st.integers(0, 5))
def test_stages_hold_every_image_once_and_double(available, most, seed):
    stages = draw_stages(available, most, seed)
    drawn = [number for stage in stages for number in stage]
    assert len(drawn) == len(set(drawn)) == min(available, most)
    assert set(drawn) <= set(range(available))
    assert stages == draw_stages(available, most, seed)
    sizes = np.cumsum([len(stage) for stage in stages])
    assert all(size == FIRST * 2**number for number, size in enumerate(sizes[:-1]))
    assert sizes[-1] <= FIRST * 2 ** (len(sizes) - 1)


def test_the_first_stage_is_no_run_of_neighbours():
    first, *_ = draw_stages(1000, None, 0)
    assert max(first) - min(first) > 500
    assert draw_stages(1000, None, 1)[0] != first


@dataclass(frozen=True, kw_only=True)
class ErrorScore(Score):
    """A mean error per image."""

    task = "errors"
    main = "error"
    lower_is_better = True
    figures = "errors"
    columns = (ScoreColumn("error", "error"),)
    error: float | None


@dataclass(frozen=True, kw_only=True)
class RightScore(ErrorScore):
    """A share of right images."""

    lower_is_better = False


@dataclass(frozen=True, eq=False)
class Records(PredictionRecords):
    """One value per image."""

    task = "errors"
    arrays: ClassVar[Mapping[str, tuple[str, str]]] = {"values": ("float64", "N")}
    images: tuple[str, ...]
    values: NDArray[np.float64]

    def resampled(self, name: str) -> NDArray[np.float64]:
        return mean_over_draws(self.values)


def records(values) -> Records:
    array = np.asarray(values, np.float64)
    return Records(tuple(map(str, range(len(array)))), array)


def test_a_change_has_the_interval_of_a_bootstrap_over_its_images():
    rng = np.random.default_rng(2)
    before = rng.random(400) < 0.9
    behind = before & (rng.random(400) < 0.95)
    change, verdict = score_change(records(before), records(behind), RightScore, 1.0)
    lost = 100.0 * (before.astype(float) - behind)
    assert change.points == pytest.approx(lost.mean())
    means = rng.choice(lost, (4_000, 400)).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    assert (change.low, change.high) == pytest.approx((low, high), abs=0.4)
    assert change.images == 400
    assert verdict == "matters"


def test_gain_and_loss_are_each_others_negative_and_an_error_grows():
    rng = np.random.default_rng(3)
    one, other = records(rng.random(50)), records(rng.random(50))
    there, _ = score_change(one, other, RightScore, 1.0)
    back, _ = score_change(other, one, RightScore, 1.0)
    assert (there.points, there.low, there.high) == pytest.approx((-back.points, -back.high, -back.low))
    error, _ = score_change(one, other, ErrorScore, 1.0)
    assert error.points == pytest.approx(-there.points)


@pytest.mark.parametrize(("images", "verdict"), [(32, "open"), (600, "open"), (601, "harmless")])
def test_without_any_change_the_rule_of_three_says_how_many_images_it_takes(images, verdict):
    same = records(np.ones(images))
    change, found = score_change(same, same, RightScore, 0.5)
    assert change.points == 0
    assert change.high == -change.low == pytest.approx(300 / images)
    assert found == verdict


def test_what_no_draw_has_shown_is_not_taken_for_impossible():
    """Two of 32 images gain and none loses: one in eleven may lose."""
    before, behind = np.zeros(32), np.zeros(32)
    behind[:2] = 1
    gained, verdict = score_change(records(before), records(behind), RightScore, 0.5)
    assert gained.high == pytest.approx(300 / 32)
    assert gained.low < gained.points == pytest.approx(-6.25)
    assert verdict == "open"
    lost, _ = score_change(records(behind), records(before), RightScore, 0.5)
    assert (lost.low, lost.high) == pytest.approx((-gained.high, -gained.low))


def test_a_decision_is_more_certain_than_the_interval_that_is_shown():
    # 95 % of the draws lose less than the limit, and not 99 %.
    before, behind = np.ones(200), np.ones(200)
    behind[:4] = 0
    change, _ = score_change(records(before), records(behind), RightScore, 1.0)
    _, verdict = score_change(records(before), records(behind), RightScore, change.high + 1e-9)
    assert verdict == "open"


def test_noise_is_compared_where_it_is_most():
    whole, own = Noise((0.1, 0.01), 10.0), Noise((0.01, 0.005), 20.0)
    assert own.share_of(whole) == pytest.approx(0.5)
    assert own.missing_in(whole) == pytest.approx(0.9)
    assert Noise((0.0, 0.0), 120.0).share_of(Noise((0.0, 0.0), 120.0)) == 0
