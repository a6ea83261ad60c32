"""Which of the files that a search tried is taken, and how far from a budget the nearest is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgeq.errors import InputError
from edgeq.measurement.speed_check import WIDEST
from edgeq.results.tuning import TunedLatency
from edgeq.tuning.scoring import ScoringOptions
from edgeq.tuning.search_budget import UNLIMITED, Budget, Limit
from edgeq.tuning.search_halving import NEVER, Contender, Deadline
from edgeq.tuning.search_latency import UNKNOWN, Usage


@dataclass(frozen=True)
class SearchOptions(ScoringOptions):
    """How the best file is looked for.

    Attributes:
        budget: What it may cost.
        unproved: Whether a loss counts as within the budget by its estimate alone, and not by its 95 % interval.
        deadline: When to end.
    """

    budget: Budget = UNLIMITED
    unproved: bool = False
    deadline: Deadline = NEVER

    def check_images(self, available: int) -> None:
        """Checks that there are enough images for the budget, before any long work.

        Args:
            available: Images of the data set.

        Raises:
            InputError: there are too few to prove so small a loss; the message says how many it takes.
        """
        budget, images = self.budget, min(available, self.images or available)
        if self.unproved or budget.max_drop is None or images >= budget.images_needed:
            return
        least = 100 * 3.0 / images
        raise InputError(
            f"`max_drop` {budget.max_drop:g}: {images} images cannot prove so small a loss, their interval reaches "
            f"{least:.2g} points even if nothing changes; it takes {budget.images_needed} images, `max_drop` "
            f"{least * 1.01:.2g}, or `unproved` to go by the estimate"
        )


@dataclass(frozen=True)
class Tried:
    """A file with all that is known of it.

    Attributes:
        contender: How it did.
        latency: What it takes.
        score: Its score on the images that it was scored on; `None` without any.
        usage: The memory and the energy that it takes, as far as they were measured.
    """

    contender: Contender
    latency: TunedLatency
    score: float | None
    usage: Usage = UNKNOWN

    @property
    def points(self) -> float:
        """Points lost."""
        return self.contender.points

    @property
    def most_points(self) -> float:
        """The upper end of the interval of the points lost; 0 for FP32."""
        change = self.contender.change
        return change.high if change is not None else self.points


def recommend(tried: list[Tried], options: SearchOptions, *, done: bool = True) -> Tried:
    """Returns the file to take.

    With a limit on the loss it is the fastest within the budget, otherwise the one that loses least. A file that is
    not certainly faster than FP32 counts as as fast; files whose times cannot be told apart go by the expected ones.

    Args:
        tried: All files, FP32 first.
        options: The budget, and how files are scored.
        done: Whether the search was done before its time was over.

    Raises:
        InputError: no file is within the budget; the message says which is the nearest.
    """
    budget, plain = options.budget, tried[0]
    within = [each for each in tried if _is_within(each, plain, options)]
    if not within:
        left = [each for each in tried if each.score is not None and not each.contender.dropped]
        nearest = min(left, key=lambda each: _excess(each, plain, budget))
        change = nearest.contender.change
        lost = f"{change.points:+.2f} points ({change.low:+.2f} to {change.high:+.2f})" if change else "no points"
        raise InputError(
            f"no file keeps the budget ({budget}); the nearest is {nearest.contender.name}: it loses {lost}, "
            f"takes {_costs(nearest)}; {_more(done=done)}"
        )
    if budget.max_drop is not None:
        return _fastest(within, options)
    return min(within, key=lambda each: (max(each.points, 0.0), each.contender.noise, each.latency.ratio))


def _more(*, done: bool) -> str:
    """Returns what would find a file for a budget that none keeps."""
    if done:
        return "allow that, or score on more images"
    return "the time was over before all files were scored, and what is done is kept: run it again with more time"


def worth_learning(tried: Sequence[Tried], options: SearchOptions) -> Tried | None:
    """Returns the file whose rounding is learned; `None` if none is within the limits, the loss not counted.

    With a limit on the loss it is the fastest of them, whatever it loses without learning; otherwise the one that loses
    least.
    """
    plain, budget = tried[0], options.budget
    within = [
        each for each in tried[1:]
        if each.score is not None
        and all(limit.keeps(ratio, value) for limit, ratio, value in _amounts(each, plain, budget))
    ]  # fmt: skip
    if not within:
        return None
    return min(within, key=lambda each: each.points) if budget.max_drop is None else _fastest(within, options)


@dataclass(frozen=True)
class _Speed:
    """A file's time over FP32's, as files are compared by it.

    Attributes:
        low: The least that it may be.
        ratio: What it is.
        high: The most that it may be.
        expected: What the costs of its layers say.
    """

    low: float
    ratio: float
    high: float
    expected: float


def _speed(tried: Tried, options: SearchOptions) -> _Speed:
    """Returns a file's time; where only time is wanted, FP32's if it is not certainly less.

    If the interval is so wide that it says nothing, the expected time counts: the machine was too busy.
    """
    latency, expected = tried.latency, tried.contender.ratio
    if latency.low is None or latency.high is None:
        return _Speed(latency.ratio, latency.ratio, latency.ratio, expected)
    budget = options.budget
    if latency.high < 1 or any(each is not None for each in (budget.size, budget.memory, budget.energy)):
        return _Speed(latency.low, latency.ratio, latency.high, expected)
    if latency.low <= 1 and latency.high - latency.low > WIDEST * latency.ratio:
        return _Speed(latency.low, expected, latency.high, expected)
    return _Speed(1.0, 1.0, 1.0, 1.0)


def _fastest(within: Sequence[Tried], options: SearchOptions) -> Tried:
    """Returns the fastest of some files; those whose intervals overlap are told apart by their expected times."""
    speeds = [_speed(each, options) for each in within]
    best = min(speeds, key=lambda each: each.ratio)
    alike = [each for each, speed in zip(within, speeds, strict=True) if speed.low <= best.high]
    return min(alike, key=lambda each: (_speed(each, options).expected, max(each.points, 0.0), each.contender.noise))


def nearly_proved(tried: list[Tried], chosen: Tried, options: SearchOptions) -> tuple[Tried, int] | None:
    """Returns the fastest file that so few images do not prove, and about how many would; `None` if there is none.

    Its loss is within the budget by the estimate and its interval reaches past it; intervals shrink with the square
    root of the number of images.
    """
    budget, plain = options.budget, tried[0]
    if budget.max_drop is None or options.unproved:
        return None
    by_estimate = replace(options, unproved=True)
    faster = [
        each for each in tried
        if _is_within(each, plain, by_estimate) and not is_proved(each, budget)
        and _speed(each, options).ratio < _speed(chosen, options).ratio and each.points < budget.max_drop
    ]  # fmt: skip
    if not faster:
        return None
    best = min(faster, key=lambda each: _speed(each, options).ratio)
    change = best.contender.change
    assert change is not None  # noqa: S101 - it is not proved, so it has an interval
    wanted = change.images * ((change.high - change.points) / (budget.max_drop - change.points)) ** 2
    return best, math.ceil(wanted)


def is_proved(tried: Tried, budget: Budget) -> bool:
    """Returns whether the interval of what a file loses lies within the budget."""
    return budget.max_drop is None or tried.most_points <= budget.max_drop


def _is_within(tried: Tried, plain: Tried, options: SearchOptions) -> bool:
    budget = options.budget
    if tried.score is None or tried.contender.dropped:
        return False
    points = tried.points if options.unproved else tried.most_points
    kept = all(limit.keeps(ratio, value) for limit, ratio, value in _amounts(tried, plain, budget))
    return kept and (budget.max_drop is None or points <= budget.max_drop)


def _amounts(tried: Tried, plain: Tried, budget: Budget) -> list[tuple[Limit, float | None, float | None]]:
    """Returns the limits of a budget but that of the loss, each with a file's amount over FP32's and in its unit."""
    size, usage, reference = tried.contender.artifact.size_bytes, tried.usage, plain.usage
    found = [
        (budget.latency, tried.latency.ratio, tried.latency.p50_ms),
        (budget.size, size / plain.contender.artifact.size_bytes, float(size)),
        (budget.memory, *usage.amount("memory", reference)),
        (budget.energy, *usage.amount("energy", reference)),
    ]
    return [(limit, ratio, value) for limit, ratio, value in found if limit is not None]


def _excess(tried: Tried, plain: Tried, budget: Budget) -> float:
    """Returns how far a file is from the budget: the sum of what it takes too much, each as a share of its limit."""
    found = 0.0 if budget.max_drop is None else max(tried.points / budget.max_drop - 1, 0)
    for limit, ratio, value in _amounts(tried, plain, budget):
        own = ratio if limit.is_ratio else value
        found += 10.0 if own is None else max(own / limit.value - 1, 0)
    return found


def _costs(tried: Tried) -> str:
    """Returns what a file takes, in words."""
    latency, usage = tried.latency, tried.usage
    ms = "" if latency.p50_ms is None else f" ({latency.p50_ms:.3g} ms)"
    parts = [
        f"{latency.ratio:.2f}x of FP32's time{ms}",
        f"{tried.contender.artifact.size_bytes / 1e6:.3g} MB",
        *([] if usage.memory_bytes is None else [f"{usage.memory_bytes / 1e6:.4g} MB of memory"]),
        *([] if usage.j_per_image is None else [f"{usage.j_per_image:.3g} J per image"]),
    ]
    return f"{', '.join(parts[:-1])} and {parts[-1]}"
