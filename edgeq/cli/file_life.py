"""What `edgeq inspect` prints of a file: source, calibration, plan, losses, and each place where it was run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgeq.cli.export_console import describe_layers
from edgeq.wording import compared_with_fp32, counted

if TYPE_CHECKING:
    from edgeq.exporting.artifact import Artifact
    from edgeq.exporting.tensor_spec import TensorSpec
    from edgeq.results.attached import AttachedResult
    from edgeq.verbs.file_life import FileLife

_DIGEST = 12
_FIGURES = {"p50_ms": "p50 {:.2f} ms", "peak_rss_bytes": "memory {:.0f} MB", "j_per_image": "{:.3f} J per image"}
_SCALES = {"peak_rss_bytes": 1e-6}


def describe_life(life: FileLife) -> Iterator[str]:
    """Yields the lines about a file."""
    artifact = life.artifact
    yield (
        f"{artifact.path}: {artifact.precision} {artifact.format} for {artifact.target or 'no target'}, "
        f"{artifact.size_bytes / 1e6:.2f} MB, SHA-256 {artifact.digest[:_DIGEST]}"
    )
    tools = ", ".join(f"{name} {version}" for name, version in artifact.tools.items())
    yield f"source: graph {_short(artifact.source_digest) or 'unknown'}; written by {tools or 'unknown tools'}"
    yield from _calibration(artifact)
    for kind, tensors in (("input", artifact.inputs), ("output", artifact.outputs)):
        yield f"{kind}: {', '.join(map(_tensor, tensors))}"
    for line in describe_layers(artifact.quantization_facts):
        yield f"plan: {line}"
    if (signal := artifact.quantization_facts.signal) is not None:
        yield f"signal: {signal.snr_db:.1f} dB of the model's outputs are kept; {signal.how}"
    if not life.results:
        yield "results: none attached; edgeq bench and edgeq eval do so with --attach"
    for result in life.results:
        yield _result(result)


def _calibration(artifact: Artifact) -> Iterator[str]:
    facts = artifact.quantization_facts
    if (found := facts.calibrated_on) is not None:
        yield (
            f"calibration: {counted(found.images, 'image')} (SHA-256 {found.digest[:_DIGEST]}), ranges "
            f"{_short(facts.ranges_digest or '') or 'of several files'} by {facts.method}"
        )


def _result(result: AttachedResult) -> str:
    """Returns what one run found, where and when."""
    where = result.machine if result.device == "local" else f"{result.device} ({result.machine})"
    compute = f" in {result.compute}" if result.compute else ""
    threads = f", {counted(result.threads, 'thread')}" if result.threads else ""
    what = "; ".join(_score(result) if result.kind == "eval" else _times(result))
    return (
        f"{result.kind} {result.date[:10]}: {what}; {result.obtained} on {where}, "
        f"{result.engine or result.runtime}{compute}{threads}, edgeq {result.edgeq or 'unknown'}"
    )


def _times(result: AttachedResult) -> Iterator[str]:
    for name, form in _FIGURES.items():
        if (figure := result.figures.get(name)) is not None:
            yield form.format(figure * _SCALES.get(name, 1))
    if (ratio := result.figures.get("ratio_to_fp32")) is not None:
        yield compared_with_fp32(ratio, *result.intervals.get("ratio_to_fp32", (None, None)))


def _score(result: AttachedResult) -> Iterator[str]:
    name, figure = next(iter(result.figures.items()), ("score", None))
    images = "" if result.images is None else f" over {counted(result.images, 'image')}"
    data = f" of {result.data}" if result.data else ""
    yield f"{name} {'unknown' if figure is None else f'{figure:.4f}'}{images}{data}"
    if (points := result.figures.get("drop_points")) is not None:
        low, high = result.intervals.get("drop_points", (None, None))
        interval = "" if low is None or high is None else f" (95 % interval {low:+.2f} to {high:+.2f})"
        yield f"{points:+.2f} points lost{interval}"


def _tensor(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.dtype} ({', '.join('?' if each is None else str(each) for each in spec.shape)})"


def _short(digest: str) -> str:
    version, colon, digits = digest.rpartition(":")
    return f"{version}{colon}{digits[:_DIGEST]}"
