"""What it costs a file that x86 CPUs without VNNI compute it exactly: the same file for other CPUs is measured too."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.evaluation.exact_comparison import ComparedImages, Groups, measure_onnx
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.onnx.writer import FloatModel
from edgeq.notes import log_of, without_notes

if TYPE_CHECKING:
    from edgeq.exporting.jobs import FileJob

NOTABLE_DB = 0.5
"""What a user is warned of."""

_log = log_of(__name__)


def with_saturation_cost(
    artifact: Artifact, job: FileJob, write: Callable[[FileJob], Artifact], images: ComparedImages, groups: Groups
) -> Artifact:
    """Returns an artifact whose manifest says what its exact sums cost.

    Args:
        artifact: The written file.
        job: What it was written from.
        write: Writes a file.
        images: What files are compared on.
        groups: Groups of channels of each output.
    """
    facts = artifact.quantization_facts.saturation
    model = job.model
    if facts is None or not (facts.fitted_channels or facts.wide_grids) or not isinstance(model, FloatModel):
        return artifact
    rules = dataclasses.replace(job.target.rules, isa="vnni")
    target = dataclasses.replace(job.target, rules=rules)
    with tempfile.TemporaryDirectory(prefix="edgeq-") as folder:
        with without_notes():
            other = write(dataclasses.replace(job, target=target, folder=Path(folder), companions=()))
        plain = measure_onnx(other, model, target, images, groups, outputs_only=True)
    safe = measure_onnx(artifact, model, target, images, groups, outputs_only=True)
    if plain is None or safe is None:
        return artifact
    cost = round(plain.snr_db - safe.snr_db, 2)
    found = {**artifact.quantization["saturation"], "costs_db": cost}
    return dataclasses.replace(artifact, quantization={**artifact.quantization, "saturation": found}).save()


def warn_of_saturation_cost(artifact: Artifact) -> None:
    """Warns if the exact sums of a file cost much, as its manifest says."""
    facts = artifact.quantization_facts.saturation
    if facts is not None and facts.costs_db is not None and facts.costs_db > NOTABLE_DB:
        _log.warning(
            "%s: exact sums on CPUs without VNNI cost %.1f dB of the signal; if it runs only on CPUs with VNNI or AMX, "
            "export with `isa` vnni",
            artifact.name, facts.costs_db,
        )  # fmt: skip
