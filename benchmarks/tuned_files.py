"""The files that `benchmarks.tuning` compares: what is known of them without times, and their times, taken in turns."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cases import kept_result
from benchmarks.image_sets import ImageSet
from benchmarks.nncf_accuracy_control import ControlJob
from benchmarks.peers import AnyFormat, size_bytes
from benchmarks.scored_models import TUNED
from edgeq.evaluation.evaluate import evaluate_artifacts
from edgeq.exporting.artifact import Artifact
from edgeq.files import write_json
from edgeq.measurement.benchmark import bench_jobs
from edgeq.measurement.speed_check import round_ratios
from edgeq.measurement.timed_file import Job, Sampling
from edgeq.reporting.comparison import Comparison, compare
from edgeq.results.rows import merge
from edgeq.runtimes.latency import median_interval

THREADS = 1
SAMPLING = Sampling(
    warmup_runs=3, warmup_s=0.3, min_runs=20, min_s=1.5, max_s=4.0, round_runs=2, round_s=0.05, idle_s=0
)
NNCF = "NNCF accuracy control"


@dataclass(frozen=True)
class TunedFile:
    """A file, or why there is none.

    Attributes:
        title: What it is.
        artifact: The file.
        facts: What else is known: `layers`, `trials`, `minutes`, `why`.
    """

    title: str
    artifact: Artifact | None
    facts: dict[str, Any] = field(default_factory=dict)


def described(files: Sequence[TunedFile], engine: str, images: ImageSet, work: Path) -> list[dict[str, Any]]:
    """Returns all that is known of files without timing them: FP32 first, the same file once.

    Args:
        files: The files.
        engine: That scores them.
        images: The images to score on.
        work: Folder that their paths start from.
    """
    unique: dict[str, Artifact] = {}
    for each in files:
        if each.artifact is not None:
            unique.setdefault(each.artifact.digest, each.artifact)
    results = evaluate_artifacts(
        [each.path for each in unique.values()], images.truth, images.images, runtimes=[engine], threads=THREADS,
        compute_precisions=("f32",), place=AnyFormat(),
    )  # fmt: skip
    by_digest = {each.row.digest: each for each in compare(merge(results))}
    peer = next((each.artifact for each in files if each.title == NNCF and each.artifact), None)
    rows = []
    for each in files:
        row: dict[str, Any] = {"title": each.title, **each.facts}
        if each.artifact is not None:
            found = by_digest[each.artifact.digest]
            row |= _scores(found, None if peer is None else by_digest[peer.digest])
            row |= {"path": os.path.relpath(each.artifact.path, work), "size": size_bytes(each.artifact)}
        rows.append(row)
    return rows


def _scores(found: Comparison, peer: Comparison | None) -> dict[str, Any]:
    """Returns the score of a file, what it loses against FP32, and what it gains against NNCF's file."""
    score, row = found.row.score, found.row
    assert score is not None
    assert row.scores is not None
    column = score.columns[0]
    value = {"name": column.title, "value": score.numbers[column.name], "images": row.scores.images}
    known: dict[str, Any] = {"score": value}
    if found.reference is not row and (drop := found.main) is not None:
        known["drop"] = [drop.points, drop.low, drop.high]
    if peer is not None and peer is not found:
        against = Comparison(row, peer.row, found.predictions, peer.predictions).main
        assert against is not None
        low, high = (None if each is None else -each for each in (against.high, against.low))
        known["gain"] = [-against.points, low, high]
    return known


def timed(rows: Sequence[dict[str, Any]], engine: str, work: Path) -> dict[str, Any]:
    """Returns path of a file -> its time in ms, over FP32's and over that of NNCF's file; and how the machine was.

    All files of a model in an engine take turns, each in a fresh process.

    Args:
        rows: What `described` returned.
        engine: That runs them.
        work: Folder that paths start from.
    """
    paths = list(dict.fromkeys(row["path"] for row in rows if "path" in row))
    peer = next((row["path"] for row in rows if row["title"] == NNCF and "path" in row), None)
    compute = "f32" if engine == "openvino" else None
    jobs = [Job(Artifact.load(work / path), engine, compute) for path in paths]
    results = dict(zip(paths, bench_jobs(jobs, threads=THREADS, sampling=SAMPLING), strict=True))
    files = {}
    for path, result in results.items():
        files[path] = {"ms": result.latency_ms.p50, "ratio": median_interval(round_ratios(result, results[paths[0]]))}
        if peer is not None:
            files[path]["peer_ratio"] = median_interval(round_ratios(result, results[peer]))
    before = results[paths[0]].load_average.before
    stable = all(result.stable for result in results.values())
    return {"files": files, "load": None if before is None else before[0], "stable": stable}


def nncf_files(
    name: str, engine: str, fp32: Artifact, images: ImageSet, folder: Path, num: int, drop: float, minutes: float,
    python: str,
) -> list[TunedFile]:  # fmt: skip
    """Returns what NNCF makes by default and what its accuracy control makes of it, run in its environment.

    Args:
        name: Of the model.
        engine: Whose files are wanted.
        fp32: The float file.
        images: The images to calibrate and to score on.
        folder: Folder for the files.
        num: How many images to calibrate on.
        drop: Points that may be lost.
        minutes: Of the CPU, that the control may take.
        python: Python of an environment with NNCF.
    """
    suffix, kind = (".xml", "openvino") if engine == "openvino" else (".onnx", "onnx")
    out = folder / f"nncf{suffix}"
    job = ControlJob(
        str(fp32.path), engine, str(images.calibration), str(images.calibration_images or ""), num, str(images.truth),
        str(images.images), drop, TUNED[name].is_transformer, THREADS, minutes, str(out),
    )  # fmt: skip
    answer = kept_result(folder / "nncf.json", _run_nncf, job, folder / "nncf.job.json", python)
    quantized = dataclasses.replace(fp32, precision="int8", format=kind)
    files = []
    plain = folder / "plain" / f"intermediate_model{suffix}"
    if plain.is_file():
        files.append(TunedFile("NNCF without control", dataclasses.replace(quantized, path=plain).save()))
    if "why" in answer:
        return [*files, TunedFile(NNCF, None, answer)]
    facts = {
        "layers": str(answer["layers"]), "trials": f"{answer['passes']:.1f} passes", "minutes": answer["seconds"] / 60,
        "nncf": answer["nncf"],
    }  # fmt: skip
    return [*files, TunedFile(NNCF, dataclasses.replace(quantized, path=out).save(), facts)]


def _run_nncf(job: ControlJob, file: Path, python: str) -> dict[str, Any]:
    """Returns what NNCF took, or why there is no file of it."""
    write_json(file, dataclasses.asdict(job))
    command = [python, "-m", "benchmarks.nncf_accuracy_control", str(file)]
    folder = Path(__file__).parents[1]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder)
    if done.returncode:
        return {"why": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer
