"""Which candidates successive halving drops, and which file is taken of those that are left."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeq.errors import InputError
from edgeq.results.sensitivity import ScoreChange
from edgeq.results.tuning import TunedLatency
from edgeq.tuning.candidate import Candidate
from edgeq.tuning.journal import Trial
from edgeq.tuning.search_budget import Budget
from edgeq.tuning.search_choice import SearchOptions, Tried, is_proved, nearly_proved, recommend
from edgeq.tuning.search_halving import Contender, halve
from edgeq.tuning.search_latency import Usage
from tests.tuning.test_parts import Records, RightScore, records

SIZE = 1000


def contender(name: str, ratio: float, size: int = SIZE, *, pinned: bool = False) -> Contender:
    file: Any = SimpleNamespace(name=name, size_bytes=size)
    return Contender(name, Candidate(), Trial(name, name), file, 0.0, ratio, pinned)


class Scored:
    """Scoring of files whose share of right images is known, on 32, 32 and 64 images."""

    def __init__(self, right: dict[str, float]) -> None:
        rng = np.random.default_rng(4)
        draws = rng.random(128)
        self._right = {name: draws < share for name, share in right.items()}
        self.float_predictions = dict.fromkeys(range(128), True)
        self.images = self
        self.stages = [range(32), range(32, 64), range(64, 128)]
        self.task = SimpleNamespace(score_type=RightScore)
        self.journal = SimpleNamespace(add_predictions=lambda trial, found: None)
        self.predicted: list[tuple[str, int]] = []

    def known(self, trial: Trial, stage: int) -> None:
        return None

    def predict_many(self, work):
        for index, (file, stage) in enumerate(work):
            self.predicted.append((file.name, stage))
            yield index, {number: bool(self._right[file.name][number]) for number in self.stages[stage]}

    def records(self, predictions) -> Records:
        return records([float(predictions[number]) for number in sorted(predictions)])


def run(right: dict[str, float], contenders: list[Contender], max_drop: float | None) -> list[tuple[str, int]]:
    """Returns which file predicted which stage, in order."""
    scored = Scored(right)
    scoring: Any = scored
    assert halve(scoring, contenders, max_drop, SearchOptions().deadline)
    return scored.predicted


def test_who_certainly_loses_too_much_is_dropped_after_the_first_stage_unless_pinned():
    bad, pinned, good = contender("bad", 0.3), contender("pinned", 0.3, pinned=True), contender("good", 0.5)
    predicted = run({"bad": 0.4, "pinned": 0.4, "good": 1.0}, [bad, pinned, good], 5.0)
    assert "more than 5 points for certain" in bad.dropped
    assert bad.change is not None
    assert bad.change.images == 32
    assert not pinned.dropped
    assert not good.dropped
    assert predicted == [
        ("bad", 0), ("pinned", 0), ("good", 0), ("pinned", 1), ("good", 1), ("pinned", 2), ("good", 2)
    ]  # fmt: skip


def test_who_is_slower_and_certainly_worse_is_dropped_but_not_who_is_faster_or_smaller():
    best, slow = contender("best", 0.5), contender("slow", 0.6)
    fast, small = contender("fast", 0.4), contender("small", 0.6, SIZE - 1)
    run({"best": 1.0, "slow": 0.6, "fast": 0.6, "small": 0.6}, [best, slow, fast, small], None)
    assert "best is neither slower nor larger, and certainly loses less" in slow.dropped
    assert not any(each.dropped for each in (best, fast, small))


@pytest.mark.parametrize("less", [Usage(memory_bytes=80), Usage(memory_bytes=90, j_per_image=9.0, j_over_fp32=0.3)])
def test_who_takes_less_memory_or_energy_is_not_dropped_for_one_that_loses_less(less):
    best, other, more = contender("best", 0.5), contender("other", 0.6), contender("more", 0.6)
    best.usage = Usage(memory_bytes=90, j_per_image=1.0, j_over_fp32=0.5)
    other.usage, more.usage = less, Usage(memory_bytes=95, j_per_image=1.0, j_over_fp32=0.6)
    run({"best": 1.0, "other": 0.6, "more": 0.6}, [best, other, more], None)
    assert not other.dropped
    assert "certainly loses less" in more.dropped


def test_files_that_do_not_differ_yet_all_go_on():
    alike = [contender(name, 0.5 + number / 10) for number, name in enumerate("abcd")]
    run(dict.fromkeys("abcd", 1.0), alike, 5.0)
    assert not any(each.dropped for each in alike)


def tried(name: str, ratio: float, points: float, spread: float = 0.1, *, size: int = SIZE, high: float | None = None):
    found = contender(name, ratio, size)
    found.change = ScoreChange(points=points, low=points - spread, high=points + spread, images=100)
    latency = TunedLatency(
        ratio=ratio, low=ratio - 0.01, high=ratio + 0.01 if high is None else high, p50_ms=10 * ratio
    )
    return Tried(found, latency, 0.9)


FP32 = tried("fp32", 1.0, 0.0, 0.0, size=4 * SIZE)


def options(*budget: Any, unproved: bool = False) -> SearchOptions:
    return SearchOptions(budget=Budget.of(*budget), unproved=unproved)


def test_with_a_limit_on_the_loss_the_fastest_proved_file_is_taken():
    files = [FP32, tried("slow", 0.6, 0.1), tried("vague", 0.5, 0.25), tried("bad", 0.4, 0.9)]
    assert recommend(files, options(0.3, None, None)).contender.name == "slow"
    assert recommend(files, options(0.3, None, None, unproved=True)).contender.name == "vague"
    nearly = nearly_proved(files, files[1], options(0.3, None, None))
    assert nearly is not None
    assert nearly[0].contender.name == "vague"
    assert nearly[1] == pytest.approx(400, abs=1), "half as wide an interval takes four times as many images"
    assert nearly_proved(files, files[2], options(0.3, None, None, unproved=True)) is None


def test_a_file_that_is_not_certainly_faster_is_no_reason_to_leave_float():
    files = [FP32, tried("lucky", 0.97, 0.0, high=1.04)]
    assert recommend(files, options(0.3, None, None)).contender.name == "fp32"


def test_times_that_a_busy_machine_hides_give_way_to_the_expected_ones():
    hidden = tried("hidden", 0.97, 0.0, high=1.4)
    hidden.contender.ratio = 0.5
    assert recommend([FP32, hidden], options(0.3, None, None)).contender.name == "hidden"
    lucky, quick = tried("lucky", 0.6, 0.0, high=0.9), tried("quick", 0.7, 0.0)
    lucky.contender.ratio, quick.contender.ratio = 0.8, 0.5
    assert recommend([FP32, lucky, quick], options(0.3, None, None)).contender.name == "quick"


def test_without_a_limit_on_the_loss_the_file_that_loses_least_is_taken():
    files = [FP32, tried("a", 0.5, 0.4), tried("b", 0.3, 0.9), tried("c", 0.7, 0.1)]
    assert recommend(files, options(None, "6ms", None)).contender.name == "a"
    assert recommend(files, options(None, "0.4x", None)).contender.name == "b"
    assert recommend(files, options(None, None, "0.5x")).contender.name == "c"
    assert is_proved(files[2], Budget())


def test_a_budget_that_nothing_keeps_names_the_nearest_file():
    files = [FP32, tried("a", 0.5, 0.4), tried("b", 0.3, 0.9)]
    with pytest.raises(InputError, match=r"max_drop 0.3, latency 0.4x.*the nearest is a: it loses \+0.40 points") as no:
        recommend(files, options(0.3, "0.4x", None))
    assert "0.50x of FP32's time (5 ms)" in str(no.value)
    with pytest.raises(InputError, match=r"the nearest is a: .*the time was over .*: run it again with more time$"):
        recommend(files, options(0.3, "0.4x", None), done=False)


def using(file: Tried, megabytes: int | None, joules: float | None) -> Tried:
    usage = Usage(None if megabytes is None else megabytes * 10**6, joules, None if joules is None else joules / 0.4)
    return dataclasses.replace(file, usage=usage)


USING = [
    using(FP32, 120, 0.4), using(tried("a", 0.5, 0.1), 90, 0.2), using(tried("b", 0.4, 0.2), 70, 0.3),
    using(tried("unknown", 0.3, 0.1), None, None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("budget", "name"),
    [
        ((0.5, None, None, "100MB"), "b"),
        ((None, None, None, "100MB"), "a"),
        ((None, None, None, "0.6x"), "b"),
        ((0.5, None, None, None, "0.25J"), "a"),
        ((0.5, None, None, None, "0.75x"), "b"),
        ((0.5, "0.5x", None, "95MB", "250mJ"), "a"),
    ],
)
def test_memory_and_energy_are_limits_like_others_and_what_is_not_measured_keeps_none(budget, name):
    assert recommend(USING, options(*budget)).contender.name == name


def test_a_budget_of_memory_that_nothing_keeps_names_what_the_nearest_takes():
    with pytest.raises(InputError, match=r"memory 60MB.*the nearest is b: .*, 0.001 MB, 70 MB of memory and 0.3 J per"):
        recommend(USING, options(None, None, None, "60MB"))
