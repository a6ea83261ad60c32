"""`edgeq study --template detector-edge`: a model's precisions in every engine of this machine, scored and timed.

The study of weights asks what bits cost; this one asks what files cost: FP32, FP16, INT8 with calibrated ranges and
INT8 with ranges of each run (dynamic), each written for the engine that runs it.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import edgeq
from edgeq.calibration.source import CalibrationSource
from edgeq.datasets import Split
from edgeq.errors import EngineError, InputError, ModelError
from edgeq.evaluation.evaluate import evaluate_artifacts
from edgeq.exporting.artifact import Artifact
from edgeq.files import write_json, write_text
from edgeq.inputs import evenly_spaced
from edgeq.measurement.benchmark import bench_jobs
from edgeq.measurement.timed_file import Job, Sampling
from edgeq.reporting.build import build_document
from edgeq.reporting.comparison import Drop
from edgeq.reporting.document import Entry
from edgeq.reporting.runs import read_runs
from edgeq.reporting.write import require_format, safe_cell, write_report
from edgeq.results.evaluation import EvalResult, Score
from edgeq.results.measurement import BenchResult
from edgeq.results.serialization import to_json
from edgeq.runtimes import get_runtime
from edgeq.sources.model import ModelRequest
from edgeq.tuning.machine_lock import machine_alone
from edgeq.verbs.export import export_model

ENGINES: Mapping[str, tuple[str, str]] = {
    "openvino": ("x86-openvino", "onnx"), "onnxruntime": ("x86-ort", "onnx"), "litert": ("arm", "tflite")
}  # fmt: skip
"""Engine -> the target and the format of the files that it is given."""

PRECISIONS = ("fp32", "fp16", "int8", "dynamic")

_REPORT, _TABLE, _RESULTS = "report.html", "engines.csv", "results.json"


@dataclass(frozen=True)
class EngineStudy:
    """What the study found.

    Attributes:
        entries: A file in its engine each, scored and timed.
        notes: What was left out, and why.
        files: The report, the table and the results.
    """

    entries: tuple[Entry, ...]
    notes: tuple[str, ...]
    files: tuple[Path, ...]

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of the numbers that were scored."""
        named = dict.fromkeys(name for each in self.entries for name in each.scores)
        return tuple(name for name in named if any(_is_number(each.scores.get(name)) for each in self.entries))

    def cells(self) -> list[tuple[str, ...]]:
        """Returns a table in words: its titles, then engine, precision, scores, size and time of each file."""
        titles = ("engine", "precision", *self.scores, "points lost, 95 %", "MB", "ms", "time / FP32")
        return [titles, *map(self._row, self.entries)]

    def _row(self, entry: Entry) -> tuple[str, ...]:
        scores = (entry.scores.get(name) for name in self.scores)
        return (
            entry.runtime,
            entry.precision,
            *(f"{value:.4f}" if _is_number(value) else "-" for value in scores),
            _lost(entry.drop),
            "-" if entry.size_bytes is None else f"{entry.size_bytes / 1e6:.2f}",
            "-" if entry.p50_ms is None else f"{'' if entry.stable else '~'}{entry.p50_ms:.2f}",
            "-" if entry.ratio_to_fp32 is None else f"{entry.ratio_to_fp32:.2f}",
        )

    def to_csv(self) -> str:
        """Returns the table for programs."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        figures = ("size_bytes", "p50_ms", "p90_ms", "ratio_to_fp32", "stable")
        writer.writerow(("file", "engine", "precision", *self.scores, "points_lost", "low", "high", *figures))
        for each in self.entries:
            scores = [each.scores.get(name) for name in self.scores]
            drop = [None] * 3 if each.drop is None else [each.drop.points, each.drop.low, each.drop.high]
            row = [
                each.artifact,
                each.engine,
                each.precision,
                *scores,
                *drop,
                *(getattr(each, name) for name in figures),
            ]
            writer.writerow([safe_cell(value) for value in row])
        return stream.getvalue()


def study_engines(
    request: ModelRequest,
    data: Split,
    calibration: CalibrationSource,
    out: Path,
    *,
    engines: Sequence[str] = tuple(ENGINES),
    images: int | None = None,
    threads: int | None = None,
    sampling: Sampling | None = None,
) -> EngineStudy:
    """Returns what each precision of a model scores and takes in each engine, with a report in a folder.

    Args:
        request: The model.
        data: The images to score on.
        calibration: The images that ranges come from.
        out: Folder for the files and the report.
        engines: Names of `ENGINES`; those that are not installed are left out.
        images: The most images to score on, evenly spaced; by default all.
        threads: CPU threads of each engine.
        sampling: How long files are timed, in turns.

    Raises:
        InputError: no engine is installed or takes the model, or there is nothing to score.
        MissingDependencyError: a package for the report is not installed.
        EngineError: an engine fails to run a file.
    """
    require_format(out / _REPORT)
    notes: list[str] = []
    jobs: list[Job] = []
    for engine in engines:
        try:
            jobs += [Job(each, engine) for each in _written(request, engine, calibration, out, threads, notes)]
        except InputError as error:
            notes.append(f"{engine} is left out: {error}")
    if not jobs:
        raise InputError(f"no engine can be studied; {'; '.join(notes)}")
    chosen = dataclasses.replace(data, images=tuple(evenly_spaced(data.images, images or len(data.images))))
    results: list[EvalResult[Score] | BenchResult] = []
    for engine in dict.fromkeys(job.runtime for job in jobs):
        paths = [job.artifact.path for job in jobs if job.runtime == engine]
        results += evaluate_artifacts(paths, data=chosen, runtimes=[engine], threads=threads)
    with machine_alone():
        results += bench_jobs(jobs, threads=threads, sampling=sampling)
    results = [dataclasses.replace(each, edgeq=edgeq.__version__) for each in results]
    write_json(out / _RESULTS, to_json(results))
    runs = read_runs([], results)
    write_report(runs, out / _REPORT)
    files = tuple(out / name for name in (_REPORT, _TABLE, _RESULTS))
    found = EngineStudy(build_document(runs, examples=0).entries, tuple(notes), files)
    write_text(out / _TABLE, found.to_csv())
    return found


def _written(
    request: ModelRequest,
    engine: str,
    calibration: CalibrationSource,
    out: Path,
    threads: int | None,
    notes: list[str],
) -> list[Artifact]:
    """Returns the files of a model for one engine, in the order of `PRECISIONS`.

    If one of them does not compute what the model computes, the others are written without it, and it is noted.

    Raises:
        InputError: the engine is not installed, or the model cannot be written for it.
    """
    if not get_runtime(engine).is_installed():
        raise InputError("it is not installed")
    target, form = ENGINES[engine]

    def write(precisions: Sequence[str]) -> list[Artifact]:
        found = export_model(
            request, target, precisions, out / "files" / engine, calibration=calibration, formats=(form,),
            threads=threads,
        )  # fmt: skip
        return [each.artifact for each in found.files]

    try:
        return write(PRECISIONS)
    except (ModelError, EngineError):
        written: list[Artifact] = []
        failures: dict[str, str] = {}
        for precision in PRECISIONS:
            try:
                written += write((precision,))
            except (ModelError, EngineError) as error:
                failures[precision] = str(error)
    if not written:
        raise InputError(failures[PRECISIONS[0]])
    notes += [f"{precision} in {engine} is left out: {reason}" for precision, reason in failures.items()]
    return written


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, float)


def _lost(drop: Drop | None) -> str:
    if drop is None:
        return "-"
    return f"{drop.points:+.2f}" if drop.low is None else f"{drop.points:+.2f} ({drop.low:+.2f} to {drop.high:+.2f})"
