"""Times the quantized files of an export against the float model, and says in their manifests which to take here."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeq.errors import EngineError
from edgeq.evaluation.output_difference import Comparison
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.jobs import FileJob
from edgeq.exporting.onnx.writer import FloatModel, write_fp32
from edgeq.exporting.quantization_facts import SpeedFacts, TriedSelection
from edgeq.machine import default_threads, read_machine
from edgeq.measurement.speed_check import FP32, INT8, measure_speed
from edgeq.notes import log_of
from edgeq.runtimes import is_installed
from edgeq.schemes import LOW_BITS
from edgeq.targets import Target
from edgeq.verbs.export_selection import smallest_that_gains

_TIMED = (INT8, *LOW_BITS, "nf4")

_log = log_of(__name__)


@dataclass(frozen=True)
class Exported:
    """A written file and its comparison with the model."""

    artifact: Artifact
    comparison: Comparison


@dataclass(frozen=True)
class Rewriting:
    """How an INT8 file is written again with fewer layers in INT8.

    Attributes:
        job: What it was made from.
        write: Writes a file.
        finish: Writes a file and compares it with the model.
    """

    job: FileJob
    write: Callable[[FileJob], Artifact]
    finish: Callable[[FileJob], Exported]


def with_speed(
    files: Sequence[Exported],
    model: FloatModel,
    target: Target,
    threads: int | None = None,
    rewriting: Rewriting | None = None,
) -> list[Exported]:
    """Returns the files of an export, the time of those that are timed in their manifests, under `speed`.

    These are INT8 files, and those with weights of few bits that an engine has kernels for.

    An INT8 file that is not faster is written again with the smallest selection of its layers that is, if any.
    On an emulated CPU, or one of another architecture, and without the target's engine nothing is measured.

    Args:
        files: What was written.
        model: The float model.
        target: What the files are for.
        threads: CPU threads of the engine; by default one per physical core.
        rewriting: How the INT8 file is written again.
    """
    machine, runtime = read_machine(), target.runtimes[0]
    if machine.emulated or machine.architecture != "x86_64" or not is_installed(runtime):
        return list(files)
    with tempfile.TemporaryDirectory() as folder:
        floats = [file.artifact for file in files if file.artifact.precision == "fp32"]
        if not floats and any(file.artifact.precision in _TIMED for file in files):
            floats = [write_fp32(model, target, Path(folder))]
        return [
            _timed(file, floats[0], runtime, threads, rewriting if file.artifact.precision == INT8 else None)
            if file.artifact.precision in _TIMED
            else file
            for file in files
        ]


def _timed(file: Exported, fp32: Artifact, runtime: str, threads: int | None, rewriting: Rewriting | None) -> Exported:
    machine = read_machine()
    threads = threads or default_threads(machine)

    def time_file(artifact: Artifact) -> SpeedFacts:
        return measure_speed(artifact, fp32, runtime, machine, threads)

    try:
        speed = time_file(file.artifact)
    except EngineError as error:  # the file is written and compared already
        _log.warning("%s: its speed was not measured (%s)", file.artifact.name, error)
        return file
    if speed.recommended == FP32 and rewriting is not None:
        file, speed = _faster(file, speed, rewriting, time_file)
    facts = {**file.artifact.quantization, "speed": dataclasses.asdict(speed)}
    return dataclasses.replace(file, artifact=dataclasses.replace(file.artifact, quantization=facts).save())


def _faster(
    file: Exported, speed: SpeedFacts, rewriting: Rewriting, time_file: Callable[[Artifact], SpeedFacts]
) -> tuple[Exported, SpeedFacts]:
    """Returns the file with the smallest selection that gains, and its speed; the given ones if there is none."""
    search = smallest_that_gains(rewriting.job, rewriting.write, time_file)
    if not search.tried:
        return file, speed
    whole = TriedSelection(file.artifact.quantization_facts.int8_nodes or 0, speed.ratio, speed.low, speed.high)
    if search.job is not None and search.speed is not None:
        file, speed = rewriting.finish(search.job), search.speed
    return file, dataclasses.replace(speed, tried=(whole, *search.tried))
