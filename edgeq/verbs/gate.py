"""`edgeq gate`: results against limits, for CI; every figure with what so few images or rounds can prove."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from edgeq.errors import InputError
from edgeq.reporting.comparison import FEW, Comparison, Drop, compare
from edgeq.reporting.latency import ratio_interval
from edgeq.results.rows import Row
from edgeq.results.serialization import RESULTS_VERSION, to_json
from edgeq.tasks.resampling import CONFIDENCE, RESAMPLES

PASSED, NOT_PROVED, FAILED, NOT_MEASURED = "passed", "not proved", "failed", "not measured"

# The number that the limit `small` is about.
_SMALL = "AP_small"
_LIMITS = ("max_drop", "per_class", "small", "latency_ratio")
_NAMED = 5


@dataclass(frozen=True)
class Limits:
    """What is allowed; `None` is not checked.

    Attributes:
        max_drop: Points by which the main score (AP, top-1, or an embedding's cosine from 1) may be below FP32; an
            error, above it.
        per_class: Points by which the AP or top-1 of any class may be, classes of fewer than `few` left out.
        small: Points by which the AP of small boxes may be.
        latency_ratio: Maximum latency as a multiple of FP32's.
        few: Boxes (images, for a classifier) from which a class is judged.
        strict: Whether what is within its limit, but whose interval reaches past it, fails.
    """

    max_drop: float | None = None
    per_class: float | None = None
    small: float | None = None
    latency_ratio: float | None = None
    few: int = FEW
    strict: bool = False

    def __post_init__(self) -> None:
        for name in _LIMITS:
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise InputError(f"`{name}` {value}: wanted a finite number")


@dataclass(frozen=True)
class Verdict:
    """One limit for one artifact in one engine.

    Attributes:
        artifact: File name.
        runtime: Runtime.
        engine: Engine with its version.
        device: Device.
        limit: Name of the limit, as on the command line.
        allowed: Its value.
        figure: What was measured: points below FP32, or the time over FP32's; `None` where nothing was.
        low: Lower end of the 95 % interval of the figure; `None` without one.
        high: Its upper end.
        verdict: `passed`, `not proved` (within the limit, the interval reaches past it or there is none), `failed`, or
            `not measured`: not at all, or on other data than FP32.
        note: What else there is to say: the worst class, what the interval is over, why there is none.
        not_judged: Classes that are too rare to be judged, with how often they occur.
    """

    artifact: str
    runtime: str
    engine: str
    device: str
    limit: str
    allowed: float
    figure: float | None
    low: float | None
    high: float | None
    verdict: str
    note: str
    not_judged: tuple[str, ...] = ()


@dataclass(frozen=True)
class GateResult:
    """Verdicts on all artifacts that are no reference.

    Attributes:
        limits: What was asked.
        verdicts: One for each artifact and limit that applies to its task.
    """

    limits: Limits
    verdicts: tuple[Verdict, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing failed, and everything was measured and, where `strict`, proved."""
        bad = {FAILED, NOT_MEASURED, *({NOT_PROVED} if self.limits.strict else ())}
        return not any(each.verdict in bad for each in self.verdicts)

    def to_json(self) -> dict[str, Any]:
        """Returns `passed`, `limits` and `verdicts`, with how the intervals were made."""
        return {
            "results_version": RESULTS_VERSION,
            "passed": self.passed,
            "limits": to_json(self.limits),
            "interval": f"paired percentile bootstrap over images, {RESAMPLES} draws, {CONFIDENCE:.0%}",
            "verdicts": to_json(self.verdicts),
        }


def check_limits(rows: Sequence[Row], limits: Limits) -> GateResult:
    """Returns how results do against limits.

    The reference of a row is FP32 of the same model in the same runtime on the same device. A figure beyond its limit
    fails. One within it, whose interval reaches past the limit, is `not proved`: so few images may hide a loss. What
    was not measured does not pass.

    Raises:
        InputError: no limit is given, there is nothing but FP32, or predictions are damaged.
    """
    if all(getattr(limits, name) is None for name in _LIMITS):
        raise InputError("no limit to check; give at least one of `max_drop`, `per_class`, `small` and `latency_ratio`")
    compared = [each for each in compare(rows) if not each.row.is_float]
    if not compared:
        named = ", ".join(sorted({row.artifact for row in rows})) or "files that were compiled alone"
        raise InputError(
            f"nothing to judge among {named}; wanted results of a file that is not FP32, together with those of FP32"
        )
    return GateResult(limits, tuple(verdict for each in compared for verdict in _verdicts(each, limits)))


def _verdicts(comparison: Comparison, limits: Limits) -> Iterator[Verdict]:
    if limits.max_drop is not None:
        yield _judge_drop(
            comparison, "max-drop", limits.max_drop, comparison.main, "edgeq eval has not scored both it and FP32"
        )
    # A limit that the scores of a task cannot exceed does not apply; of a row that was not scored nobody knows.
    score = comparison.row.score
    if limits.per_class is not None and (score is None or score.class_titles):
        yield _judge_classes(comparison, limits.per_class, limits.few)
    if limits.small is not None and (score is None or _SMALL in score.parts):
        small = next((drop for drop in comparison.parts if drop.name == _SMALL), None)
        yield _judge_drop(
            comparison, "small", limits.small, small, "edgeq eval has no AP of small boxes of both it and FP32"
        )
    if limits.latency_ratio is not None:
        yield _judge_latency(comparison, limits.latency_ratio)


def _judge_drop(comparison: Comparison, limit: str, allowed: float, drop: Drop | None, missing: str) -> Verdict:
    if comparison.unlike is not None:
        return _verdict(comparison, limit, allowed, None, None, None, comparison.unlike)
    if drop is None:
        return _verdict(comparison, limit, allowed, None, None, None, f"{missing} in {_where(comparison.row)}")
    counted = f"{drop.name} {drop.value:.4f}, FP32 {drop.reference:.4f}, {drop.support} images"
    note = counted if drop.high is not None else f"{counted}; no interval: {comparison.without_interval}"
    return _verdict(comparison, limit, allowed, drop.points, drop.low, drop.high, note)


def _judge_classes(comparison: Comparison, allowed: float, few: int) -> Verdict:
    if comparison.unlike_classes is not None:
        return _verdict(comparison, "per-class", allowed, None, None, None, comparison.unlike_classes)
    drops = comparison.classes
    judged = [drop for drop in drops if drop.support is None or drop.support >= few]
    score = comparison.row.score
    counted = "boxes" if score is None else score.class_titles[0]
    rare = tuple(f"{drop.name} ({drop.support})" for drop in drops if drop not in judged)
    named = ", ".join(rare[:_NAMED]) + (", ..." if len(rare) > _NAMED else "")
    left_out = (
        f"; {len(rare)} of {len(drops)} classes have fewer than {few} {counted}, not judged: {named}" if rare else ""
    )
    if not judged:
        note = f"no class of {few} {counted} or more with FP32 in {_where(comparison.row)}{left_out}"
        return dataclasses.replace(_verdict(comparison, "per-class", allowed, None, None, None, note), not_judged=rare)
    worst = judged[0]
    # The interval is that of the class that lost most; the one that could have lost most may be another.
    doubtful = max(judged, key=lambda drop: drop.points if drop.high is None else drop.high)
    note = f"{worst.name} lost most, {worst.support} {counted}"
    if doubtful is not worst and doubtful.high is not None and doubtful.high > allowed:
        note += f"; {doubtful.name} may have lost {doubtful.high:.2f}"
    verdict = _verdict(comparison, "per-class", allowed, worst.points, worst.low, worst.high, note + left_out)
    verdict = dataclasses.replace(verdict, not_judged=rare)
    if verdict.verdict == PASSED and doubtful.high is not None and doubtful.high > allowed:
        return dataclasses.replace(verdict, verdict=NOT_PROVED)
    return verdict


def _judge_latency(comparison: Comparison, allowed: float) -> Verdict:
    row = comparison.row
    ratio = None if row.timing is None else row.timing.ratio_to_fp32
    if ratio is None:
        note = f"edgeq bench has not timed it in turns with FP32 in {_where(row)}"
        return _verdict(comparison, "latency-ratio", allowed, None, None, None, note)
    found = ratio_interval(comparison)
    unstable = "; the run was not stable" if row.drifted else ""
    if found is None:
        note = f"no interval: FP32 of the same run is not among the results{unstable}"
        return _verdict(comparison, "latency-ratio", allowed, ratio, None, None, note)
    note = f"{found.rounds} rounds in turns{unstable}"
    return _verdict(comparison, "latency-ratio", allowed, ratio, found.low, found.high, note)


def _verdict(
    comparison: Comparison,
    limit: str,
    allowed: float,
    figure: float | None,
    low: float | None,
    high: float | None,
    note: str,
) -> Verdict:
    row = comparison.row
    if figure is None:
        verdict = NOT_MEASURED
    elif figure > allowed:
        verdict = FAILED
    else:
        verdict = PASSED if high is not None and high <= allowed else NOT_PROVED
    return Verdict(
        *(row.artifact, row.runtime, row.engine, row.device, limit, allowed, figure, low, high, verdict, note)
    )


def _where(row: Row) -> str:
    return f"{row.runtime} on {row.device}"
