"""What does `edgeq tune` find for a budget, and how does it compare with NNCF's accuracy control?

`python -m benchmarks.tuning` tunes each model for a loss of 0.3 points, for half of the default file's time, and for
three quarters of its size, which takes weights of 4 bits. It scores and times these files together with FP32, the
default INT8 file and, in OpenVINO, what NNCF's `quantize_with_accuracy_control` makes on the same data. What was
measured is kept in `--work`, and not done again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.cases import cpu_and_threads, kept_result, read_subjects, subjects_parser, write_result
from benchmarks.image_sets import ImageSet, image_set
from benchmarks.nncf_accuracy_control import ControlJob
from benchmarks.peers import size_bytes
from benchmarks.scored_models import MODELS, scores
from benchmarks.sensitivity import EVERY, SCREENED, Case, open_case
from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.graphs.transformer import find_transformer
from edgeq.exporting.onnx.writer import write_fp32
from edgeq.files import write_json
from edgeq.machine import read_machine
from edgeq.measurement.benchmark import Job, Sampling, bench_jobs
from edgeq.measurement.speed_check import round_ratios
from edgeq.results.tuning import TuningResult
from edgeq.runtimes.latency import median_interval
from edgeq.targets import Target, get_target
from edgeq.targets.isa import with_isa
from edgeq.tuning.search_budget import Budget, Limit
from edgeq.tuning.search_choice import SearchOptions
from edgeq.tuning.search_costs import kept_by_cost, layer_costs
from edgeq.tuning.store import Store
from edgeq.verbs.export_costs import default_measuring
from edgeq.verbs.tune import default_candidate, tune_subject

NAMES = ("resnet20", "fastestdet", "yolox", "centernet", "vit")
TARGETS = {"openvino": "x86-openvino", "onnxruntime": "x86-ort"}
DROP = 0.3
"""Points that a tuned file may lose, by the estimate: so few images prove no such loss of AP."""

SIZE_SHARE = 0.75
"""Of the default file's size: less than any file of INT8 has."""

NNCF_MINUTES = 20
"""How long NNCF may look for its file, several times as long as a search takes."""

THREADS = 1
SAMPLING = Sampling(
    warmup_runs=3, warmup_s=0.3, min_runs=30, min_s=2.0, max_s=6.0, round_runs=2, round_s=0.05, idle_s=0
)
HEAD = ("file", "score", "points lost", "time / FP32", "MB", "INT8 layers", "trials", "minutes")


def measure(name: str, engine: str, data: Path, work: Path, num: int, nncf: str) -> dict[str, Any]:
    """Returns the rows of a model in an engine, and what was found on the way."""
    target = with_isa(get_target(TARGETS[engine]), None, read_machine())
    case = _for_search(open_case(name, data, work, num), target)
    images = image_set(MODELS[name].images, data, work, scored_every=EVERY.get(name, 1))
    folder = work / engine
    fp32 = write_fp32(case.subject.model, target, folder)
    files: list[tuple[str, Artifact | None, dict[str, Any]]] = [("FP32", fp32, {})]
    loss, tuned, minutes = _tuned(case, folder / "loss", Budget(max_drop=DROP))
    files.append(("default INT8", _default_file(case, folder / "default"), {}))
    files.append((f"tuned for {DROP} points", tuned, _facts(loss, minutes)))
    default = next((each for each in loss.files if each.name == "default"), loss.chosen)
    half = Limit(default.latency.ratio / 2, is_ratio=True, text=f"{default.latency.ratio / 2:.3f}x")
    bytes_allowed = int(SIZE_SHARE * default.size_bytes)
    smaller = Limit(bytes_allowed, is_ratio=False, text=f"{bytes_allowed}B")
    for title, part, budget in (
        ("tuned for half of default's time", "half", Budget(latency=half)),
        (f"tuned for {SIZE_SHARE:g} of default's size", "smaller", Budget(size=smaller)),
    ):
        try:
            other, found, minutes = _tuned(case, folder / part, budget)
            files.append((title, found, _facts(other, minutes)))
        except InputError as error:
            files.append((title, None, {"why": str(error)}))
    if engine == "openvino":
        files.append(_nncf(name, fp32, images, folder, num, nncf))
    rows = _rows(files, engine, images)
    return {"name": name, "engine": engine, "calibrated": num, "rows": rows, "kept": _kept(loss)}


