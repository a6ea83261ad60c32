"""Which share of this CPU's peak do models reach in OpenVINO, in FP32, BF16 and INT8, and which layers hold INT8 back?

`python -m benchmarks.x86_peak` times large convolutions and a large linear layer in each precision: the most
multiplications per second of them is the peak, measured and not computed from a data sheet. Then it times each model's
FP32 file in FP32 and BF16 and its INT8 file, in turns, each in a fresh process. A layer holds back what it takes
beyond its multiplications at INT8's peak, by its kernel's cost in the precision that the file gives it. Files and
figures are kept in `--work`; `--prepare` writes the files alone, which a busy machine may do.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cases import cpu_and_threads, kept_result, read_subjects, subjects_parser, write_result
from benchmarks.kernel_prediction import MODELS, PHOTOS, time_files
from edgeq.calibration.source import CalibrationSource
from edgeq.exporting.costs.kernel import Kernel, kernel_of
from edgeq.exporting.costs.plan import choose_by_cost
from edgeq.exporting.costs.table import KernelCost, shipped_table
from edgeq.exporting.onnx.writer import quantizable_graph, write_fp32, write_int8
from edgeq.exporting.planning.selection import select_layers
from edgeq.machine import Machine, read_machine
from edgeq.measurement.kernel_tables import timed_engine
from edgeq.measurement.kernel_timing import time_kernels
from edgeq.sources.model import ModelRequest, open_model
from edgeq.targets import get_target

RUNTIME, TARGET = "openvino", "x86-openvino"
PRECISIONS = ("f32", "bf16", "int8")
LARGE = (
    Kernel("Conv", 256, 256, 56, 56, (3, 3)),
    Kernel("Conv", 512, 512, 28, 28, (3, 3)),
    Kernel("Conv", 512, 512, 40, 40),
    Kernel("Conv", 1024, 1024, 28, 28),
    Kernel("Gemm", 1024, 1024, 1024, 1),
)
"""Kernels with enough work to reach the peak in some precision."""

HEADER = "| model | GMAC | FP32, ms | of peak | BF16, ms | of peak | INT8, ms | of peak | held back in INT8 most by |"
WORK = Path("artifacts/x86_peak")
_HELD_BACK = 3


@dataclass(frozen=True)
class Layers:
    """The kernels of one model.

    Attributes:
        kernels: Name of a node -> its kernel.
        int8: Names of the nodes in INT8.
    """

    kernels: Mapping[str, Kernel]
    int8: frozenset[str]

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Layers:
        """Returns what `prepare` has found."""
        return cls({name: Kernel.parse(text) for name, text in found["kernels"].items()}, frozenset(found["int8"]))

    @property
    def macs(self) -> int:
        """Multiplications of all of them."""
        return sum(kernel.macs for kernel in self.kernels.values())

    def held_back(self, costs: Mapping[Kernel, KernelCost], peak_macs_per_us: float) -> list[str]:
        """Returns the layers that take longest beyond their multiplications at a peak, the worst first."""
        lost = {}
        for name, kernel in self.kernels.items():
            taken = costs[kernel].int8_us if name in self.int8 else costs[kernel].f32_us
            lost[name] = taken - kernel.macs / peak_macs_per_us
        worst = sorted(lost, key=lambda name: lost[name], reverse=True)[:_HELD_BACK]
        return [
            f"{name} ({self.kernels[name]}, {'INT8' if name in self.int8 else 'FP32'}): {lost[name] / 1000:.2f} ms"
            for name in worst
        ]


def prepare(request: ModelRequest, machine: Machine, images: CalibrationSource, folder: Path) -> dict[str, Any]:
    """Returns the layers of a model, after writing its FP32 file and its INT8 file, planned by shipped kernel costs."""
    model, target = open_model(request).model, get_target(TARGET)
    graph, _ = quantizable_graph(model, target)
    kernels = {str(node.name): kernel for node in graph.graph if (kernel := kernel_of(node)) is not None}
    quantized = select_layers(graph, target.rules).quantized
    table = shipped_table(RUNTIME, machine.cpu_features)
    assert table is not None
    ranges, _ = images.ranges(model, folder, None, [target])
    assert ranges is not None
    fp32 = write_fp32(model, target, folder).path
    int8 = write_int8(model, target, folder, ranges, costs=table).path
    return {
        "kernels": {name: str(kernel) for name, kernel in kernels.items()},
        "int8": sorted(choose_by_cost(graph, quantized, table, target.rules).int8),
        "files": {"f32": str(fp32), "bf16": str(fp32), "int8": str(int8)},
    }


def time_costs(kernels: Sequence[Kernel], machine: Machine, threads: int) -> dict[str, Any]:
    """Returns kernel -> what it costs."""
    found = time_kernels(timed_engine(RUNTIME, machine, threads), kernels, lambda _: None)
    return {str(kernel): dataclasses.asdict(cost) for kernel, cost in found.items()}


def find_peaks(costs: Mapping[Kernel, KernelCost]) -> dict[str, float]:
    """Returns precision -> most multiplications per microsecond of any kernel of `LARGE`; `bf16` if the CPU has it."""
    times = {name: {kernel: getattr(costs[kernel], f"{name}_us") for kernel in LARGE} for name in PRECISIONS}
    return {
        name: max(kernel.macs / taken for kernel, taken in found.items())
        for name, found in times.items()
        if None not in found.values()
    }


def row(
    name: str,
    layers: Layers,
    times: Mapping[str, float],
    costs: Mapping[Kernel, KernelCost],
    peaks: Mapping[str, float],
) -> str:
    """Returns the row of one model.

    Args:
        name: What the table calls it.
        layers: Its kernels.
        times: Precision -> microseconds of the whole file.
        costs: Kernel -> cost.
        peaks: Precision -> multiplications per microsecond.
    """
    cells = []
    for precision in PRECISIONS:
        if precision in times:
            share = layers.macs / times[precision] / peaks[precision]
            cells += [f"{times[precision] / 1000:.2f}", f"{share:.0%}"]
        else:
            cells += ["-", "-"]
    held_back = "; ".join(layers.held_back(costs, peaks["int8"]))
    return f"| {name} | {layers.macs / 1e9:.3f} | {' | '.join(cells)} | {held_back} |"


def prepare_all(
    models: Mapping[str, ModelRequest], images: CalibrationSource, machine: Machine, work: Path
) -> dict[str, dict[str, Any]]:
    """Returns name -> what `prepare` returns; what is in the folder `work` is not written again."""
    found = {}
    for name, request in models.items():
        folder = work / name
        folder.mkdir(parents=True, exist_ok=True)
        found[name] = kept_result(folder / "layers.json", prepare, request, machine, images, folder)
    return found


def run(
    models: Mapping[str, ModelRequest], images: CalibrationSource, threads: int, out: Path, work: Path = WORK
) -> Path:
    """Returns the result file.

    Args:
        models: Name -> model.
        images: What INT8 files are calibrated on.
        threads: CPU threads of the engine.
        out: Folder for the result.
        work: Folder for files and figures, which are kept.
    """
    machine = read_machine()
    found = prepare_all(models, images, machine, work)
    costs: dict[Kernel, KernelCost] = {}
    for name, kernels in {
        "": LARGE,
        **{name: Layers.of(each).kernels.values() for name, each in found.items()},
    }.items():
        missing = sorted(set(kernels) - costs.keys())
        kept = kept_result(work / name / f"costs.{threads}.json", time_costs, missing, machine, threads)
        costs |= {Kernel.parse(text): KernelCost(**cost) for text, cost in kept.items()}
    peaks, rows = find_peaks(costs), []
    for name, each in found.items():
        paths = {precision: Path(path) for precision, path in each["files"].items() if precision in peaks}
        times = kept_result(
            work / name / f"times.{threads}.json", time_files, paths, RUNTIME, threads, {"bf16": "bf16"}
        )
        rows.append(row(name, Layers.of(each), times, costs, peaks))
    return write_result(out, "x86_peak.md", to_markdown(rows, peaks, machine, threads))


def to_markdown(rows: Sequence[str], peaks: Mapping[str, float], machine: Machine, threads: int) -> str:
    """Returns the table, and below it how its figures were obtained."""
    found = ", ".join(f"{name} {peak / 1000:.0f} GMAC/s" for name, peak in peaks.items())
    lines = [
        "# Share of the CPU's peak", "", HEADER, f"|---|{'--:|' * 7}---|", *rows, "",
        f"Peaks, measured with the fastest of {len(LARGE)} large layers in each precision: {found}.",
        "Measured in turns, a fresh process per file; a time is that of the fastest run. INT8 files are planned by "
        "shipped kernel costs and compute their float layers in FP32; what holds them back is by costs measured here.",
        f"{cpu_and_threads(machine, threads)}, "
        f"{RUNTIME} {importlib.metadata.version(RUNTIME)}.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = subjects_parser(__doc__, MODELS, MODELS, 8, WORK)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the engine")
    parser.add_argument("--prepare", action="store_true", help="write the files, time nothing")
    given = read_subjects(parser, MODELS)
    models = {name: MODELS[name] for name in given.names}
    images = CalibrationSource(PHOTOS, None, "minmax", given.images)
    work = given.work.resolve()
    if given.prepare:
        prepare_all(models, images, read_machine(), work)
    else:
        run(models, images, given.threads, given.out, work)


if __name__ == "__main__":
    main()
