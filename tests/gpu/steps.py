"""What is tried on the GPU, one function a step; each runs in a process of its own, because a library may crash.

Every step is given a folder, in which earlier steps left files and engines, and returns rows of the table.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import edgeq
from edgeq.errors import EdgeqError
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.graphs.graph import read_onnx
from edgeq.runtimes import open_session
from edgeq.runtimes.observer import ExactObserver
from edgeq.runtimes.runner import make_inputs
from edgeq.runtimes.tensorrt.gpus import known_gpus
from edgeq.runtimes.tensorrt.library import TENSORRT_RTX, Messages, make_logger
from edgeq.sensors.nvidia_gpu import open_gpu_energy
from edgeq.verbs.build import BuildRequest, build_engines
from edgeq.verbs.inspect import inspect_engine
from tests.gpu.files import TARGET, Subject, subjects, write
from tests.gpu.refit import refit
from tests.gpu.small import gpu, relative_error, small_net
from tests.gpu.table import Row, judged

_LARGEST_ERROR = {"fp32": 1e-3, "fp16": 0.02, "int8": 0.1, "fp8": 0.1, "w4": 0.02, "fp4": 0.02}
"""Precision -> root mean square difference from exact arithmetic over that of the output."""

_LARGEST_LOSS = {"fp32": 0.003, "fp16": 0.005, "int8": 0.03, "fp8": 0.03}
"""Precision -> AP that may be lost, compared with FP32 in ONNX Runtime."""

_BENCH_S = 0.5


def bindings(_folder: Path) -> list[Row]:
    """Runs the tests that are marked for a GPU."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "gpu",
        "-rs",
        "-p",
        "no:cacheprovider",
        "tests/runtimes/cuda",
        "tests/gpu",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    told = [line.strip("= ") for line in done.stdout.splitlines() if line.startswith("SKIPPED") or " in " in line]
    return [judged("bindings", "pytest -m gpu", done.returncode == 0, "; ".join(told)[-400:])]


def energy(_folder: Path) -> list[Row]:
    """Reads the card's energy over a second."""
    counter = open_gpu_energy(Path("/"))
    if counter is None:
        return [Row("energy", "NVML", "skipped", "this GPU counts no energy, or there are several")]
    before, begun = counter.read_j(), time.monotonic()
    time.sleep(1.0)
    after, elapsed_s = counter.read_j(), time.monotonic() - begun
    watts = (after - before) / elapsed_s if before is not None and after is not None else float("nan")
    return [judged("energy", counter.source, 0 < watts < 2000, f"{watts:.1f} W idle")]


def validity(folder: Path) -> list[Row]:
    """Asks the library which engines this GPU runs: one for each kind that it builds for."""
    trt, found = TENSORRT_RTX.load(), []
    messages = Messages()
    runtime = trt.Runtime(make_logger(trt, messages))
    for name in known_gpus(trt):
        net = small_net(folder / "validity" / name)
        (built,) = build_engines([net.path], BuildRequest(sm=(name,)))
        state, diagnostics = runtime.get_engine_validity(buffer=built.artifact.path.read_bytes())
        found.append(f"{name} {state.name} ({diagnostics})" if state.name != "VALID" else f"{name} VALID")
    return [judged("validity", f"engines on {gpu()}", any("VALID" in each.split() for each in found), ", ".join(found))]


def files(folder: Path) -> list[Row]:
    """Writes the files of the models on the CPU, and builds their engines for this GPU."""
    rows = []
    for subject in subjects(folder):
        begun = time.monotonic()
        try:
            written = write(subject, folder / subject.name)
        except EdgeqError as error:
            rows.append(judged("build", subject.name, False, f"not written: {error}"))
            continue
        written_s = time.monotonic() - begun
        for artifact in written:
            rows.append(_built(subject, artifact, written_s))
    return rows or [Row("build", TARGET, "skipped", "no trained weights; EDGEQ_DATA names their folder")]


def _built(subject: Subject, artifact: Artifact, written_s: float) -> Row:
    what, begun = f"{subject.name} {artifact.precision}", time.monotonic()
    try:
        (built,) = build_engines([artifact.path], BuildRequest())
    except EdgeqError as error:
        older = "from sm" in str(error)  # this GPU does not compute that precision
        return Row("build", what, "skipped" if older else "FAILED", str(error))
    size = f"{built.artifact.size_bytes / 1e6:.1f} MB in {time.monotonic() - begun:.1f} s"
    return judged(
        "build", what, built.facts.gpus == (gpu(),), f"{size} (all files of the model written in {written_s:.0f} s)"
    )


def equality(folder: Path) -> list[Row]:
    """Runs each engine on the same input as its ONNX file in exact arithmetic."""
    return [_compared("equality", engine, _source(engine)) for engine in _engines(folder)]


