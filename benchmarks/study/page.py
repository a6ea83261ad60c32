"""The pages of the studies: what they found, beside what was published, and what they took."""

from __future__ import annotations

import importlib.metadata
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.cases import code_state
from benchmarks.study.sharing import Resumed, Speed
from edgeq.machine import read_machine
from edgeq.results.study import Share, StudyImportance, StudyPoint, StudyResult

_PACKAGES = ("onnxruntime", "scikit-learn", "shap")
_MOST_PAIRS = 8
_MOST_ALONE = 12
_NEXT_TO_NOTHING = 0.5
"""Points that a study may lose by default."""

PUBLISHED: Mapping[str, Mapping[str, str]] = {
    "BLIP-2, COCO": {"gptq": "50.4 / 2.0 / 47.6", "awq": "17.1 / 2.5 / 80.5"},
    "BLIP-2, GQA": {"gptq": "22.6 / .7 / 76.7", "awq": "1.0 / .4 / 98.6"},
    "BLIP-2, VQAv2": {"gptq": "25.3 / 1.5 / 73.1", "awq": "1.5 / .2 / 98.3"},
    "LLaVA, GQA": {"gptq": "20.9 / - / 79.1", "awq": "5.4 / - / 94.6"},
    "LLaVA, VQAv2": {"gptq": "27.9 / - / 72.2", "awq": "6.1 / - / 93.9"},
}
"""Published consensus importance in percent, ViT / connector / language part; BLIP-2's connector is a Q-Former."""


def page(title: str, command: str, result: StudyResult, further: Sequence[str]) -> str:
    """Returns the page of a study.

    Args:
        title: Its heading.
        command: What repeats it.
        result: What was found.
        further: Sections of this study alone.
    """
    question = f"*{result.question}* " if result.question else ""
    versions = ", ".join(f"{name} {found}" for name in _PACKAGES if (found := _version(name)))
    lines = [
        f"# {title}",
        "",
        f"{question}{len(result.points):,} trials of {result.trials_asked:,} choices, on "
        f"{result.images:,} images, evenly spaced; {result.score} of {result.model} in FP32 {result.float_score:.4f}. "
        "Weights are simulated in FP32. Intervals are 95 %, paired bootstraps over the images.",
        "",
        *_front(result),
        *_alone(result),
        *_pairs(result),
        "## What it says",
        "",
        *[f"- {each.text}." + (f" `{_shown(each.command)}`" if each.command else "") for each in result.advice],
        "",
        *_importance(result.importance),
        *[f"- {note}" for note in result.notes],
        "",
        *further,
        f"{versions}, {read_machine().cpu}, 1 thread; {code_state()}. Repeat it: `{command}`.",
    ]
    return "\n".join(lines) + "\n"


def _shown(command: str) -> str:
    """Returns a command without the folders of this machine."""
    words = shlex.split(command)
    return shlex.join(Path(word).name if Path(word).is_absolute() else word for word in words)


def _front(result: StudyResult) -> list[str]:
    marks = [each for each in result.points if each.name.endswith("throughout") and each not in result.front]
    rows = sorted([*result.front, *marks], key=lambda each: each.bits_per_weight)
    useless = [f"- On the front but useless: {each.name}, {each.useless}." for each in result.useless_front]
    said = [*map(_time, [each for each in result.front if each.measured is not None]), *useless]
    return ["## The front", "", *_points(rows, "on the front"), "", *said, *([""] if said else [])]


def _time(point: StudyPoint) -> str:
    """Returns what the file of a point takes, in a line."""
    found = point.measured
    assert found is not None
    memory = "" if found.peak_rss_bytes is None else f", with {found.peak_rss_bytes / 1e6:.0f} MB of memory at most"
    spread = "" if found.low is None else f" ({found.low:.2f} to {found.high:.2f})"
    busy = "" if found.steady else ", while the machine was not steady"
    return (
        f"- As a file {point.name} takes {found.p50_ms:.2f} ms, {found.ratio:.2f}{spread} of FP32's time{memory}{busy}."
    )


