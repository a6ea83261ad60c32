"""How do edgeq's INT8 files compare with FP32, NNCF and quantize_static in OpenVINO and ONNX Runtime?

`python -m benchmarks.x86_against_nncf` writes the files of each model to `--work`, scores them, then times those of an
engine in turns, one fresh process per file. Everything is kept in `--work` and not done again while the file that it is
of stays the same. `--prepare` writes and scores alone: that can be done on a busy machine, timing cannot.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.any_graph import request_of
from benchmarks.cases import DATA, cpu_and_threads, kept_result, read_subjects, subjects_parser, write_result
from benchmarks.image_sets import image_set
from benchmarks.peers import quantize, write_listing
from benchmarks.scored_models import MODELS, decibels, inputs_of, outputs_of, scores
from edgeq.calibration.source import CalibrationSource
from edgeq.exporting.artifact import Artifact
from edgeq.inputs.images import list_images
from edgeq.machine import read_machine
from edgeq.measurement.benchmark import bench_jobs
from edgeq.measurement.speed_check import BF16, FP32, INT8, has_bf16, measure_speed, round_ratios
from edgeq.measurement.timed_file import Job, Sampling
from edgeq.runtimes.latency import median_interval
from edgeq.verbs.export import export_model

IMAGES, COMPARED = 48, 16
TARGETS = {"openvino": "x86-openvino", "onnxruntime": "x86-ort"}
PEERS = {"openvino": ("NNCF", "nncf.xml"), "onnxruntime": ("quantize_static", "static.onnx")}
SAMPLING = Sampling(
    warmup_runs=3, warmup_s=0.3, min_runs=20, min_s=3.0, max_s=8.0, round_runs=2, round_s=0.05, idle_s=0
)
WORK = Path("artifacts/x86_against_nncf")
TIMES = "| model | ms FP32 | FP32 in BF16 | {peer} | edgeq | edgeq / {peer} | recommended / FP32 |"
SCORES = "| model | score | FP32 | {peer} | edgeq | edgeq - FP32 | dB {peer} | dB edgeq |"


def prepare(name: str, data: Path, images: int, work: Path, runtimes: Sequence[str] = tuple(TARGETS)) -> None:
    """Writes the files of a model that are not there yet: FP32 and INT8 of edgeq, and the peer's, of each engine."""
    folder, model = work / name, MODELS[name]
    folder.mkdir(parents=True, exist_ok=True)
    given = image_set(model.images, data, work)
    source = CalibrationSource(given.calibration, given.calibration_images, num=images)
    request = request_of(model.subject, source, data, folder)
    ranges = folder / "ranges.json"
    for runtime in runtimes:
        target, (_, file) = TARGETS[runtime], PEERS[runtime]
        if not list(folder.glob(f"*.{target}.int8.onnx.json")):
            calibration = CalibrationSource(ranges) if ranges.is_file() else source
            exported = export_model(request, target, ("fp32", "int8"), folder, calibration=calibration, plan="cost")
            assert exported.ranges_path is not None
            if exported.ranges_path != ranges:
                exported.ranges_path.replace(ranges)
        if not (folder / f"{file}.json").is_file():
            calibration_paths = list_images(given.calibration, given.calibration_images)
            listing = write_listing(folder / "images.txt", calibration_paths, images)
            tool = "ort-u8s8" if runtime == "onnxruntime" else "nncf-transformer" if model.is_transformer else "nncf"
            quantize(tool, _file(folder, target, "fp32"), listing, folder / file)


def _file(folder: Path, target: str, precision: str) -> Artifact:
    (path,) = folder.glob(f"*.{target}.{precision}.onnx")
    return Artifact.load(path)


def _files(folder: Path, runtime: str) -> tuple[Artifact, Artifact, Artifact]:
    """Returns the FP32 file of an engine, the peer's and edgeq's."""
    fp32, int8 = (_file(folder, TARGETS[runtime], precision) for precision in ("fp32", "int8"))
    return fp32, Artifact.load(folder / PEERS[runtime][1]), int8


def judge(name: str, runtime: str, data: Path, work: Path) -> dict[str, Any]:
    """Returns the scores of the three files of an engine, and the signal-to-noise ratios of the two INT8 files."""
    given = image_set(MODELS[name].images, data, work)
    fp32, *quantized = _files(work / name, runtime)
    inputs = inputs_of(fp32, given, COMPARED)
    reference = outputs_of(fp32, runtime, inputs)
    found = [outputs_of(file, runtime, inputs) for file in quantized]
    return {
        "scores": scores([fp32, *quantized], runtime, given),
        "db": [float(np.mean(decibels(reference, each))) for each in found],
    }


def measure(runtime: str, folder: Path, threads: int, sampling: Sampling) -> dict[str, Any]:
    """Returns milliseconds and ratios with their 95 % intervals of the files of an engine."""
    fp32, peer, int8 = _files(folder, runtime)
    machine = read_machine()
    # BF16 last: it is there where CPU and engine have it.
    jobs = [Job(fp32, runtime), Job(peer, runtime), Job(int8, runtime)]
    if has_bf16(runtime, machine):
        jobs.append(Job(fp32, runtime, "bf16"))
    results = bench_jobs(jobs, threads=threads, sampling=sampling)
    to_fp32 = [median_interval(round_ratios(each, results[0])) for each in results]
    return {
        "engine": results[0].environment.engine,
        "ms": results[0].latency_ms.p50 if results[0].latency_ms is not None else None,
        "bf16": to_fp32[3] if len(to_fp32) > 3 else None,
        "peer": to_fp32[1],
        "edgeq": to_fp32[2],
        "to_peer": median_interval(round_ratios(results[2], results[1])),
        "recommended": measure_speed(int8, fp32, runtime, machine, threads).recommended,
    }


