"""How long do edgeq's INT8 files take in OpenVINO and ONNX Runtime, compared with FP32, NNCF and quantize_static?

`python -m benchmarks.x86_against_nncf` writes the files of each model to `--work`, where they stay for the next run,
then times those of an engine in turns, one fresh process per file, and compares their outputs with the model's. A
result that lies in `--work` is not measured again; remove its `*.json` to repeat it. `--prepare` writes files alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.any_graph import SUBJECTS, Subject, request_of, torchvision_subject
from benchmarks.cases import DATA, kept_result, read_subjects, subjects_parser, write_result
from benchmarks.peers import quantize, write_listing
from edgeq.calibration.source import CalibrationSource
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.signal.ratio import Sums
from edgeq.inputs.images import list_images, read_image
from edgeq.inputs.preprocessing import preprocess
from edgeq.machine import read_machine
from edgeq.measurement.benchmark import Job, Sampling, bench_jobs
from edgeq.measurement.speed_check import BF16, FP32, INT8, has_bf16, measure_speed, round_ratios
from edgeq.runtimes import open_session
from edgeq.runtimes.latency import median_interval
from edgeq.verbs.export import export_model

MODELS: Mapping[str, Subject] = {
    **{name: SUBJECTS[name] for name in ("yunet", "ultraface", "yolox", "fastestdet", "centernet")},
    "resnet50": torchvision_subject("ResNet-50", ":resnet50"),
    "vit": torchvision_subject("ViT-B/16", ":vit_b_16"),
}
IMAGES, COMPARED = 48, 16
TARGETS = {"openvino": "x86-openvino", "onnxruntime": "x86-ort"}
PEERS = {"openvino": ("NNCF", "nncf.xml"), "onnxruntime": ("quantize_static", "static.onnx")}
SAMPLING = Sampling(
    warmup_runs=3, warmup_s=0.3, min_runs=20, min_s=3.0, max_s=8.0, round_runs=2, round_s=0.05, idle_s=0
)
WORK = Path("artifacts/x86_against_nncf")
HEADER = (
    "| model | ms FP32 | FP32 in BF16 | {peer} | edgeq | edgeq / {peer} | recommended / FP32 | dB {peer} | dB edgeq |"
)


def prepare(name: str, data: Path, images: int, work: Path, runtimes: Sequence[str] = tuple(TARGETS)) -> None:
    """Writes the files of a model that are not there yet: FP32 and INT8 of edgeq, and the peer's, of each engine."""
    folder = work / name
    folder.mkdir(parents=True, exist_ok=True)
    source = CalibrationSource(data / "coco/train2017", num=images)
    request = request_of(MODELS[name], source, data, folder)
    ranges = folder / "ranges.json"
    for runtime in runtimes:
        target, (_, file) = TARGETS[runtime], PEERS[runtime]
        if not list(folder.glob(f"*.{target}.int8.onnx.json")):
            calibration = CalibrationSource(ranges) if ranges.is_file() else source
            exported = export_model(request, target, ("fp32", "int8"), folder, calibration=calibration)
            assert exported.ranges_path is not None
            if exported.ranges_path != ranges:
                exported.ranges_path.replace(ranges)
        if not (folder / f"{file}.json").is_file():
            listing = write_listing(folder / "images.txt", list_images(data / "coco/train2017"), images)
            tool = {"NNCF": "nncf-transformer" if name == "vit" else "nncf"}.get(PEERS[runtime][0], "ort-u8s8")
            quantize(tool, _file(folder, target, "fp32"), listing, folder / file)


def _file(folder: Path, target: str, precision: str) -> Artifact:
    (path,) = folder.glob(f"*.{target}.{precision}.onnx")
    return Artifact.load(path)


def measure(
    runtime: str, folder: Path, inputs: Sequence[np.ndarray], threads: int, sampling: Sampling
) -> dict[str, Any]:
    """Returns ratios with their 95 % intervals, milliseconds and signal-to-noise ratios of the files of an engine."""
    fp32, int8 = (_file(folder, TARGETS[runtime], precision) for precision in ("fp32", "int8"))
    peer = Artifact.load(folder / PEERS[runtime][1])
    machine = read_machine()
    # BF16 last: it is there where CPU and engine have it.
    jobs = [Job(fp32, runtime), Job(peer, runtime), Job(int8, runtime)]
    if has_bf16(runtime, machine):
        jobs.append(Job(fp32, runtime, "bf16"))
    results = bench_jobs(jobs, threads=threads, sampling=sampling)
    to_fp32 = [median_interval(round_ratios(each, results[0])) for each in results]
    recommended = measure_speed(int8, fp32, runtime, machine, threads).recommended
    reference = _outputs(fp32, runtime, inputs)
    return {
        "engine": results[0].environment.engine,
        "ms": results[0].latency_ms.p50 if results[0].latency_ms is not None else None,
        "bf16": to_fp32[3] if len(to_fp32) > 3 else None,
        "peer": to_fp32[1],
        "edgeq": to_fp32[2],
        "to_peer": median_interval(round_ratios(results[2], results[1])),
        "recommended": recommended,
        "db": [_decibels(reference, _outputs(file, runtime, inputs)) for file in (peer, int8)],
    }


