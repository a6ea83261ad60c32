"""What do kernels cost in OpenVINO and ONNX Runtime on this CPU? Writes the tables that ship with edgeq.

`python -m benchmarks.kernel_tables` times about 150 kernels per engine with `edgeq.measurement.kernel_timing`, as an
export does, and writes a table per engine. `--convert FILE` writes tables of another machine's figures instead: a CSV
with the columns engine, kind, C, HW, f32_us, int8_us and conv_in_out_us.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgeq.exporting.costs.kernel import Kernel
from edgeq.exporting.costs.table import SHIPPED, KernelCost, KernelTable, write_table
from edgeq.files import write_text
from edgeq.machine import read_machine
from edgeq.measurement.kernel_tables import TIMED_RUNTIMES, timed_engine
from edgeq.measurement.kernel_timing import time_kernels
from edgeq.progress import progress_bar

CHANNELS = ((8, 80), (16, 160), (16, 40), (32, 80), (32, 20), (64, 80), (64, 40), (64, 10), (128, 40), (128, 20),
            (256, 40), (256, 20), (512, 20), (512, 7))  # fmt: skip
"""Channels, and height and width of their maps."""

_NAMES = {"ov": "openvino", "ort": "onnxruntime"}


def kernels() -> Iterator[Kernel]:
    """Yields the kernels of the shipped tables: every kind, from small maps to large ones."""
    for channels, side in CHANNELS:
        for activation in ("Relu", "", "Silu") if channels in (16, 64) else ("Relu",):
            yield Kernel("Conv", channels, channels, side, side, activation=activation)
            yield Kernel("Conv", channels, channels, side, side, (3, 3), activation=activation)
        yield Kernel("Conv", channels, channels, side, side, (3, 3), (2, 2), activation="Relu")
        for stride in (1, 2):
            window = (stride, stride)
            yield Kernel("Conv", channels, channels, side, side, (3, 3), window, groups=channels, activation="Relu")
        yield Kernel("Conv", channels, 4 * channels, side // 2, side // 2)
        yield Kernel("Conv", 4 * channels, channels, side // 2, side // 2, activation="Relu")
        yield Kernel("Conv", channels, 2 * channels, side, side, stride=(2, 2))
        yield Kernel("Add", channels, channels, side, side, activation="Relu")
        yield Kernel("Concat", channels, 2 * channels, side, side, groups=2)
        yield Kernel("MaxPool", channels, channels, side, side, (3, 3), (2, 2))
        yield Kernel("Resize", channels, channels, side, side, (2, 2))
    for channels, side in ((64, 40), (256, 20)):
        yield Kernel("MaxPool", channels, channels, side, side, (5, 5))
        yield Kernel("Conv", channels, channels, side, side, (3, 3), groups=channels // 16, activation="Relu")
        yield Kernel("ConvTranspose", channels, channels, side, side, (4, 4), (2, 2), activation="Relu")
        yield Kernel("Conv", channels, channels, side, side, (5, 5), groups=channels, activation="Relu")
    for side, channels, size in ((224, 64, 7), (320, 16, 3), (416, 32, 3), (640, 32, 3)):
        yield Kernel("Conv", 3, channels, side, side, (size, size), (2, 2), activation="Relu")
    for rows, inputs, outputs in ((1, 512, 1000), (49, 96, 384), (197, 192, 768), (197, 768, 768), (197, 768, 3072)):
        yield Kernel("Gemm", inputs, outputs, rows, 1)


def run(every: Sequence[Kernel], threads: int, out: Path) -> list[Path]:
    """Returns the tables of some kernels on this machine, one per engine, written to the folder `out`."""
    return [measure(runtime, every, threads, out) for runtime in TIMED_RUNTIMES]


def measure(runtime: str, every: Sequence[Kernel], threads: int, out: Path) -> Path:
    """Returns the table of one engine."""
    machine = read_machine()
    begun = time.perf_counter()
    with progress_bar(len(every), runtime, unit="kernels") as advance:
        rows = time_kernels(timed_engine(runtime, machine, threads), every, advance)
    taken = time.perf_counter() - begun
    version = importlib.metadata.version(runtime)
    how = f"measured by `python -m benchmarks.kernel_tables` in {taken:.0f} s, {len(rows)} kernels, batch 1"
    table = KernelTable(runtime, version, machine.cpu, machine.cpu_features, threads, "measured", rows, how)
    isa = "avx512_vnni" if "avx512_vnni" in machine.cpu_features else "avx2"
    return _write(table, out / f"{isa}.{runtime}.csv")


def convert(source: Path, out: Path) -> list[Path]:
    """Returns the tables of an AVX2 machine's figures; half of what converts in and out counts for either end."""
    tables: dict[str, dict[Kernel, KernelCost]] = {runtime: {} for runtime in _NAMES.values()}
    with source.open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            channels, side = int(row["C"]), int(row["HW"])
            window = (1, 1) if row["kind"] == "1x1" else (3, 3)
            groups = channels if row["kind"].startswith("dw") else 1
            kernel = Kernel("Conv", channels, channels, side, side, window, groups=groups, activation="Relu")
            half = max(0.0, float(row["conv_in_out_us"])) / 2
            cost = KernelCost(float(row["f32_us"]), float(row["int8_us"]), None, half, half, half)
            tables[_NAMES[row["engine"]]][kernel] = cost
    versions = {"openvino": "2026.4.1", "onnxruntime": "1.32.0"}
    how = (
        f"converted from {source.name}: measured layer by layer in chains on another machine, whole microseconds; what "
        "converts a layer's input and output was measured together and is halved; kernels of other kinds are not in it"
    )
    return [
        _write(KernelTable(runtime, versions[runtime], "AMD EPYC", ("avx2",), 1, "measured", rows, how), out / name)
        for runtime, rows in tables.items()
        for name in [f"avx2.{runtime}.csv"]
    ]


def _write(table: KernelTable, path: Path) -> Path:
    write_text(path, write_table(table))
    print(f"{path}: {len(table.rows)} kernels")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=SHIPPED, help="folder for the tables")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the engines")
    parser.add_argument("--convert", type=Path, metavar="FILE", help="figures of another machine to convert")
    arguments = parser.parse_args()
    if arguments.convert is not None:
        convert(arguments.convert, arguments.out)
        return
    run(list(dict.fromkeys(kernels())), arguments.threads, arguments.out)


if __name__ == "__main__":
    main()
