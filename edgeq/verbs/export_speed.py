"""Times the INT8 files of an export against the float model, and says in their manifests which to take here."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeq.errors import EngineError
from edgeq.evaluation.output_difference import Comparison
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.onnx.writer import FloatModel, write_fp32
from edgeq.machine import default_threads, read_machine
from edgeq.measurement.speed_check import measure_speed
from edgeq.runtimes import is_installed
from edgeq.targets import Target

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exported:
    """A written file and its comparison with the model."""

    artifact: Artifact
    comparison: Comparison


def with_speed(
    files: Sequence[Exported], model: FloatModel, target: Target, threads: int | None = None
) -> list[Exported]:
    """Returns the files of an export, the time of INT8 ones in their manifests, under `speed`.

    On an emulated CPU, or one of another architecture, and without the target's engine nothing is measured.

    Args:
        files: What was written.
        model: The float model.
        target: What the files are for.
        threads: CPU threads of the engine; by default one per physical core.
    """
    machine, runtime = read_machine(), target.runtimes[0]
    if machine.emulated or machine.architecture != "x86_64" or not is_installed(runtime):
        return list(files)
    with tempfile.TemporaryDirectory() as folder:
        floats = [file.artifact for file in files if file.artifact.precision == "fp32"]
        if not floats and any(file.artifact.precision == "int8" for file in files):
            floats = [write_fp32(model, target, Path(folder))]
        return [
            _timed(file, floats[0], runtime, threads) if file.artifact.precision == "int8" else file for file in files
        ]


def _timed(file: Exported, fp32: Artifact, runtime: str, threads: int | None) -> Exported:
    machine = read_machine()
    try:
        speed = measure_speed(file.artifact, fp32, runtime, machine, threads or default_threads(machine))
    except EngineError as error:  # the file is written and compared already
        _log.warning("%s: its speed was not measured (%s)", file.artifact.name, error)
        return file
    facts = {**file.artifact.quantization, "speed": dataclasses.asdict(speed)}
    return dataclasses.replace(file, artifact=dataclasses.replace(file.artifact, quantization=facts).save())
