"""What a study recommends, in sentences with their evidence, and the command that exports a point."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeq.calibration.source import CalibrationSource
from edgeq.exporting.passes.packed_projection import whole_of
from edgeq.results.sensitivity import ScoreChange
from edgeq.results.study import StudyAdvice, StudyConfirmation, StudyInteraction, StudyPoint
from edgeq.sources.model import ModelRequest
from edgeq.studying.answers import single_parts, where
from edgeq.studying.layers import ENDS, StudyLayer
from edgeq.studying.run import TARGET, Outcome, StudyRun
from edgeq.studying.trials import StudyTrial
from edgeq.wording import counted

_GROUPS = (8, 16, 32, 64, 128, 256)
"""Groups that `edgeq export` writes."""

_ENDS_FROM = 4
"""Bits below which an export leaves the first and the last layers in float."""

_MOST_SENTENCES = 6
"""Comparisons of methods and of parts that are put into words, each."""


@dataclass(frozen=True)
class ExportSource:
    """What the command line of an export names.

    Attributes:
        model: The model as the user gave it, with its options.
        calib: The images to calibrate on, as the user gave them.
    """

    model: tuple[str, ...]
    calib: str

    @classmethod
    def of(cls, request: ModelRequest, calibration: CalibrationSource) -> ExportSource:
        """Returns what a command names that opens the same model and images; `IMAGES` for what has no path."""
        model = [request.reference]
        model += [] if request.weights is None else ["--weights", str(request.weights)]
        model += [] if request.preset is None else ["--preset", request.preset]
        model += [] if request.size is None else ["--size", "x".join(map(str, request.size))]
        source = calibration.source
        return cls(tuple(model), str(source) if isinstance(source, Path) else "IMAGES")


def export_command(trial: StudyTrial, layers: Sequence[StudyLayer], source: ExportSource) -> str | None:
    """Returns the command that writes the file of a trial; `None` if no single export does.

    An export has weights of one kind in groups, leaves what `keep` names in float, and below 4 bits the first and last
    layers.

    Args:
        trial: The trial.
        layers: The layers of the study.
        source: What the command names.
    """
    variant = trial.variant
    if variant is None or variant.granularity not in _GROUPS:
        return None
    quantized = {whole_of(name) for name in trial.weights}
    kept = {whole_of(each.name) for each in layers if each.name not in trial.weights}
    ends = {whole_of(each.name) for each in layers if each.kind in ENDS}
    if quantized & kept or (variant.bits < _ENDS_FROM and quantized & ends):
        return None
    command = ["edgeq", "export", *source.model, "--target", TARGET, "--precision", f"w{variant.bits}"]
    command += ["--weight-method", variant.method, "--group-size", str(variant.granularity), "--calib", source.calib]
    if any(each.kind == "attention" for each in layers):
        command += ["--vit-plan", "fast"]  # what stays in float is named below
    needed = sorted(kept - ends) if variant.bits < _ENDS_FROM else sorted(kept)
    if needed:
        command += ["--keep", "|".join(map(re.escape, needed))]
    return shlex.join(command)


def advise(
    run: StudyRun,
    outcomes: Sequence[Outcome],
    points: Sequence[StudyPoint],
    pairs: Sequence[StudyInteraction],
    confirmation: StudyConfirmation | None,
    layers: Sequence[StudyLayer],
    source: ExportSource,
) -> tuple[StudyAdvice, ...]:
    """Returns the sentences that trials support, the one to follow first.

    Args:
        run: The study.
        outcomes: What its trials score.
        points: The same as results have them.
        pairs: Parts that were tried alone and together.
        confirmation: The choice on one half of the images, on the other.
        layers: The layers of the study.
        source: What the command of an export names.
    """
    of_name = {each.name: each for each in points}
    trials = {each.trial.name: each.trial for each in outcomes}
    found = [] if confirmation is None else [_choice(confirmation, of_name, trials, layers, source)]
    if (best := _best_export(confirmation, points, trials, layers, source)) is not None:
        found.append(best)
    found += _methods(run, outcomes)
    found += _parts(run, outcomes, of_name)
    if pairs:
        count = sum(each.differs for each in pairs)
        text = (
            f"of {counted(len(pairs), 'pair')} of parts, {count} lose something else together than alone added up "
            f"(95 % intervals; {0.05 * len(pairs):.1f} would by chance)"
        )
        found.append(StudyAdvice(text=text))
    return tuple(found)


def _choice(
    confirmation: StudyConfirmation,
    points: Mapping[str, StudyPoint],
    trials: Mapping[str, StudyTrial],
    layers: Sequence[StudyLayer],
    source: ExportSource,
) -> StudyAdvice:
    point, change = points[confirmation.trial], confirmation.confirmed
    said = {"yes": "holds", "no": "does not hold", "open": "so few images leave it open"}[confirmation.holds]
    text = (
        f"{point.name} takes {point.bits_per_weight:.2f} bits per weight ({point.size_bytes / 1e6:.3g} MB): chosen on "
        f"one half of the images ({confirmation.chosen_images:,}), where it loses {confirmation.chosen_points:+.2f} of "
        f"at most {confirmation.max_drop:g} points; on the other half it loses {_interval(change)} points: {said}"
    )
    command = export_command(trials[point.name], layers, source)
    return StudyAdvice(text=text, trial=point.name, command=command or "")


def _best_export(
    confirmation: StudyConfirmation | None,
    points: Sequence[StudyPoint],
    trials: Mapping[str, StudyTrial],
    layers: Sequence[StudyLayer],
    source: ExportSource,
) -> StudyAdvice | None:
    """Returns the smallest point that an export writes, where the chosen one is none."""
    if confirmation is None or export_command(trials[confirmation.trial], layers, source) is not None:
        return None
    for point in sorted(points, key=lambda each: (each.bits_per_weight, each.loss.points)):
        command = export_command(trials[point.name], layers, source)
        if command is not None and point.loss.points <= confirmation.max_drop:
            text = (
                f"{point.name} is the smallest that one export writes: {point.bits_per_weight:.2f} bits per weight, "
                f"{_interval(point.loss)} points lost on all images"
            )
            return StudyAdvice(text=text, trial=point.name, command=command)
    return None


def _methods(run: StudyRun, outcomes: Sequence[Outcome]) -> list[StudyAdvice]:
    """Returns which method loses less than another on the same layers, bits and groups, where that is certain."""
    groups: dict[tuple[int, str, frozenset[str]], list[Outcome]] = {}
    for outcome in outcomes:
        if (variant := outcome.trial.variant) is not None:
            key = variant.bits, outcome.trial.granularity, frozenset(outcome.trial.weights)
            groups.setdefault(key, []).append(outcome)
    found: list[tuple[float, StudyAdvice]] = []
    for (bits, granularity, _), members in groups.items():
        for first, second in itertools.combinations(members, 2):
            better, worse = (first, second) if run.change(first, second).points >= 0 else (second, first)
            change = run.change(better, worse)
            if change.low > 0:
                text = (
                    f"{worse.trial.method} loses {_interval(change)} points more than {better.trial.method} at {bits} "
                    f"bits ({granularity}; {where(worse.trial)})"
                )
                found.append((change.points, StudyAdvice(text=text, trial=worse.trial.name)))
    return [each for _, each in sorted(found, key=lambda each: -each[0])[:_MOST_SENTENCES]]


def _parts(run: StudyRun, outcomes: Sequence[Outcome], points: Mapping[str, StudyPoint]) -> list[StudyAdvice]:
    """Returns which part loses most alone, and which least, for each way of storing where that is certain."""
    found: list[tuple[float, StudyAdvice]] = []
    whole = next((each.size_bytes for each in points.values() if not each.where), 0)
    for stored, alone in single_parts(outcomes).items():
        if len(alone) < 2:
            continue
        ranked = sorted(alone, key=lambda each: points[each.trial.name].loss.points)
        best, worst = ranked[0], ranked[-1]
        change = run.change(best, worst)
        if change.low > 0:
            saved = (whole - points[worst.trial.name].size_bytes) / 1e3
            text = (
                f"with {stored} alone, {where(worst.trial)} loses most: "
                f"{_interval(points[worst.trial.name].loss)} points for {saved:.4g} kB less than FP16, and "
                f"{_interval(change)} more than {where(best.trial)}, which loses least"
            )
            found.append((change.points, StudyAdvice(text=text, trial=worst.trial.name)))
    return [each for _, each in sorted(found, key=lambda each: -each[0])[:_MOST_SENTENCES]]


def _interval(change: ScoreChange) -> str:
    return f"{change.points:+.2f} ({change.low:+.2f} to {change.high:+.2f})"
