"""The page of the study: tables of each subject, and what they answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.cases import code_state
from benchmarks.name_reader.parts import PARTS, Precision
from benchmarks.name_reader.study import (
    ALL,
    CHOICES,
    FP16,
    FP32,
    METHODS,
    SKIPPING,
    SWEEP,
    Figure,
    Readings,
    distances_of,
)
from edgeq.machine import read_machine

_TITLES = {
    "rtn": "rounding", "hqq": "HQQ", "awq": "AWQ", "gptq": "GPTQ", "awq+gptq": "AWQ, then GPTQ"
}  # fmt: skip
_BITS, _GROUP = 2, 16
"""At these bits the answer is asked for: fewer than any kernel's fast ones, and still readable with the best method."""

_INTRODUCTION = """# Which part of a vision-language model do low bits break?

Small LLaVAs in Hugging Face's format (CLIP tower, connector of two layers, Llama decoder) read text in noisy images.
Exact match, and the mean edit distance to the true text (Levenshtein). Brackets hold the middle 95 % of a paired
bootstrap over images.

- edgeq's own methods quantize the linear layers of the named parts. Patch embedding, table of tokens, norms and head
  stay in FP16. Integers are evenly spaced, with integer zero points and a scale of 16 bits for every group of inputs.
- Sizes are computed from what is stored. Accuracy is *simulated*: PyTorch computes in FP32 with the floats that the
  integers stand for; only the row FP16 is computed in FP16.
- GPTQ and AWQ saw {calibration} images that are in neither training nor test. Layers are quantized in the order in
  which they run, each for what it reads behind the layers before it.
"""


