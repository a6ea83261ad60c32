"""Ranges of an INT8 file by another method, where those of the default leave much noise in its outputs.

No method suits every model. The default, `lp` with the power 4, clips next to nothing, and where a few outliers are
many times as wide as all else the rest keeps a few steps; `percentile` cuts them off, and with them what YuNet says
about faces. A layer by itself does not show it, so whole files are written, from the same histograms, and the noise
that counts is that of the outputs: a method is taken where it clearly gains in the group of channels with most noise,
on the inputs to calibrate on that have the strongest outputs. Time counts too, because narrower ranges may let layers
run in INT8 which mixed ranges keep in float.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from edgeq.calibration.calibrate import DEFAULT_METHOD
from edgeq.calibrators.ranges import Ranges
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.jobs import FileJob
from edgeq.notes import without_notes
from edgeq.tuning.screening import Screening
from edgeq.verbs.export_speed import Exported, Rewriting
from edgeq.verbs.weighed_file import TIME_PER_NOISE, WeighedFile

METHODS = ("mse", "percentile")
"""What is tried instead of the default."""

_CLEARLY = 0.2
"""The share of the noise, at the price that it has in time, that another method has to gain: 1 dB where time stays."""


def quieter_ranges(
    rewriting: Rewriting, file: Artifact, before: WeighedFile, screening: Screening, folder: Path
) -> tuple[Artifact, Rewriting] | None:
    """Returns the INT8 file by the method of least noise and how to write it; `None` if that is what it has.

    Ranges that are not computed from histograms stay.

    Args:
        rewriting: How the file is written.
        file: The file by the default method.
        before: What it is worth.
        screening: The inputs that files are compared on.
        folder: Where files may lie as long as they are looked at; one in each method's name is made there.
    """
    job = rewriting.job
    ranges = job.ranges
    if not isinstance(ranges, Ranges) or ranges.method != DEFAULT_METHOD or ranges.options:
        return None

    found, best = file, before
    for method in METHODS:
        tried = dataclasses.replace(job, ranges=ranges.with_method(method))
        (folder / method).mkdir()
        with without_notes():
            artifact = rewriting.write(dataclasses.replace(tried, folder=folder / method, companions=()))
        weighed = WeighedFile.of(tried, artifact, screening)
        if weighed.gain_on(before) > _CLEARLY * TIME_PER_NOISE * before.noise and weighed.gain_on(best) > 0:
            found, best = artifact, weighed
    if best is before:
        return None
    reason = _reason(before, best)

    def finish(each: FileJob) -> Exported:
        done = rewriting.finish(each)
        return dataclasses.replace(done, artifact=_with_reason(done.artifact, reason))

    return found, dataclasses.replace(rewriting, job=best.job, finish=finish)


def _reason(before: WeighedFile, after: WeighedFile) -> str:
    faster = before.time - after.time
    return (
        f"noise of {100 * after.noise:.2g} % of the signal's power, {DEFAULT_METHOD} leaves {100 * before.noise:.2g} %"
        f"{f' and takes {100 * faster:.2g} % more of the time' if faster > 0 else ''}"
    )


def _with_reason(artifact: Artifact, reason: str) -> Artifact:
    """Returns a file whose manifest says why its ranges are by their method."""
    return dataclasses.replace(artifact, quantization={**artifact.quantization, "method_reason": reason}).save()