def _points(points: Sequence[StudyPoint], last: str) -> list[str]:
    lines = [
        f"| weights | bits per weight | MB | points lost | 95 % | {last} |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for each in points:
        loss = each.loss
        lines.append(
            f"| {each.name} | {each.bits_per_weight:.2f} | {each.size_bytes / 1e6:.2f} | {loss.points:+.2f} | "
            f"{loss.low:+.2f} to {loss.high:+.2f} | {'yes' if each.on_front else 'no'} |"
        )
    return lines


def _alone(result: StudyResult) -> list[str]:
    """Returns what single cells lose, the ones that lose most of those with the fewest bits."""
    names = {where: frozenset(layers) for where, layers in result.cells.items()}
    single = {
        where for where, layers in names.items() if not any(other < layers for other in names.values())
    }  # fmt: skip
    fewest = min((each.bits for each in result.points if each.bits), default=0)
    rows = sorted(
        (each for each in result.points if each.where in single and each.bits == fewest),
        key=lambda each: -each.loss.points,
    )
    if len(single) < 2 or not rows:
        return []
    head = f"## Parts alone, in {fewest} bits"
    return [head, "", *_points(rows[:_MOST_ALONE], "on the front"), ""]


def _pairs(result: StudyResult) -> list[str]:
    if not result.interactions:
        return []
    differ = [each for each in result.interactions if each.differs]
    lines = [
        "## Pairs of parts",
        "",
        f"{len(differ)} of {len(result.interactions):,} pairs lose something else together than alone, added up; "
        f"{0.05 * len(result.interactions):.1f} would by chance. The largest differences:",
        "",
        "| parts | weights | alone, added | together | difference, 95 % |",
        "|---|---|---:|---:|---:|",
    ]
    for each in sorted(differ, key=lambda pair: -abs(pair.difference))[:_MOST_PAIRS]:
        lines.append(
            f"| {each.first} & {each.second} | {each.stored} | {each.added:+.2f} | {each.together:+.2f} | "
            f"{each.difference:+.2f} ({each.low:+.2f} to {each.high:+.2f}) |"
        )
    return [*lines, ""]


def _importance(found: Sequence[StudyImportance]) -> list[str]:
    if not found:
        return []
    lines = [
        "## Importance",
        "",
        "Shares of 1: impurity of a random forest over 100 bootstraps of the trials, 50 permutations, SHAP of its "
        "trees, and their mean. R² of the forest is out of bag, that of the linear fit in five-fold cross-validation.",
        "",
        "| axis | method | trials | part | forest | permutation | SHAP | consensus | R² | linear R² |",
        "|---|---|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for each in found:
        for part in each.parts:
            shares = [_share(measure) for measure in (part.forest, part.permutation, part.shap)]
            row = (each.axis, each.method, str(each.trials), part.part, *shares, f"{part.consensus:.2f}")
            lines.append(f"| {' | '.join(row)} | {each.forest_r2:.2f} | {each.linear_r2:.2f} |")
    return [*lines, ""]


def _version(package: str) -> str:
    """Returns the version of a package, empty where it is not installed: without shap, its shares are left out."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _share(share: Share | None) -> str:
    return "" if share is None else f"{share.value:.2f} ({share.low:.2f} to {share.high:.2f})"


def beside_published(result: StudyResult) -> list[str]:
    """Returns the importance of parts next to the published tables, and how they compare."""
    ours = {
        each.method: {part.part: 100 * part.consensus for part in each.parts}
        for each in result.importance
        if each.axis == "component"
    }
    return [
        "## Beside the published studies",
        "",
        "Consensus importance in percent, vision part / connector / language part. Published: BLIP-2 (ViT-g, OPT 2.7B) "
        "and LLaVA-1.5 7B, with the same three measures; their linear fits had R² below .20. A name such as 4-2-2 "
        "states the bits of vision part, connector and language part.",
        "",
        "| model, task | GPTQ | AWQ |",
        "|---|---:|---:|",
        *(f"| {name} | {row['gptq']} | {row['awq']} |" for name, row in PUBLISHED.items()),
        f"| **this reader**, surnames | {_percent(ours.get('gptq'))} | {_percent(ours.get('awq'))} |",
        "",
        *_smallest(result),
        *_verdict(ours),
        "",
    ]


def _percent(shares: Mapping[str, float] | None) -> str:
    return "not fit" if shares is None else " / ".join(f"{each:.1f}" for each in shares.values())


def _smallest(result: StudyResult) -> list[str]:
    """Returns the fewest bits per weight that lose next to nothing, by method, and those of the published studies."""
    found: dict[str, StudyPoint] = {}
    for point in sorted(result.points, key=lambda each: each.bits_per_weight):
        if point.method and point.loss.points <= _NEXT_TO_NOTHING and not point.useless:
            found.setdefault(point.method, point)
    said = "; ".join(f"{each.bits_per_weight:.2f} by {method} ({each.name})" for method, each in found.items())
    if not said:
        return []
    return [
        f"- Fewest bits per weight that lose at most {_NEXT_TO_NOTHING} points: {said}. Published as best for their "
        "size are 3.5 to 4.5 with GPTQ or AWQ, and 6 to 10 with one scale per tensor, which is rtn here."
    ]


def _verdict(ours: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Returns what agrees and what does not, by the figures, and what the reader differs in."""
    if not ours:
        return []
    largest = {max(shares, key=lambda part: shares[part]) for shares in ours.values()}
    highest = {method: max(shares.values()) for method, shares in ours.items()}
    connectors = [shares.get("connector", 0.0) for shares in ours.values()]
    said = ", ".join(f"{share:.0f} % by {method}" for method, share in highest.items())
    return [
        f"- The {' or the '.join(sorted(largest))} part carries most here ({said}). In the published studies the "
        "language part does where questions about images are answered (72 to 99 %), and the vision part where BLIP-2 "
        f"finds images or texts (70 to 85 %). The connector carries {min(connectors):.0f} to {max(connectors):.0f} % "
        "here, and at most 2.5 % there.",
        "- Why a small reader may differ: its vision part holds 43 % of the weights that change (4 % in LLaVA-1.5 7B), "
        "it has to tell letters apart that differ by a stroke, and its language part only spells what it is shown, "
        "with 26 letters and no knowledge of the world that few bits could break.",
    ]


def speed_section(speeds: Sequence[Speed], again: Resumed | None, result: StudyResult) -> list[str]:
    """Returns what sharing saves, and what became of a study that was killed."""
    lines = [
        "## What trials share",
        "",
        "CPU seconds of a trial, with what trials share (mean of up to 8) and alone: what methods read is gathered "
        "for it, its weights are quantized, its files written, its images prepared. FP32's score is not counted, "
        "nor Python's start and the export of the model, which a trial on its own would need besides.",
        "",
        "| method | images | shared | alone | ratio | trials per CPU minute, shared |",
        "|---|---:|---:|---:|---:|---:|",
        *(
            f"| {each.method} | {each.images:,} | {each.shared_s:.2f} | {each.alone_s:.2f} | "
            f"{each.alone_s / each.shared_s:.1f} | {60 / each.shared_s:.0f} |"
            for each in speeds
        ),
        "",
        f"The study quantized {result.weights_quantized:,} weights of layers, each once; its trials take "
        f"{result.weights_used:,}.",
        "",
    ]
    if again is not None:
        said = "its table of trials and its report are the same, byte for byte" if again.alike else "**they differ**"
        lines += [
            f"A study of {again.trials} trials was killed {again.kills} times by SIGKILL and run again: {said} as "
            "those of an uncut run.",
            "",
        ]
    return lines
