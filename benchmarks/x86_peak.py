"""Which share of this CPU's peak do models reach in OpenVINO, in FP32, BF16 and INT8, and which layers hold INT8 back?

`python -m benchmarks.x86_peak` times large convolutions and a large linear layer in each precision: the most
multiplications per second of them is the peak, measured and not computed from a data sheet. Then it times each model's
FP32 file in FP32 and BF16 and its INT8 file, in turns, each in a fresh process. A layer holds back what it takes
beyond its multiplications at INT8's peak, by its kernel's cost in the precision that the file gives it.
"""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cases import RESULTS, read_subjects, subjects_parser, write_result
from benchmarks.kernel_prediction import MODELS, PHOTOS, time_files
from edgeq.calibration.source import CalibrationSource
from edgeq.exporting.costs.kernel import Kernel, kernel_of
from edgeq.exporting.costs.plan import choose_by_cost
from edgeq.exporting.costs.table import KernelCost, KernelTable
from edgeq.exporting.onnx.writer import FloatModel, quantizable_graph, write_fp32, write_int8
from edgeq.exporting.planning.selection import select_layers
from edgeq.machine import Machine, read_machine
from edgeq.measurement.kernel_tables import timed_engine
from edgeq.measurement.kernel_timing import time_kernels
from edgeq.sources.model import ModelRequest, open_model
from edgeq.targets import get_target

RUNTIME, TARGET = "openvino", "x86-openvino"
LARGE = (
    Kernel("Conv", 256, 256, 56, 56, (3, 3)),
    Kernel("Conv", 512, 512, 28, 28, (3, 3)),
    Kernel("Conv", 512, 512, 40, 40),
    Kernel("Conv", 1024, 1024, 28, 28),
    Kernel("Gemm", 1024, 1024, 1024, 1),
)
"""Kernels with enough work to reach the peak in some precision."""

HEADER = "| model | GMAC | FP32, ms | of peak | BF16, ms | of peak | INT8, ms | of peak | held back in INT8 most by |"
_HELD_BACK = 3


@dataclass(frozen=True)
class Layers:
    """The kernels of one model.

    Attributes:
        kernels: Name of a node -> its kernel.
        costs: Kernel -> cost.
        int8: Names of the nodes in INT8.
    """

    kernels: Mapping[str, Kernel]
    costs: Mapping[Kernel, KernelCost]
    int8: frozenset[str]

    @property
    def macs(self) -> int:
        """Multiplications of all of them."""
        return sum(kernel.macs for kernel in self.kernels.values())

    def held_back(self, peak_macs_per_us: float) -> list[str]:
        """Returns the layers that take longest beyond their multiplications at a peak, the worst first."""
        lost = {}
        for name, kernel in self.kernels.items():
            cost = self.costs[kernel]
            taken = cost.int8_us if name in self.int8 else cost.f32_us
            lost[name] = taken - kernel.macs / peak_macs_per_us
        worst = sorted(lost, key=lambda name: lost[name], reverse=True)[:_HELD_BACK]
        return [
            f"{name} ({self.kernels[name]}, {'INT8' if name in self.int8 else 'FP32'}): {lost[name] / 1000:.2f} ms"
            for name in worst
        ]


def find_peaks(machine: Machine, threads: int) -> dict[str, float]:
    """Returns precision -> most multiplications per microsecond of any kernel of `LARGE`; `bf16` if the CPU has it."""
    costs = time_kernels(timed_engine(RUNTIME, machine, threads), LARGE, lambda _: None)
    times = {
        name: {kernel: getattr(cost, f"{name}_us") for kernel, cost in costs.items()}
        for name in ("f32", "bf16", "int8")
    }
    return {
        name: max(kernel.macs / taken for kernel, taken in found.items())
        for name, found in times.items()
        if None not in found.values()
    }


def find_layers(model: FloatModel, machine: Machine, threads: int) -> tuple[Layers, KernelTable]:
    """Returns the kernels of a model with their costs, and these as a table."""
    target = get_target(TARGET)
    graph, _ = quantizable_graph(model, target)
    kernels = {str(node.name): kernel for node in graph.graph if (kernel := kernel_of(node)) is not None}
    costs = time_kernels(timed_engine(RUNTIME, machine, threads), sorted(set(kernels.values())), lambda _: None)
    table = KernelTable(RUNTIME, "", machine.cpu, machine.cpu_features, threads, "measured", costs)
    quantized = select_layers(graph, target.rules).quantized
    chosen = choose_by_cost(graph, quantized, table, target.rules)
    return Layers(kernels, costs, chosen.int8), table


def measure(
    name: str,
    request: ModelRequest,
    peaks: Mapping[str, float],
    machine: Machine,
    images: CalibrationSource,
    threads: int,
    folder: Path,
) -> str:
    """Returns the row of one model."""
    model, target = open_model(request).model, get_target(TARGET)
    layers, table = find_layers(model, machine, threads)
    ranges, _ = images.ranges(model, folder, None, [target])
    assert ranges is not None
    fp32 = write_fp32(model, target, folder).path
    paths = {"f32": fp32, "bf16": fp32, "int8": write_int8(model, target, folder, ranges, costs=table).path}
    paths = {precision: path for precision, path in paths.items() if precision in peaks}
    times = time_files(paths, RUNTIME, threads, {"bf16": "bf16"})
    cells = []
    for precision in ("f32", "bf16", "int8"):
        if precision in times:
            share = layers.macs / times[precision] / peaks[precision]
            cells += [f"{times[precision] / 1000:.2f}", f"{share:.0%}"]
        else:
            cells += ["-", "-"]
    held_back = "; ".join(layers.held_back(peaks["int8"]))
    return f"| {name} | {layers.macs / 1e9:.3f} | {' | '.join(cells)} | {held_back} |"


def run(models: Mapping[str, ModelRequest], images: CalibrationSource, threads: int, out: Path) -> Path:
    """Returns the result file; the arguments are those of `benchmarks.kernel_prediction.run`."""
    machine = read_machine()
    peaks, rows = find_peaks(machine, threads), []
    for name, request in models.items():
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(name, request, peaks, machine, images, threads, Path(folder)))
            print(rows[-1], flush=True)
    found = ", ".join(f"{name} {peak / 1000:.0f} GMAC/s" for name, peak in peaks.items())
    text = [
        "# Share of the CPU's peak", "", HEADER, f"|---|{'--:|' * 7}---|", *rows, "",
        f"Peaks, measured with the fastest of {len(LARGE)} large layers in each precision: {found}.",
        "Measured in turns, a fresh process per file; a time is that of the fastest run. INT8 files are "
        "planned by kernel costs and compute their float layers in FP32.",
        f"{machine.cpu} ({', '.join(machine.cpu_features)}), {threads} thread{'s' if threads > 1 else ''}, "
        f"{RUNTIME} {importlib.metadata.version(RUNTIME)}.",
    ]  # fmt: skip
    return write_result(out, "x86_peak.md", "\n".join(text) + "\n")


def main() -> None:
    parser = subjects_parser(__doc__, MODELS, MODELS, 8, RESULTS)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the engine")
    arguments = read_subjects(parser, MODELS)
    models = {name: MODELS[name] for name in arguments.names}
    run(models, CalibrationSource(PHOTOS, None, "minmax", arguments.images), arguments.threads, arguments.out)


if __name__ == "__main__":
    main()