def _outputs(artifact: Artifact, runtime: str, inputs: Sequence[np.ndarray]) -> list[Mapping[str, np.ndarray]]:
    (feed,) = artifact.inputs
    with open_session(artifact, runtime, 1, "f32") as session:
        return [session.run({feed.name: feed.encode(array)}) for array in inputs]


def _decibels(expected: Sequence[Mapping[str, np.ndarray]], found: Sequence[Mapping[str, np.ndarray]]) -> float:
    """Returns the mean over the outputs of their signal-to-noise ratios in dB, each over all images."""
    ratios = []
    for name in expected[0]:
        parts = [Sums.of(one[name], other[name]) for one, other in zip(expected, found, strict=True)]
        ratios.append(sum(parts, Sums()).snr_db)
    return float(np.mean(ratios))


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
    results: dict[str, dict[str, Any]] = {}
    for name in names:
        prepare(name, data, images, work, runtimes)
        found = results.setdefault(name, {})
        for runtime in runtimes:
            folder = work / name
            compared = _inputs(_file(folder, TARGETS[runtime], "fp32"), data)
            kept = work / f"{name}.{runtime}.{threads}.json"
            found[runtime] = kept_result(kept, measure, runtime, folder, compared, threads, sampling)
    return write_result(out, "x86_against_nncf.md", to_markdown(results, images, threads))


def _inputs(artifact: Artifact, data: Path) -> list[np.ndarray]:
    """Returns inputs of images that nothing was calibrated on."""
    assert artifact.preprocessing is not None
    paths = list_images(data / "coco/val2017")[::5][:COMPARED]
    return [preprocess(read_image(path), artifact.preprocessing)[0] for path in paths]


def to_markdown(results: Mapping[str, Mapping[str, Mapping[str, Any]]], images: int, threads: int) -> str:
    """Returns a table for each engine, under the CPU's features, with the geometric mean over the models."""
    machine = read_machine()
    lines = [f"# INT8 on {machine.cpu} ({', '.join(machine.cpu_features)}), {threads} thread{'s'[: threads > 1]}"]
    for runtime, (peer, _) in PEERS.items():
        rows = {name: found[runtime] for name, found in results.items() if runtime in found}
        if rows:
            engine = next(iter(rows.values()))["engine"]
            lines += ["", f"## {engine}", "", HEADER.format(peer=peer), "|---|" + "---:|" * 8]
            lines += [_row(MODELS[name].title, row) for name, row in rows.items()]
            mean = float(np.exp(np.mean([np.log(row["to_peer"][0]) for row in rows.values()])))
            lines += ["", f"Geometric mean of edgeq / {peer}: {mean:.2f}."]
    lines += [
        "",
        "Times over FP32's in the same engine: medians over interleaved rounds and 95 % intervals, measured, one "
        f"process for each file. dB: signal-to-noise ratio against FP32 on {COMPARED} COCO images, mean over the "
        f"outputs, as the engine computes; {images} other COCO images calibrate. Recommended: what edgeq's own timing, "
        "a second one, tells to take.",
    ]
    return "\n".join(lines) + "\n"


def _row(title: str, row: Mapping[str, Any]) -> str:
    named = {INT8: ("int8", row["edgeq"]), FP32: ("fp32", (1.0, 1.0, 1.0)), BF16: ("bf16", row["bf16"])}
    name, ratio = named.get(row["recommended"], ("too busy to tell", None))
    bf16 = "" if row["bf16"] is None else _interval(row["bf16"])
    cells = [
        f"{row['ms']:.2f}", bf16, _interval(row["peer"]), _interval(row["edgeq"]), _interval(row["to_peer"]),
        name if ratio is None else f"{ratio[0]:.2f} ({name})", *(f"{value:.1f}" for value in row["db"]),
    ]  # fmt: skip
    return f"| {title} | {' | '.join(cells)} |"


def _interval(ratio: Sequence[float]) -> str:
    return f"{ratio[0]:.2f} [{ratio[1]:.2f}, {ratio[2]:.2f}]"


def make_parser() -> argparse.ArgumentParser:
    parser = subjects_parser(__doc__, MODELS, MODELS, IMAGES, WORK)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the engines")
    parser.add_argument("--prepare", action="store_true", help="write the files, measure nothing")
    return parser


def main() -> None:
    given = read_subjects(make_parser(), MODELS)
    if given.prepare:
        for name in given.names:
            prepare(name, given.data, given.images, given.work)
    else:
        run(given.names, given.out, data=given.data, images=given.images, work=given.work, threads=given.threads)


if __name__ == "__main__":
    main()
