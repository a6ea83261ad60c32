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
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeq.evaluation.exact_comparison import ComparedImages
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.jobs import FileJob, without_notes
from edgeq.exporting.onnx.writer import FloatModel, quantizable_graph
from edgeq.exporting.planning.selection import select_layers
from edgeq.measurement.speed_check import INT8
from edgeq.progress import progress_bar
from edgeq.tuning.screening import Screening
from edgeq.verbs.export_speed import Exported, Rewriting

LOUD_DB = 20.0
"""Files above are left alone: their error is below a tenth of the signal (root mean square)."""

TIME_PER_NOISE = 3.0
"""Shares of the time in FP32 that the same share of noise in the signal's power is worth.

Published families of detectors buy 1 % of AP with 6 to 7 % of time (YOLOX-s to -m: 40.5 to 47.2 AP for 26.8 to 73.8
GFLOPs). Noise of 1 % costs about .1 % of the AP (YOLOX-nano) to .8 % (FastestDet): between .7 and 5 % of the time.
"""

_ROUNDS = 2
"""Layers that are looked for at most."""

_IMAGES = 4

_TRIED = "tried in float"

_LABEL = "looking for the layers with most noise"


@dataclass(frozen=True)
class _Choice:
    """A file by its noise and its time.

    Attributes:
        job: What it is written by.
        noise: Noise in the group of the outputs' channels where it is most, as a share of the signal in 0..1.
        time: What the layers with a choice take, as a share of their time in float.
    """

    job: FileJob
    noise: float
    time: float

    @property
    def is_clear(self) -> bool:
        """Whether there is so little noise that no layer has to be looked for."""
        return self.noise <= 10 ** (-LOUD_DB / 10)


def with_less_noise(
    files: Sequence[Exported], rewriting: Rewriting, images: ComparedImages, threads: int | None = None
) -> tuple[list[Exported], Rewriting]:
    """Returns the files of an export, the INT8 file without layers that are worth more in float, and how to write that.

    A file that is not planned by kernel costs stays as it is, and so does one with a clear signal, or a trained one,
    because training takes noise out of it. Images of the user are needed: others say little about noise.

    Args:
        files: What was written.
        rewriting: How the INT8 file is written again.
        images: What files are compared with the model on.
        threads: CPU threads of the engine.
    """
    found = list(files)
    for index, file in enumerate(files):
        facts = file.artifact.quantization_facts
        is_trained = facts.finetuning is not None or "reconstruction" in file.artifact.quantization
        signal = file.comparison.signal
        if file.artifact.precision != INT8 or facts.kernel_costs is None or is_trained or signal is None:
            continue
        if signal.snr_db >= LOUD_DB or images.kind != "calibration":
            continue
        job = _Search(rewriting, images.inputs[:_IMAGES], threads).quieter(file.artifact)
        if job.noisy:
            found[index] = rewriting.finish(job)
            rewriting = dataclasses.replace(rewriting, job=job)
    return found, rewriting


class _Search:
    """Looks for layers that are worth more in float.

    Args:
        rewriting: How the INT8 file is written.
        inputs: Inputs `(1, C, H, W)`.
        threads: CPU threads of the engine.
    """

    def __init__(self, rewriting: Rewriting, inputs: Sequence[np.ndarray], threads: int | None) -> None:
        assert isinstance(rewriting.job.model, FloatModel)  # noqa: S101 - kernel costs are those of its graph
        self._rewriting = rewriting
        self._screening = Screening(rewriting.job.model, inputs, threads)

    def quieter(self, file: Artifact) -> FileJob:
        """Returns the job of a file with such layers in float; its own if there are none."""
        job = self._rewriting.job
        best, layers = self._choice(job, file), _int8_layers(job, file)
        steps = _ROUNDS * 2 * math.ceil(math.log2(max(len(layers), 2)))
        with (
            tempfile.TemporaryDirectory(prefix="edgeq-") as folder,
            progress_bar(steps, _LABEL, unit="files") as advance,
        ):
            for _ in range(_ROUNDS):
                if best.is_clear or not layers:
                    break

                def in_float(names: tuple[str, ...], noisy: Mapping[str, str] = best.job.noisy) -> _Choice:
                    advance(1)
                    return self._with_noisy({**noisy, **dict.fromkeys(names, _TRIED)}, Path(folder))

                loudest, found = _loudest(layers, in_float)
                quieter, slower = best.noise - found.noise, found.time - best.time
                if quieter <= 0 or TIME_PER_NOISE * quieter <= slower:
                    break
                noisy = {**best.job.noisy, loudest: _reason(quieter, slower)}
                best = dataclasses.replace(found, job=dataclasses.replace(job, noisy=noisy))
                layers = [name for name in layers if name != loudest]
        return best.job

    def _with_noisy(self, noisy: Mapping[str, str], folder: Path) -> _Choice:
        job = dataclasses.replace(self._rewriting.job, noisy=noisy)
        with without_notes():
            written = self._rewriting.write(dataclasses.replace(job, folder=folder, companions=()))
        return self._choice(job, written)

    def _choice(self, job: FileJob, file: Artifact) -> _Choice:
        costs = file.quantization_facts.kernel_costs
        assert costs is not None  # noqa: S101 - the file was planned by them
        time = costs.predicted_us / costs.float_us if costs.float_us > 0 else 1.0
        return _Choice(job, max(self._screening.noise(file).shares), time)


def _loudest(layers: Sequence[str], in_float: Callable[[tuple[str, ...]], _Choice]) -> tuple[str, _Choice]:
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
