"""Does a plan by kernel costs take the time that the costs predict?

`python -m benchmarks.kernel_prediction` times the kernels of six models in OpenVINO and ONNX Runtime, writes each
model's FP32 file, its INT8 file by kernel costs and its INT8 file by the target's rules alone, and times the three
whole files in turns, each in a fresh process. What is not in the table (layers that stay in float for their accuracy,
and functions) takes in INT8 files what it takes in the FP32 file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import msgspec

from benchmarks.cases import DATA, RESULTS, cpu_and_threads, read_subjects, subjects_parser, write_result
from edgeq.calibration.source import CalibrationSource
from edgeq.exporting.costs.plan import choose_by_cost, cost_problem, kernels_of, predicted_us
from edgeq.exporting.costs.table import KernelTable, shipped_table
from edgeq.exporting.onnx.writer import FloatModel, quantizable_graph, write_artifact, write_fp32, write_int8
from edgeq.exporting.planning.selection import select_layers
from edgeq.machine import read_machine
from edgeq.measurement.kernel_tables import TIMED_RUNTIMES, timed_engine
from edgeq.measurement.kernel_timing import time_kernels
from edgeq.runtimes import get_runtime
from edgeq.runtimes.child import RunnerProcess
from edgeq.sources.model import ModelRequest, open_model
from edgeq.targets import get_target

TARGETS = {"openvino": "x86-openvino", "onnxruntime": "x86-ort"}
MODELS = {
    "YuNet": ModelRequest(str(DATA / "models/yunet_n_320.onnx")),
    "UltraFace": ModelRequest(str(DATA / "models/ultraface_rfb320.onnx")),
    "YOLOX-nano": ModelRequest(str(DATA / "weights/yolox_nano_coco_416.onnx"), preset="yolox"),
    "FastestDet": ModelRequest(str(DATA / "weights/fastestdet_coco_352.onnx"), preset="fastestdet"),
    "CenterNet-R18": ModelRequest(
        "centernet_resnet18", DATA / "weights/centernet_r18_bccd.safetensors", size=(320, 416)
    ),
    "ResNet-50": ModelRequest("resnet50", size=(224, 224)),
}
PHOTOS = DATA / "coco/train2017"
"""Images to calibrate on; the times do not depend on them."""

HEADER = (
    "| model | engine | kernels | timed in, s | FP32, ms | INT8 layers | INT8/FP32 by costs: predicted | by shipped "
    "costs | measured | by rules: predicted | measured |"
)
_ROUNDS, _RUNS, _TURN_S = 15, 5, 0.05
_TIMEOUT_S = 300.0


class _Timed(msgspec.Struct):
    best_us: list[float]


@dataclasses.dataclass(frozen=True)
class Files:
    """The files of one model for one engine, with what the costs predict of them.

    Attributes:
        paths: `fp32`, `costs`, `rules` and `rewritten` (FP32 of the graph that INT8 files are made from) -> file.
        float_us: What the kernels of the table take in FP32.
        predicted: `costs`, `shipped` (the same choice by the shipped table) and `rules` -> what they take.
        shipped_float_us: What they take in FP32 by the shipped table.
        kernels: How many kernels were timed.
        timed_s: What that took.
        layers: Layers in INT8 by costs, and by the rules alone.
    """

    paths: dict[str, Path]
    float_us: float
    predicted: dict[str, float]
    shipped_float_us: float
    kernels: int
    timed_s: float
    layers: tuple[int, int]


def write_files(model: FloatModel, ranges: object, runtime: str, threads: int, folder: Path) -> Files:
    """Returns the files of a model, written to a folder."""
    target = get_target(TARGETS[runtime])
    graph, _ = quantizable_graph(model, target)
    quantized = select_layers(graph, target.rules).quantized
    kernels = sorted(set(kernels_of(graph, quantized).values()))
    machine, begun = read_machine(), time.perf_counter()
    rows = time_kernels(timed_engine(runtime, machine, threads), kernels, lambda _: None)
    timed_s = time.perf_counter() - begun
    table = KernelTable(runtime, "", machine.cpu, machine.cpu_features, threads, "measured", rows)
    chosen = choose_by_cost(graph, quantized, table, target.rules)
    problem = cost_problem(graph, quantized, table, target.rules)
    shipped = shipped_table(runtime, machine.cpu_features)
    assert shipped is not None
    other = cost_problem(graph, quantized, shipped, target.rules)
    paths = {
        "rewritten": write_artifact(model, graph, target, "fp32", folder / "rewritten", {}).path,
        "fp32": write_fp32(model, target, folder).path,
        "costs": write_int8(model, target, folder / "costs", ranges, costs=table).path,  # type: ignore[arg-type]
        "rules": write_int8(model, target, folder / "rules", ranges).path,  # type: ignore[arg-type]
    }
    predicted = {
        "costs": chosen.predicted_us,
        "shipped": predicted_us(other, chosen.int8),
        "rules": predicted_us(problem, problem.candidates),
    }
    layers = (len(chosen.int8), len(problem.candidates))
    shipped_float_us = predicted_us(other, frozenset())
    return Files(paths, chosen.float_us, predicted, shipped_float_us, len(kernels), timed_s, layers)


def time_files(
    paths: Mapping[str, Path], runtime: str, threads: int, compute: Mapping[str, str] = MappingProxyType({})
) -> dict[str, float]:
    """Returns name -> time in microseconds: the fastest run of several rounds, in which each file has its turn.

    Args:
        paths: Name -> file.
        runtime: The engine.
        threads: Its CPU threads.
        compute: Name -> what float layers are computed in, if not in `f32`.
    """
    command = (sys.executable, "-m", "edgeq.runtimes.kernel_timer")
    with contextlib.ExitStack() as stack:
        processes = {name: stack.enter_context(RunnerProcess(name, command)) for name in paths}
        for name, process in processes.items():
            process.ask(
                _TIMEOUT_S, "start", runtime=runtime, threads=threads, compute_precision=compute.get(name, "f32")
            )
            process.ask(_TIMEOUT_S, "open", files=[str(paths[name])])
        fields = {"first": 0, "count": 1, "runs": _RUNS, "warm_s": 0.0, "max_s": _TURN_S}
        rounds = [
            {
                name: process.ask_for(_Timed, _TIMEOUT_S, "time", **fields).best_us[0]
                for name, process in processes.items()
            }
            for _ in range(_ROUNDS)
        ]
    return {name: min(each[name] for each in rounds) for name in paths}


def compare(
    name: str, request: ModelRequest, runtime: str, images: CalibrationSource, threads: int, folder: Path
) -> str:
    """Returns the row of one model in one engine."""
    model = open_model(request).model
    target = get_target(TARGETS[runtime])
    ranges, _ = images.ranges(model, folder, None, [target])
    files = write_files(model, ranges, runtime, threads, folder)
    measured = time_files(files.paths, runtime, threads)
    fp32 = measured["fp32"]
    rest = measured["rewritten"] - files.float_us
    cells = [
        f"{files.kernels}", f"{files.timed_s:.1f}", f"{fp32 / 1000:.2f}", f"{files.layers[0]} of {files.layers[1]}",
        f"{(rest + files.predicted['costs']) / fp32:.3f}",
        f"{(measured['rewritten'] - files.shipped_float_us + files.predicted['shipped']) / fp32:.3f}",
        f"{measured['costs'] / fp32:.3f}", f"{(rest + files.predicted['rules']) / fp32:.3f}",
        f"{measured['rules'] / fp32:.3f}",
    ]  # fmt: skip
    return f"| {name} | {runtime} | {' | '.join(cells)} |"


def run(models: Mapping[str, ModelRequest], images: CalibrationSource, threads: int, out: Path) -> Path:
    """Returns the result file.

    Args:
        models: Name -> model.
        images: What INT8 files are calibrated on.
        threads: CPU threads of the engines.
        out: Folder for the result.
    """
    rows = []
    for runtime in TIMED_RUNTIMES:
        for name, request in models.items():
            with tempfile.TemporaryDirectory() as folder:
                rows.append(compare(name, request, runtime, images, threads, Path(folder)))
                print(rows[-1], flush=True)
    machine = read_machine()
    versions = ", ".join(f"{name} {importlib.metadata.version(get_runtime(name).package)}" for name in TIMED_RUNTIMES)
    text = [
        "# Time by kernel costs: predicted and measured", "", HEADER, f"|---|---|{'--:|' * 9}", *rows, "",
        "Measured in turns, a fresh process per file, bound inputs; a time is that of the fastest run, as for kernels. "
        "Weights of ResNet-50 are random; ranges are of a few images, which does not change the time.",
        f"{cpu_and_threads(machine, threads)}; {versions}.",
    ]  # fmt: skip
    return write_result(out, "kernel_prediction.md", "\n".join(text) + "\n")


def main() -> None:
    parser = subjects_parser(__doc__, MODELS, MODELS, 8, RESULTS)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the engines")
    arguments = read_subjects(parser, MODELS)
    models = {name: MODELS[name] for name in arguments.names}
    run(models, CalibrationSource(PHOTOS, None, "minmax", arguments.images), arguments.threads, arguments.out)


if __name__ == "__main__":
    main()
