"""`edgeq.check`, `edgeq.gate` and `edgeq.report`: what is said about files and results."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TypeAlias, overload

from edgeq.api.arguments import FilePath, path, paths
from edgeq.errors import InputError
from edgeq.files import require_writable
from edgeq.reporting.comparison import FEW
from edgeq.reporting.index import write_index
from edgeq.reporting.runs import Runs, read_runs
from edgeq.reporting.verdict import MAX_DROP
from edgeq.reporting.write import EXAMPLES, require_format, write_report
from edgeq.results.evaluation import EvalResult, Score
from edgeq.results.measurement import BenchResult
from edgeq.runtimes.tensorrt.compile import Compiler
from edgeq.verbs.check import CheckResult, check_file
from edgeq.verbs.check_compile import default_gpu
from edgeq.verbs.check_saturation import SaturationResult, check_question, check_saturation
from edgeq.verbs.gate import GateResult, Limits, check_limits

ResultOrPath: TypeAlias = "BenchResult | EvalResult[Score] | FilePath"
"""A result of `benchmark` or `evaluate`, or the path of a file or folder of results."""


@overload
def check(
    file: FilePath,
    target: str | None = None,
    tensorrt: str | None = None,
    *,
    compile: bool = False,
    sm: str | None = None,
) -> CheckResult: ...
@overload
def check(
    file: FilePath, *, isa: str, images: FilePath | None = None, preset: str | None = None
) -> SaturationResult: ...
def check(
    file: FilePath,
    target: str | None = None,
    tensorrt: str | None = None,
    *,
    isa: str | None = None,
    images: FilePath | None = None,
    preset: str | None = None,
    compile: bool = False,
    sm: str | None = None,
) -> CheckResult | SaturationResult:
    """Returns what TensorRT would refuse of a Q/DQ file, or compute differently: `result.checked.errors`.

    With `compile`, what TensorRT for RTX makes of it as well: `result.compiled`.

    With `isa`, which layers saturate on such x86 CPUs instead: `result.engines`.

    Args:
        file: An `.onnx` file of any tool.
        target: Target whose rules apply: `jetson-orin` (the default), or `jetson-orin-trt11` for strong typing.
        tensorrt: TensorRT's version, `10.3` for example; by default the target's.
        isa: x86 CPUs that the file is to run on: `avx2`, `vnni`, `amx`, or `any`, which means the weakest.
        images: With `isa`: a folder of images that the file is run on, in a simulation of such a CPU.
        preset: With `images`, for a file without a manifest: how it takes images.
        compile: Whether to compile the file too, with TensorRT for RTX in a process of its own; needs no GPU.
        sm: With `compile`: compute capability, by default `sm86`, for FP8 `sm89`, for FP4 `sm120`.

    Raises:
        InputError: the file, the target or the version cannot be used, or arguments belong to different questions.
        ModelError: the file holds no graph.
        MissingDependencyError: `compile` without TensorRT for RTX.
        EngineError: the compiler cannot be imported, or its log cannot be read.
    """
    check_question(isa, target, tensorrt, images, preset, compile, sm)
    if isa is None:
        with Compiler(sm or default_gpu(path(file, "file"))) if compile else nullcontext() as compiler:
            return check_file(path(file, "file"), target or "jetson-orin", tensorrt, compiler)
    folder = None if images is None else path(images, "images")
    return check_saturation(path(file, "file"), isa, folder, preset=preset)


def gate(
    runs: ResultOrPath | Sequence[ResultOrPath],
    *,
    max_drop: float | None = None,
    per_class: float | None = None,
    small: float | None = None,
    latency_ratio: float | None = None,
    few: int = FEW,
    strict: bool = False,
) -> GateResult:
    """Returns how results do against limits, compared with FP32 of the same model, runtime and device.

    `result.passed` is whether all limits hold. Each verdict has a 95 % interval; a figure within its limit whose
    interval extends past it is "not proved".

    Args:
        runs: Results of `benchmark` and `evaluate`, JSON files of `edgeq bench` and `edgeq eval`, or folders of them.
        max_drop: Maximum drop of AP, top-1 or cosine below FP32, in points (hundredths).
        per_class: The same for the AP or top-1 of each class.
        small: The same for the AP of small boxes.
        latency_ratio: Maximum latency as a multiple of FP32's.
        few: Minimum boxes (for a classifier: images) for `per_class` to judge a class.
        strict: Whether "not proved" fails too.

    Raises:
        InputError: no limit is given, there is nothing but FP32, or a result cannot be read.
    """
    for name, limit in (
        ("max_drop", max_drop),
        ("per_class", per_class),
        ("small", small),
        ("latency_ratio", latency_ratio),
    ):
        if limit is not None and not isinstance(limit, int | float):
            raise InputError(f"`{name}` is of type {type(limit).__name__}; wanted a number")
    return check_limits(_runs(runs).rows, Limits(max_drop, per_class, small, latency_ratio, few, strict))


def report(
    runs: ResultOrPath | Sequence[ResultOrPath] = (),
    out: FilePath = "report.html",
    *,
    images: FilePath | Sequence[FilePath] = (),
    examples: int = EXAMPLES,
    max_drop: float = MAX_DROP,
    index: FilePath | None = None,
) -> Path:
    """Writes one page or table of results that says how every figure was obtained, and returns its path.

    Args:
        runs: Results of `benchmark` and `evaluate`, JSON files of `edgeq bench`, `edgeq eval` and
            `edgeq check --compile`, or folders of them; ranges files.
        out: File to write: `.html` for people, `.md`, `.csv` or `.json` with the same figures.
        images: Folder of the scored images, or several, for detections drawn on them (`.html`).
        examples: Images on which FP32 and the quantized file are shown side by side (`.html`).
        max_drop: Points of the score that a file may lose, for the verdicts.
        index: Instead of all this: a folder of reports, into which `index.html` is written.

    Raises:
        InputError: a result cannot be read, or `out` not be written or is of no known format.
        MissingDependencyError: a package for `.html` is not installed.
    """
    if index is not None:
        return write_index(path(index, "index"))[0]
    page = path(out, "out")
    require_format(page)
    require_writable(page)
    write_report(_runs(runs), page, images_dirs=paths(images, "images"), examples=examples, max_drop=max_drop)
    return page


def _runs(given: ResultOrPath | Sequence[ResultOrPath]) -> Runs:
    entries = list(given) if isinstance(given, list | tuple) else [given]
    results = [entry for entry in entries if isinstance(entry, BenchResult | EvalResult)]
    files = [entry for entry in entries if not isinstance(entry, BenchResult | EvalResult)]
    return read_runs(paths(files, "runs"), results)
