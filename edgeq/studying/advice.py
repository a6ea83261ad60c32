"""What a study recommends, in sentences with their evidence."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

from edgeq.results.sensitivity import ScoreChange
from edgeq.results.study import StudyAdvice, StudyConfirmation, StudyInteraction, StudyPoint
from edgeq.studying.answers import by_stored, single_parts, where
from edgeq.studying.run import Outcome, StudyRun
from edgeq.studying.space import activation_name
from edgeq.studying.trials import StudyTrial
from edgeq.wording import counted

_MOST_SENTENCES = 6
"""Comparisons of methods and of parts that are put into words, each."""

Command = Callable[[StudyTrial], str | None]


def advise(
    run: StudyRun,
    outcomes: Sequence[Outcome],
    points: Sequence[StudyPoint],
    pairs: Sequence[StudyInteraction],
    confirmation: StudyConfirmation | None,
    command: Command,
) -> tuple[StudyAdvice, ...]:
    """Returns the sentences that trials support, the one to follow first.

    Args:
        run: The study.
        outcomes: What its trials score.
        points: The same as results have them.
        pairs: Parts that were tried alone and together.
        confirmation: The choice on one half of the images, on the other.
        command: Returns the command that writes the file of a trial; `None` if no export does.
    """
    of_name = {each.name: each for each in points}
    trials = {each.trial.name: each.trial for each in outcomes}
    found = [] if confirmation is None else [_choice(confirmation, of_name, trials, command)]
    if (best := _best_export(confirmation, points, trials, command)) is not None:
        found.append(best)
    found += _steps(points) + _methods(run, outcomes, of_name)
    found += _parts(run, outcomes, of_name)
    found += _spared(run, outcomes, of_name)
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
    command: Command,
) -> StudyAdvice:
    point, change = points[confirmation.trial], confirmation.confirmed
    text = (
        f"{point.name} takes {point.bits_per_weight:.2f} bits per weight ({point.size_bytes / 1e6:.3g} MB): chosen on "
        f"one half of the images ({confirmation.chosen_images:,}), where it loses {confirmation.chosen_points:+.2f} of "
        f"at most {confirmation.max_drop:g} points; on the other half it loses {_interval(change)} points: "
        f"{_verdict(confirmation)}"
    )
    return StudyAdvice(text=text, trial=point.name, command=command(trials[point.name]) or "")


def _verdict(confirmation: StudyConfirmation) -> str:
    """Returns whether a choice is confirmed, within which margin, and how many images would confirm `max_drop`."""
    margin, images = confirmation.margin, confirmation.confirmed.images
    certain = f"{confirmation.power:.0%}"
    said = {"yes": "confirmed within", "no": "loses more than", "open": "open within"}[confirmation.holds]
    by = "as asked for" if confirmation.margin_asked else f"which {images:,} images confirm in {certain} of all cases"
    text = f"{said} a margin of {margin:g} points ({by})"
    if confirmation.holds == "yes" and margin <= confirmation.max_drop:
        return text
    if confirmation.images_needed is None:
        return f"{text}; it loses about {confirmation.max_drop:g}, which no number of images would confirm"
    return f"{text}; to confirm {confirmation.max_drop:g} points takes about {confirmation.images_needed:,} such images"


def _best_export(
    confirmation: StudyConfirmation | None,
    points: Sequence[StudyPoint],
    trials: Mapping[str, StudyTrial],
    command: Command,
) -> StudyAdvice | None:
    """Returns the smallest point that an export writes, where the chosen one is none."""
    if confirmation is None or command(trials[confirmation.trial]) is not None:
        return None
    for point in sorted(points, key=lambda each: (each.bits_per_weight, each.loss.points)):
        written = command(trials[point.name])
        if written is not None and point.loss.points <= confirmation.max_drop:
            text = (
                f"{point.name} is the smallest that one export writes: {point.bits_per_weight:.2f} bits per weight, "
                f"{_interval(point.loss)} points lost on all images"
            )
            return StudyAdvice(text=text, trial=point.name, command=written)
    return None


def _steps(points: Sequence[StudyPoint]) -> list[StudyAdvice]:
    """Returns which steps along the front gain points for certain."""
    steps = sorted((each for each in points if each.gain is not None), key=lambda each: each.bits_per_weight)
    if not steps:
        return []
    certain = [each for each in steps if each.gain is not None and each.gain.low > 0]
    named = f": to {'; to '.join(each.name for each in certain)}" if certain else ""
    text = (
        f"of {counted(len(steps), 'step')} to more bits along the front, {len(certain)} gain points for certain{named}"
    )
    return [StudyAdvice(text=text)]


def _methods(run: StudyRun, outcomes: Sequence[Outcome], points: Mapping[str, StudyPoint]) -> list[StudyAdvice]:
    """Returns which method, or number of images, loses less than another on the same layers, where that is certain.

    Of two that are both of no use nothing is said.
    """
    groups: dict[tuple[int, str, int, frozenset[str]], list[Outcome]] = {}
    for outcome in outcomes:
        if (variant := outcome.trial.variant) is not None:
            trial = outcome.trial
            key = variant.bits, trial.granularity, trial.activation, frozenset(trial.weights)
            groups.setdefault(key, []).append(outcome)
    found: list[tuple[float, StudyAdvice]] = []
    for (bits, granularity, activation, _), members in groups.items():
        for first, second in itertools.combinations(members, 2):
            better, worse = (first, second) if run.change(first, second).points >= 0 else (second, first)
            change = run.change(better, worse)
            if change.low > 0 and not points[better.trial.name].useless:
                text = (
                    f"{worse.trial.recipe} loses {_interval(change)} points more than {better.trial.recipe} at {bits} "
                    f"bits ({granularity}{activation_name(activation)}; {where(worse.trial)})"
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
        if change.low > 0 and not points[best.trial.name].useless:
            saved = (whole - points[worst.trial.name].size_bytes) / 1e3
            text = (
                f"with {stored} alone, {where(worst.trial)} loses most: "
                f"{_interval(points[worst.trial.name].loss)} points for {saved:.4g} kB less than FP16, and "
                f"{_interval(change)} more than {where(best.trial)}, which loses least"
            )
            found.append((change.points, StudyAdvice(text=text, trial=worst.trial.name)))
    return [each for _, each in sorted(found, key=lambda each: -each[0])[:_MOST_SENTENCES]]


def _spared(run: StudyRun, outcomes: Sequence[Outcome], points: Mapping[str, StudyPoint]) -> list[StudyAdvice]:
    """Returns what is worth leaving in FP16: most points per byte, for each way of storing where that is certain."""
    found: list[tuple[float, StudyAdvice]] = []
    for stored, by_layers in by_stored(outcomes).items():
        largest = max(by_layers, key=len)
        whole, ranked = by_layers[largest], []
        for layers, outcome in by_layers.items():
            change = run.change(outcome, whole)
            spared = points[outcome.trial.name].size_bytes - points[whole.trial.name].size_bytes
            if layers < largest and change.low > 0 and not points[outcome.trial.name].useless:
                ranked.append((change.points / max(spared, 1), change, spared, outcome))
        if ranked:
            _, change, spared, outcome = max(ranked, key=lambda each: each[0])
            text = (
                f"with {stored}, quantizing {where(outcome.trial)} instead of {where(whole.trial)} gains "
                f"{_interval(change)} points for {spared / 1e3:.4g} kB more: the most per byte of what was tried"
            )
            found.append((change.points, StudyAdvice(text=text, trial=outcome.trial.name)))
    return [each for _, each in sorted(found, key=lambda each: -each[0])[:_MOST_SENTENCES]]


def _interval(change: ScoreChange) -> str:
    return f"{change.points:+.2f} ({change.low:+.2f} to {change.high:+.2f})"
