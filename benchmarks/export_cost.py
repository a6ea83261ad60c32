"""What do kernel costs and the timing of whole files add to `edgeq export`, in seconds?

`python -m benchmarks.export_cost` exports each model from the same ranges without measuring anything (`--no-measure`),
with an empty cache of kernel costs, and again with what the first export left there. The second less the first of
these is what timing the INT8 file against FP32 takes; the first with measuring less the second, timing kernels. What
is finished is kept in `--work`; `--prepare` calibrates alone.
"""

from __future__ import annotations

import importlib.metadata
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.cases import cpu_and_threads, kept_result, read_subjects, subjects_parser, write_result
from benchmarks.kernel_prediction import MODELS, PHOTOS
from edgeq.calibration.source import CalibrationSource
from edgeq.files import cache_folder
from edgeq.machine import read_machine
from edgeq.sources.model import ModelRequest, open_model
from edgeq.targets import get_target
from edgeq.verbs.export import export_model

TARGETS = ("x86-openvino", "x86-ort")
WORK = Path("artifacts/export_cost")
HEADER = (
    "| model | target | `--no-measure`, s | first export, s | again, s | kernels | timing them, s | timing the file, "
    "s |"
)


@contextmanager
def _empty_cache() -> Iterator[None]:
    """Gives edgeq an empty cache folder."""
    before = os.environ.get("XDG_CACHE_HOME")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        try:
            yield
        finally:
            os.environ.pop("XDG_CACHE_HOME")
            if before is not None:
                os.environ["XDG_CACHE_HOME"] = before


def calibrate(request: ModelRequest, images: CalibrationSource, folder: Path) -> dict[str, Any]:
    """Returns where the ranges of a model are."""
    model = open_model(request).model
    _, path = images.ranges(model, folder, None, [get_target(name) for name in TARGETS])
    return {"ranges": str(path)}


def measure(request: ModelRequest, target: str, ranges: Path, threads: int) -> dict[str, Any]:
    """Returns the seconds of the three exports, how many kernels were timed, and whether they could be."""

    def export(measured: bool) -> tuple[float, bool]:
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            result = export_model(
                request, target, ("fp32", "int8"), Path(folder), calibration=CalibrationSource(ranges),
                threads=threads, measure_speed=measured, plan="cost",
            )  # fmt: skip
            seconds = time.perf_counter() - begun
        costs = result.files[-1].artifact.quantization_facts.kernel_costs
        return seconds, costs is not None and costs.measured

    export(measured=False)  # loads what an export needs, for all three
    with _empty_cache():
        without, _ = export(measured=False)
        first, timed = export(measured=True)
        again, _ = export(measured=True)
        logs = cache_folder().glob("kernels/*.jsonl")
        kernels = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in logs)
    return {"without": without, "first": first, "again": again, "kernels": kernels, "timed": timed}


def _row(name: str, target: str, found: Mapping[str, Any]) -> str:
    seconds = [f"{found[key]:.1f}" for key in ("without", "first", "again")]
    timing = f"{found['first'] - found['again']:.1f}" if found["timed"] else "too busy to time"
    cells = [*seconds, str(found["kernels"]), timing, f"{found['again'] - found['without']:.1f}"]
    return f"| {name} | {target} | {' | '.join(cells)} |"


def calibrate_all(models: Mapping[str, ModelRequest], images: CalibrationSource, work: Path) -> dict[str, Path]:
    """Returns name -> ranges; models whose ranges are in the folder `work` are not calibrated again."""
    ranges = {}
    for name, request in models.items():
        folder = work / name
        folder.mkdir(parents=True, exist_ok=True)
        ranges[name] = Path(kept_result(folder / "ranges_path.json", calibrate, request, images, folder)["ranges"])
    return ranges


def run(
    models: Mapping[str, ModelRequest], images: CalibrationSource, threads: int, out: Path, work: Path = WORK
) -> Path:
    """Returns the result file.

    Args:
        models: Name -> model.
        images: What is calibrated on, before anything is timed.
        threads: CPU threads of the engines.
        out: Folder for the result.
        work: Folder for ranges and results.
    """
    ranges, rows = calibrate_all(models, images, work), []
    for name, request in models.items():
        for target in TARGETS:
            kept = work / name / f"{target}.{threads}.json"
            rows.append(_row(name, target, kept_result(kept, measure, request, target, ranges[name], threads)))
    machine = read_machine()
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("openvino", "onnxruntime"))
    lines = [
        "# What measuring adds to an export", "", HEADER, f"|---|---|{'--:|' * 6}", *rows, "",
        "Measured: FP32 and INT8 from ranges that were there, in one process that has loaded everything. First export: "
        "with an empty cache of kernel costs; again: with those that the first left. Timing them is the difference of "
        "the two, timing the file that of the last and `--no-measure`.",
        f"{cpu_and_threads(machine, threads)}; {versions}.",
    ]  # fmt: skip
    return write_result(out, "export_cost.md", "\n".join(lines) + "\n")


def main() -> None:
    parser = subjects_parser(__doc__, MODELS, MODELS, 8, WORK)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the engines")
    parser.add_argument("--prepare", action="store_true", help="calibrate, time nothing")
    given = read_subjects(parser, MODELS)
    models = {name: MODELS[name] for name in given.names}
    images = CalibrationSource(PHOTOS, None, "minmax", given.images)
    work = given.work.resolve()
    if given.prepare:
        calibrate_all(models, images, work)
    else:
        run(models, images, given.threads, given.out, work)


if __name__ == "__main__":
    main()