def page(subjects: Sequence[Readings], files: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the page of what some subjects read.

    Args:
        subjects: What they read with each precision.
        files: Title of a subject -> what `measure_files` found, of those that were written.
    """
    import torch
    import transformers

    lines = [_INTRODUCTION.format(calibration=len(subjects[0].subject.calibration[1])), "## Short answer", ""]
    lines += [line for readings in subjects for line in _answers(readings)]
    for readings in subjects:
        lines += ["", f"## {readings.subject.title}", "", *_whole(readings), "", *_by_part(readings)]
        if (found := files.get(readings.subject.title)) is not None:
            lines += ["", *_as_files(readings, found)]
    versions = f"PyTorch {torch.__version__.partition('+')[0]}, transformers {transformers.__version__}"
    lines += ["", f"{versions}, {read_machine().cpu}; {code_state()}. Repeat it: `python -m benchmarks.name_reader`."]
    return "\n".join(lines) + "\n"


def _answers(readings: Readings) -> list[str]:
    """Returns the answers of one subject, each with its interval."""
    rounded = {parts: Precision(_BITS, _GROUP, "rtn", parts) for parts in CHOICES}
    lost = {parts: readings.lost(rounded[parts]) for parts in CHOICES}
    single = {part: lost[part,] for part in PARTS}
    worst, second, *_ = sorted(single, key=lambda part: -single[part].value)
    apart = readings.lost(rounded[worst,], rounded[second,])
    losses = ", ".join(f"{part} {single[part].show()}" for part in PARTS)
    best = max(METHODS[1:], key=lambda method: readings.exact[Precision(_BITS, _GROUP, method, ALL)].mean())
    rebuilt = Precision(_BITS, _GROUP, best, ALL)
    asymmetric, uniform = (Precision(4, 32, "rtn", parts) for parts in (("decoder",), ALL))
    sizes = [_megabytes(readings.sizes[each]) for each in (asymmetric, uniform)]
    return [
        f"**{readings.subject.title}** ({len(readings.subject.test[1]):,} images, exact match in FP32 "
        f"{readings.exact[FP32].mean():.3f})",
        "",
        f"- *Which part breaks?* At {_BITS} bits in groups of {_GROUP}, rounding to nearest costs, in points of exact "
        f"match: {losses}; all parts {lost[ALL].show()}. "
        f"{_verdict(apart, f'The {worst} part loses the most, {{}} points more than the {second}')}",
        f"- *What does reconstruction buy back?* {_TITLES[best]} does best: with it all parts lose "
        f"{readings.lost(rebuilt).show()} points. "
        f"It buys back {readings.lost(rounded[ALL], rebuilt).show()} points, "
        f"{readings.bought_back(rebuilt, rounded[ALL]).show(0)} % of the loss.",
        f"- *Is asymmetric worth its bytes at 4 bits?* {sizes[0]} MB with the decoder alone in 4 bits, "
        f"{sizes[1]} MB with all parts. "
        f"{_verdict(readings.lost(uniform, asymmetric), 'Uniform 4 bits lose {} points against it')}",
        "",
    ]


def _verdict(figure: Figure, claim: str) -> str:
    """Returns a claim with its figure, and whether so many images prove it."""
    proven = "" if figure.is_resolved else "; the interval includes 0, so these images do not prove it"
    return f"{claim.format(figure.show())}{proven}."


def _whole(readings: Readings) -> list[str]:
    """Returns the table of the whole model, from the widest weights to the narrowest."""
    rows: list[tuple[str, Precision | str]] = [
        (FP32, FP32),
        (FP16, FP16),
        ("8 bits, groups of 32, skip list (decoder alone)", SKIPPING),
        ("8 bits, groups of 32, all parts", Precision(8, 32, "rtn", ALL)),
        ("**asymmetric**: decoder 4 bits, groups of 32", Precision(4, 32, "rtn", ("decoder",))),
        ("asymmetric, GPTQ", Precision(4, 32, "gptq", ("decoder",))),
    ]
    for bits, group, methods in SWEEP:
        for method in methods:
            title = f"{bits} bits, groups of {group}, all parts, {_TITLES[method]}"
            rows.append((title, Precision(bits, group, method, ALL)))
    lines = ["| weights | size, MB | exact match | against FP32, points | Levenshtein | against FP32 |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for title, key in rows:
        against = [_negative(readings.lost(key)), readings.further(key).show(3)] if key != FP32 else ["", ""]
        exact, distance = readings.exact[key].mean(), readings.distances[key].mean()
        size = _megabytes(readings.sizes[key])
        lines.append(f"| {title} | {size} | {exact:.3f} | {against[0]} | {distance:.3f} | {against[1]} |")
    return lines


def _by_part(readings: Readings) -> list[str]:
    """Returns the table of parts: exact match and edit distance with one part in few bits, and with all of them."""
    lines = [f"| weights | {' | '.join(map(_title, CHOICES))} |", "|---|" + "---:|" * len(CHOICES)]
    for bits, group, methods in SWEEP:
        for method in methods:
            keys = [Precision(bits, group, method, parts) for parts in CHOICES]
            cells = [f"{readings.exact[key].mean():.3f} / {readings.distances[key].mean():.3f}" for key in keys]
            lines.append(f"| {bits} bits, groups of {group}, {_TITLES[method]} | {' | '.join(cells)} |")
    weights = _share_of_weights(readings)
    return ["Exact match / Levenshtein with one part in few bits and the others in FP16:", "", *lines, "", weights]


def _as_files(readings: Readings, found: Mapping[str, Any]) -> list[str]:
    """Returns the table of the files that ONNX Runtime runs."""
    lines = ["| files | size, MB | exact match | tokens/s | speed-up | prefill, ms | peak memory, MB |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|")
    for row in found["rows"]:
        exact = np.mean(distances_of(row["texts"], readings.subject.test[1]) == 0)
        lines.append(
            f"| {row['title']} | {_megabytes(row['bytes'])} | {exact:.3f} | {row['tokens_per_s']:.0f} | "
            f"{1 / row['ratio']:.2f}x | {row['prefill_ms']:.2f} | {row['peak_bytes'] / 1e6:.0f} |"
        )
    shaky = sum(not row["stable"] for row in found["rows"])
    noise = f" Of {shaky} rows the times were not steady: other work shared the machine." if shaky else ""
    return [
        "As bundles, *measured* in ONNX Runtime, one image at a time: what is read, tokens per second after the first, "
        "the speed-up over FP32, the time to the first token, and the memory of the whole process. Its kernels of few "
        "bits multiply by inputs of 8 bits.",
        "",
        *lines,
        "",
        f"{found['cpu']}, {found['threads']} thread(s); {found['state']}.{noise} What so small a model costs is its "
        "calls, not the reading of weights; the [table of kernels](low_bit_kernels.md) has sizes that gain.",
    ]


def _share_of_weights(readings: Readings) -> str:
    """Returns how large the parts are, so that losses can be compared with what they save."""
    saved = {
        part: readings.sizes[FP16] - readings.sizes[Precision(_BITS, _GROUP, "rtn", (part,))] for part in PARTS
    }  # fmt: skip
    shares = ", ".join(f"{part} {100 * each / sum(saved.values()):.0f} %" for part, each in saved.items())
    return f"Shares of the weights that few bits can save: {shares}."


def _title(parts: Iterable[str]) -> str:
    names = tuple(parts)
    return "all" if names == ALL else names[0]


def _negative(figure: Figure) -> str:
    """Returns a loss as a change."""
    return Figure(-figure.value, -figure.high, -figure.low).show()


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.2f}"