def _compared(step: str, engine: Artifact, source: Artifact) -> Row:
    inputs = make_inputs(source)
    try:
        with open_session(engine, TENSORRT_RTX.runtime) as session:
            first = session.run(inputs)
            again = session.run(inputs)
    except EdgeqError as error:
        return judged(step, _name(engine), False, str(error))
    wanted = ExactObserver(read_onnx(source.path), list(first), 4).observe(inputs)
    worst = max(relative_error(first[name], wanted[name]) for name in first)
    same = all(np.array_equal(first[name], again[name]) for name in first)
    limit = _LARGEST_ERROR[engine.precision]
    return judged(step, _name(engine), worst <= limit and same, f"{worst:.2e} of {limit:g}, runs are equal: {same}")


def latency(folder: Path) -> list[Row]:
    """Measures each engine as `edgeq bench` does, with and without CUDA graphs, by the model."""
    return [row for graph in ("0", "1") for row in _latencies(folder, graph)]


def _latencies(folder: Path, graph: str) -> Iterator[Row]:
    os.environ["EDGEQ_CUDA_GRAPH"] = graph
    how = "with a CUDA graph" if graph == "1" else "without"
    for model, engines in _by_model(folder).items():
        try:
            results = edgeq.benchmark([engine.path for engine in engines], seconds=_BENCH_S)
        except EdgeqError as error:
            yield judged("latency", f"{model} {how}", False, str(error))
            continue
        for result in results:
            compute = result.gpu_ms.p50 if result.gpu_ms is not None else None
            joules = "" if result.energy is None else f", {result.energy.j_per_image} J per image"
            found = f"medians: GPU {compute} ms, host {result.latency_ms.p50} ms{joules}"
            yield judged("latency", f"{model} {result.precision} {how}", compute is not None, found)


def accuracy(folder: Path) -> list[Row]:
    """Scores the engines of detectors on shared images, and the FP32 file in ONNX Runtime."""
    rows = []
    for subject in subjects(folder):
        engines = _by_model(folder).get(subject.name, [])
        if subject.annotations is None or subject.images is None or not engines:
            continue
        fp32 = next(each for each in map(_source, engines) if each.precision == "fp32")
        scored: dict[str, Any] = {"images": subject.images, "annotations": subject.annotations}
        (reference,) = edgeq.evaluate(fp32.path, runtime="onnxruntime", **scored)
        wanted = float(reference.score.AP)  # type: ignore[attr-defined]
        for result in edgeq.evaluate([engine.path for engine in engines], **scored):
            found = float(result.score.AP)  # type: ignore[attr-defined]
            limit = _LARGEST_LOSS[result.precision]
            what = f"{subject.name} {result.precision}"
            rows.append(judged("AP", what, found >= wanted - limit, f"{found:.4f}, FP32 in ONNX Runtime {wanted:.4f}"))
    return rows or [Row("AP", TARGET, "skipped", "no engine of a detector")]


def layers(folder: Path) -> list[Row]:
    """Asks the inspector for the layers of each engine by precision."""
    rows = []
    for engine in _engines(folder):
        try:
            counts = inspect_engine(engine.path).inspection.counts
        except EdgeqError as error:
            rows.append(judged("layers", _name(engine), False, str(error)))
            continue
        rows.append(judged("layers", _name(engine), bool(counts), f"{counts}"))
    return rows


def kernels(folder: Path) -> list[Row]:
    """Opens an engine twice with an empty folder of compiled kernels."""
    os.environ["XDG_CACHE_HOME"] = str(folder / "kernels")
    states, seconds = [], []
    for _ in range(2):
        begun = time.monotonic()
        with open_session(_engines(folder)[0], TENSORRT_RTX.runtime) as session:
            session.run(make_inputs(session.artifact))
            states.append(session.environment()["compiled_kernels"])
        seconds.append(f"{time.monotonic() - begun:.2f} s")
    return [judged("kernels", "second opening", states == ["new", "loaded"], f"{states}, {', '.join(seconds)}")]


def _engines(folder: Path) -> list[Artifact]:
    models = sorted(path for path in folder.glob("*/*.engine"))
    return [Artifact.load(path) for path in models]


def _by_model(folder: Path) -> dict[str, list[Artifact]]:
    found: dict[str, list[Artifact]] = {}
    for engine in _engines(folder):
        found.setdefault(engine.path.parent.name, []).append(engine)
    return found


def _source(engine: Artifact) -> Artifact:
    """Returns the ONNX file that an engine was built from."""
    (name,) = engine.quantization["build"]["built_from"]
    return Artifact.load(engine.path.with_name(name))


def _name(engine: Artifact) -> str:
    return f"{engine.path.parent.name} {engine.precision}"


ON_ANY_GPU: dict[str, Callable[[Path], Sequence[Row]]] = {"bindings": bindings, "energy": energy}
"""Steps that need a GPU of NVIDIA with its driver."""

ON_RTX: dict[str, Callable[[Path], Sequence[Row]]] = {
    "validity": validity,
    "build": files,
    "equality": equality,
    "refit": refit,
    "kernels": kernels,
    "latency": latency,
    "AP": accuracy,
    "layers": layers,
}
"""Steps that need TensorRT for RTX and a GPU that it knows, in their order."""
