"""Layers whose INT8 adds more noise to the outputs than the time that it saves is worth.

Kernel costs decide by time alone, and one layer may make most of an INT8 file's noise: where it reads channels of very
different ranges, the narrow ones keep a few steps. It is looked for by halves: each half of the layers is put into
float, the half without which there is less noise is halved again, until one layer is left. Every such file is planned
and written, so its noise is what is measured and no sum of parts: on FastestDet the noise of single layers adds up to
two and a half times that of the file, and the second loudest of them makes no difference in it. Nor is it shown by the
layers at which the signal falls most: on YOLOX-nano these are in the heads, and half of their noise comes from one of
the first layers.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edgeq.calibration.mean_errors import RememberedErrors
from edgeq.calibrators.ranges import Ranges
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.jobs import FileJob
from edgeq.exporting.onnx.writer import FloatModel, quantizable_graph
from edgeq.exporting.planning.selection import select_layers
from edgeq.measurement.speed_check import INT8
from edgeq.notes import without_notes
from edgeq.progress import progress_bar
from edgeq.tuning.screening import Screening
from edgeq.verbs.export_ranges import quieter_ranges
from edgeq.verbs.export_speed import Exported, Rewriting
from edgeq.verbs.weighed_file import WeighedFile

LOUD_DB = 20.0
"""Files above are left alone: their error is below a tenth of the signal (root mean square)."""

_ROUNDS = 2
"""Layers that are looked for at most."""

_LOUD_NOISE = 10 ** (-LOUD_DB / 10)

_IMAGES = 4
"""What layers are looked for on, in dozens of files."""

_TRIED = "tried in float"

_LABEL = "looking for the layers with most noise"


def with_less_noise(
    files: Sequence[Exported], rewriting: Rewriting, *, is_named: bool = False, threads: int | None = None
) -> tuple[list[Exported], Rewriting]:
    """Returns the files of an export, the INT8 file with as little noise as its time allows, and how to write that.

    First its ranges are chosen anew (`edgeq.verbs.export_ranges`), which costs no time, unless the user has named their
    method. Then layers that are worth more in float go there, if the file is planned by kernel costs. One with a clear
    signal stays as it is, and so does a trained one, because training takes noise out of it.

    Noise is that on the inputs that were kept with the ranges for their strong outputs: others say little about it, so
    without any the files stay as they are.

    Args:
        files: What was written.
        rewriting: How the INT8 file is written again.
        is_named: Whether the user has named the method of the ranges.
        threads: CPU threads of the engine.
    """
    found = list(files)
    model, ranges = rewriting.job.model, rewriting.job.ranges
    if not isinstance(model, FloatModel) or not isinstance(ranges, Ranges) or not ranges.strongest:
        return found, rewriting
    inputs = [sample.array() for sample in ranges.strongest]
    for index, file in enumerate(files):
        if not _may_be_loud(file):
            continue
        artifact, planned = file.artifact, rewriting
        screening = Screening(model, inputs, threads)
        before = WeighedFile.of(planned.job, artifact, screening)
        if before.noise <= _LOUD_NOISE:
            continue
        with tempfile.TemporaryDirectory(prefix="edgeq-") as name:
            folder = Path(name)
            if not is_named and (quieter := quieter_ranges(planned, artifact, before, screening, folder)) is not None:
                artifact, planned = quieter
            if artifact.quantization_facts.kernel_costs is not None:
                job = _Search(planned, screening.on_first(_IMAGES), folder).quieter(artifact)
                planned = dataclasses.replace(planned, job=job)
        if planned.job is not rewriting.job:
            found[index], rewriting = planned.finish(planned.job), planned
    return found, rewriting


def _may_be_loud(file: Exported) -> bool:
    """Returns whether it is an INT8 ONNX file as calibration leaves it, whose signal is weak."""
    artifact, signal = file.artifact, file.comparison.signal
    is_trained = artifact.quantization_facts.finetuning is not None or "reconstruction" in artifact.quantization
    if artifact.format != FloatModel.format or artifact.precision != INT8 or is_trained or signal is None:
        return False
    return signal.snr_db < LOUD_DB


class _Search:
    """Looks for layers that are worth more in float.

    Args:
        rewriting: How the INT8 file is written.
        screening: The inputs that files are compared on.
        folder: Where files are tried.
    """

    def __init__(self, rewriting: Rewriting, screening: Screening, folder: Path) -> None:
        self._rewriting, self._screening, self._folder = rewriting, screening, folder
        measure = rewriting.job.mean_errors
        self._mean_errors = None if measure is None else RememberedErrors(measure)

    def quieter(self, file: Artifact) -> FileJob:
        """Returns the job of a file with such layers in float; its own if there are none."""
        job = self._rewriting.job
        best, layers = WeighedFile.of(job, file, self._screening), _int8_layers(job, file)
        steps = _ROUNDS * 2 * math.ceil(math.log2(max(len(layers), 2)))
        with progress_bar(steps, _LABEL, unit="files") as advance:
            for _ in range(_ROUNDS):
                if best.noise <= _LOUD_NOISE or not layers:
                    break

                def in_float(names: tuple[str, ...], noisy: Mapping[str, str] = best.job.noisy) -> WeighedFile:
                    advance(1)
                    return self._with_noisy({**noisy, **dict.fromkeys(names, _TRIED)})

                loudest, found = _loudest(layers, in_float)
                quieter, slower = best.noise - found.noise, found.time - best.time
                if quieter <= 0 or found.gain_on(best) <= 0:
                    break
                noisy = {**best.job.noisy, loudest: _reason(quieter, slower)}
                best = dataclasses.replace(found, job=dataclasses.replace(job, noisy=noisy))
                layers = [name for name in layers if name != loudest]
        return best.job

    def _with_noisy(self, noisy: Mapping[str, str]) -> WeighedFile:
        job = dataclasses.replace(self._rewriting.job, noisy=noisy)
        with without_notes():
            written = self._rewriting.write(
                dataclasses.replace(job, folder=self._folder, companions=(), mean_errors=self._mean_errors)
            )
        return WeighedFile.of(job, written, self._screening)


def _loudest(layers: Sequence[str], in_float: Callable[[tuple[str, ...]], WeighedFile]) -> tuple[str, WeighedFile]:
    """Returns the layer that is found by halves, and the file with it in float.

    Args:
        layers: Names, in the order of the network.
        in_float: Returns the file with some layers in float.
    """
    names, found = tuple(layers), None
    while len(names) > 1:
        halves = names[: len(names) // 2], names[len(names) // 2 :]
        choices = {half: in_float(half) for half in halves}
        names = min(halves, key=lambda half: choices[half].noise)
        found = choices[names]
    return names[0], found or in_float(names)


def _int8_layers(job: FileJob, file: Artifact) -> list[str]:
    """Returns the names of the layers that a file computes in INT8, in the order of the network."""
    assert isinstance(job.model, FloatModel)  # noqa: S101 - its file is planned by kernel costs
    graph, _ = quantizable_graph(job.model, job.target)
    selection = select_layers(graph, job.target.rules.of_any_size, job.kept, job.options.vit_plan)
    floats = file.quantization_facts.float_nodes
    return [each.name for each in selection.decisions if not each.is_float and each.name not in floats]


def _reason(quieter: float, slower: float) -> str:
    return (
        f"INT8 adds more noise than its time is worth: {100 * quieter:.2g} % of the signal's power for "
        f"{100 * max(slower, 0.0):.2g} % of the time"
    )