def write_and_score(
    names: Sequence[str], data: Path, images: int, work: Path, runtimes: Sequence[str] = tuple(TARGETS)
) -> dict[str, dict[str, dict[str, Any]]]:
    """Returns model -> engine -> what `judge` returns; the arguments are those of `run`."""
    results: dict[str, dict[str, dict[str, Any]]] = {}
    for name in names:
        prepare(name, data, images, work, runtimes)
        for runtime in runtimes:
            kept = _kept(work, name, runtime, "scores")
            results.setdefault(name, {})[runtime] = kept_result(kept, judge, name, runtime, data, work)
    return results


def run(
    names: Sequence[str],
    out: Path,
    *,
    data: Path = DATA,
    images: int = IMAGES,
    work: Path = WORK,
    threads: int = 1,
    sampling: Sampling = SAMPLING,
    runtimes: Sequence[str] = tuple(TARGETS),
) -> Path:
    """Returns the result file.

    Args:
        names: Of `MODELS`.
        out: Folder of the result file.
        data: Folder of the real data.
        images: How many images are calibrated on.
        work: Folder for files and results.
        threads: CPU threads of the engines.
        sampling: How long is measured.
        runtimes: The engines.
    """
    results = write_and_score(names, data, images, work, runtimes)
    for name in names:
        for runtime in runtimes:
            kept = _kept(work, name, runtime, f"times.{threads}")
            results[name][runtime] |= kept_result(kept, measure, runtime, work / name, threads, sampling)
    return write_result(out, "x86_against_nncf.md", to_markdown(results, images, threads))


def _kept(work: Path, name: str, runtime: str, what: str) -> Path:
    """Returns where a result is kept, named after the INT8 file that it is of."""
    digest = _file(work / name, TARGETS[runtime], "int8").digest
    return work / f"{name}.{runtime}.{digest[:12]}.{what}.json"


def to_markdown(results: Mapping[str, Mapping[str, Mapping[str, Any]]], images: int, threads: int) -> str:
    """Returns two tables for each engine, under the CPU's features, with the geometric mean over the models."""
    machine = read_machine()
    lines = [f"# INT8 on {cpu_and_threads(machine, threads)}"]
    for runtime, (peer, _) in PEERS.items():
        rows = {MODELS[name].subject.title: found[runtime] for name, found in results.items() if runtime in found}
        if rows:
            engine = next(iter(rows.values()))["engine"]
            lines += ["", f"## {engine}", "", TIMES.format(peer=peer), "|---|" + "---:|" * 6]
            lines += [_time_row(title, row) for title, row in rows.items()]
            mean = float(np.exp(np.mean([np.log(row["to_peer"][0]) for row in rows.values()])))
            lines += ["", f"Geometric mean of edgeq / {peer}: {mean:.2f}.", ""]
            lines += [SCORES.format(peer=peer), "|---|---|" + "---:|" * 6]
            lines += [_score_row(title, row) for title, row in rows.items()]
    lines += [
        "",
        "Times over FP32's in the same engine: medians over interleaved rounds and 95 % intervals, measured, one "
        "process for each file. Recommended: what edgeq's own timing, a second one, tells to take. Scores and dB: as "
        "the engine computes on this CPU, float layers in FP32; the interval is over resampled images, paired. dB: "
        f"signal-to-noise ratio against FP32, mean over the outputs, on {COMPARED} images. All tools calibrate on the "
        f"same {images} images of the training set; edgeq plans by its shipped kernel costs.",
    ]
    return "\n".join(lines) + "\n"


def _time_row(title: str, row: Mapping[str, Any]) -> str:
    named = {INT8: ("int8", row["edgeq"]), FP32: ("fp32", (1.0, 1.0, 1.0)), BF16: ("bf16", row["bf16"])}
    name, ratio = named.get(row["recommended"], ("too busy to tell", None))
    bf16 = "" if row["bf16"] is None else _interval(row["bf16"])
    cells = [
        f"{row['ms']:.2f}", bf16, _interval(row["peer"]), _interval(row["edgeq"]), _interval(row["to_peer"]),
        name if ratio is None else f"{ratio[0]:.2f} ({name})",
    ]  # fmt: skip
    return f"| {title} | {' | '.join(cells)} |"


def _score_row(title: str, row: Mapping[str, Any]) -> str:
    cells = ["", "", "", "", ""]
    if row["scores"] is not None:
        fp32, peer, int8 = row["scores"]
        points, low, high = int8["drop"]
        gain = f"{-points / 100:+.4f} [{-high / 100:+.4f}, {-low / 100:+.4f}]"
        cells = [
            f"{fp32['name']}, {fp32['images']} images",
            *(f"{each['value']:.4f}" for each in (fp32, peer, int8)),
            gain,
        ]
    return f"| {title} | {' | '.join([*cells, *(f'{value:.1f}' for value in row['db'])])} |"


def _interval(ratio: Sequence[float]) -> str:
    return f"{ratio[0]:.2f} [{ratio[1]:.2f}, {ratio[2]:.2f}]"


def make_parser() -> argparse.ArgumentParser:
    parser = subjects_parser(__doc__, MODELS, MODELS, IMAGES, WORK)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the engines")
    parser.add_argument("--prepare", action="store_true", help="write and score the files, time nothing")
    return parser


def main() -> None:
    given = read_subjects(make_parser(), MODELS)
    if given.prepare:
        write_and_score(given.names, given.data, given.images, given.work)
    else:
        run(given.names, given.out, data=given.data, images=given.images, work=given.work, threads=given.threads)


if __name__ == "__main__":
    main()