def _for_search(case: Case, target: Target) -> Case:
    """Returns a case whose subject is what `edgeq tune` searches, less the calibration of rescaled channels."""
    model = case.subject.model
    subject = dataclasses.replace(
        case.subject,
        target=dataclasses.replace(target, rules=target.rules.of_any_size),
        vit_plan="fast" if find_transformer(model.graph).blocks else "balanced",
    )
    return dataclasses.replace(case, subject=subject)


def _tuned(case: Case, out: Path, budget: Budget) -> tuple[TuningResult, Artifact, float]:
    """Returns what a search found, its file, and the minutes that it took; later ones know the trials of the first."""
    begin = time.monotonic()
    options = SearchOptions(threads=THREADS, budget=budget, unproved=True)
    with Store(out.with_name("trials.sqlite")) as store:
        result, artifact = tune_subject(case.subject, case.task, case.inputs(SCREENED), out, options, store)
    return result, artifact, (time.monotonic() - begin) / 60


def _default_file(case: Case, out: Path) -> Artifact:
    """Returns the default INT8 file, which the search has tried, written."""
    costs = layer_costs(case.subject, THREADS, measure=default_measuring(None))
    return case.subject.write(default_candidate(case.subject, kept_by_cost(case.subject, costs, by_cost=True)), out)


def _facts(result: TuningResult, minutes: float) -> dict[str, Any]:
    layers = sum(len(group.layers) for group in result.groups)
    chosen = result.chosen
    narrow = f", {chosen.w4a8_layers} with 4 bits" if chosen.w4a8_layers else ""
    return {"layers": f"{chosen.int8_layers} of {layers}{narrow}", "trials": result.trials, "minutes": minutes}


def _kept(result: TuningResult) -> list[str]:
    """Returns the reasons of the layers that the file tuned for a loss keeps in float, those that cost most first."""
    kept = [group for group in result.groups if group.precision == "float"]
    return [f"{group.name}: {group.reason}" for group in sorted(kept, key=lambda group: -group.points)[:5]]


def _nncf(
    name: str, fp32: Artifact, images: ImageSet, folder: Path, num: int, python: str
) -> tuple[str, Artifact | None, dict[str, Any]]:
    """Returns the row of NNCF's accuracy control, run in its environment."""
    out, title = folder / "nncf.xml", f"NNCF accuracy control, {DROP} points"
    job = ControlJob(
        str(fp32.path), str(images.calibration), str(images.calibration_images or ""), num, str(images.truth),
        str(images.images), DROP, MODELS[name].is_transformer, THREADS, str(out),
    )  # fmt: skip
    answer = kept_result(folder / "nncf.json", _run_nncf, job, folder / "nncf.job.json", python)
    if "why" in answer:
        return title, None, answer
    artifact = dataclasses.replace(fp32, path=out, precision="int8", format="openvino").save()
    facts = {"layers": "", "trials": f"{answer['passes']:.1f} passes", "minutes": answer["seconds"] / 60}
    return title, artifact, {**facts, "nncf": answer["nncf"]}


def _run_nncf(job: ControlJob, file: Path, python: str) -> dict[str, Any]:
    """Returns what NNCF took, or why there is no file of it."""
    write_json(file, dataclasses.asdict(job))
    command = [python, "-m", "benchmarks.nncf_accuracy_control", str(file)]
    folder = Path(__file__).parents[1]
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, cwd=folder, timeout=60 * NNCF_MINUTES
        )
    except subprocess.TimeoutExpired:
        return {"why": f"not done in {NNCF_MINUTES} minutes"}
    if done.returncode:
        return {"why": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def _rows(
    files: Sequence[tuple[str, Artifact | None, dict[str, Any]]], engine: str, images: ImageSet
) -> list[dict[str, Any]]:
    """Returns the files scored on all images and timed in turns."""
    written = [artifact for _, artifact, _ in files if artifact is not None]
    scored = scores(written, engine, images)
    assert scored is not None
    compute = "f32" if engine == "openvino" else None
    timed = bench_jobs([Job(each, engine, compute) for each in written], threads=THREADS, sampling=SAMPLING)
    ratios = [median_interval(round_ratios(each, timed[0])) for each in timed]
    load = timed[0].load_average.before
    figures = iter(zip(written, scored, ratios, timed, strict=True))
    rows = []
    for title, artifact, facts in files:
        row: dict[str, Any] = {"title": title, **facts}
        if artifact is not None:
            _, score, ratio, result = next(figures)
            row |= {"score": score, "ratio": ratio, "ms": result.latency_ms.p50, "size": size_bytes(artifact)}
            row |= {"load": None if load is None else load[0], "stable": result.stable}
        rows.append(row)
    return rows


def section(found: dict[str, Any]) -> list[str]:
    """Returns the table of a model in an engine."""
    rows = found["rows"]
    score = rows[0]["score"]
    lines = [
        f"## {MODELS[found['name']].subject.title} in {found['engine']}: {score['name']} of {score['images']} images",
        "",
        f"Calibrated on {found['calibrated']} images.",
        "",
        f"| {' | '.join(HEAD)} |",
        f"|---{'|---:' * (len(HEAD) - 1)}|",
    ]
    lines += [_line(row) for row in rows]
    loads = {f"{row['load']:.1f}" for row in rows if row.get("load") is not None}
    if loads or not all(row.get("stable", True) for row in rows):
        lines += ["", f"Load average before timing: {', '.join(sorted(loads))} on {read_machine().usable_cpus} CPUs."]
    kept = [f"- {each}" for each in found["kept"]]
    return [*lines, "", *(["The file tuned for a loss keeps in float, among others:", "", *kept, ""] if kept else [])]


def _line(row: dict[str, Any]) -> str:
    if "score" not in row:
        return f"| {row['title']} | none: {row['why']} |{' |' * (len(HEAD) - 2)}"
    drop = row["score"].get("drop")
    ratio, low, high = row["ratio"]
    cells = (
        row["title"],
        f"{row['score']['value']:.4f}",
        "" if drop is None else f"{drop[0]:+.2f} ({drop[1]:+.2f} to {drop[2]:+.2f})",
        f"{ratio:.2f} ({low:.2f} to {high:.2f})",
        f"{row['size'] / 1e6:.2f}",
        row.get("layers", ""),
        str(row.get("trials", "")),
        "" if "minutes" not in row else f"{row['minutes']:.1f}",
    )
    return f"| {' | '.join(cells)} |"


def run(
    names: Sequence[str], engines: Sequence[str], data: Path, images: int, nncf: str, work: Path, out: Path
) -> Path:
    """Returns the result file; what the folder `work` has is not measured again.

    Args:
        names: Models.
        engines: Engines of x86.
        data: The shared data.
        images: How many images to calibrate on.
        nncf: Python of an environment with NNCF.
        work: Folder for files and figures.
        out: Folder of the result file.
    """
    lines = ["# Files tuned for a budget, and NNCF's accuracy control", ""]
    for name in names:
        folder = work / name
        folder.mkdir(parents=True, exist_ok=True)
        for engine in engines:
            lines += section(kept_result(folder / f"{engine}.json", measure, name, engine, data, folder, images, nncf))
            print("\n".join(lines), flush=True)
    lines += [*_not_run(names, engines), provenance()]
    return write_result(out, "tuning.md", "\n".join(lines) + "\n")


def make_parser() -> argparse.ArgumentParser:
    parser = subjects_parser(__doc__, NAMES, NAMES[:2], 64, Path("artifacts/tuning"))
    parser.add_argument("--engines", nargs="+", choices=tuple(TARGETS), default=["openvino"], help="engines of x86")
    parser.add_argument("--nncf", default=sys.executable, help="Python of an environment with nncf, openvino and edgeq")
    return parser


def main() -> None:
    given = read_subjects(make_parser(), NAMES)
    run(given.names, given.engines, given.data, given.images, given.nncf, given.work, given.out)


def _not_run(names: Sequence[str], engines: Sequence[str]) -> list[str]:
    """Returns what the page lacks, in a sentence."""
    missing = [MODELS[name].subject.title for name in NAMES if name not in names]
    missing += [f"{engine}, for all models" for engine in TARGETS if engine not in engines]
    faces = "YuNet and UltraFace, for whose faces there is no annotated data set here"
    return [f"Not run: {'; '.join([*missing, faces])}.", ""]


def provenance() -> str:
    """Returns what the figures were measured with."""
    import openvino

    return (
        f"Measured in OpenVINO {openvino.__version__} on {cpu_and_threads(read_machine(), THREADS)}, float layers in "
        f"FP32, files timed in turns in fresh processes. In brackets: 95 % intervals, "
        "of points over images (paired bootstrap), of times over rounds. Trials: files that were scored; of NNCF, "
        "images scored over images of the data set. Later searches know the trials of the first. The loss is "
        "judged by its estimate (`--unproved`)."
    )


if __name__ == "__main__":
    main()
