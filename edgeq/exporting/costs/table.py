"""`KernelTable`: what kernels cost in one engine on one machine, and how these figures were obtained."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from edgeq.errors import InputError
from edgeq.exporting.costs.kernel import Kernel

SHIPPED = Path(__file__).parents[2] / "data" / "kernels"
"""Folder of the tables that come with edgeq, `ISA.ENGINE.csv`."""

_ISAS = ("avx2", "avx512_vnni")
"""Instruction sets that a table comes with edgeq for, the weakest first."""

_STRONGER = frozenset({"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"})
"""Features of CPUs that add INT8 products in 32 bits: the table of AVX-512 VNNI is the nearest to all of them."""


@dataclass(frozen=True)
class KernelCost:
    """What one kernel costs, in microseconds, among neighbours of its own precision.

    Attributes:
        f32_us: In FP32.
        int8_us: In INT8.
        bf16_us: In BF16; `None` where the engine or the CPU has none, or nobody timed it.
        quantize_us: What it costs to convert its input to INT8, behind a float layer.
        dequantize_us: What it costs that its INT8 form writes floats.
        quantize_output_us: What it costs that its float form writes INT8; 0 where the engine does so in the kernel.
    """

    f32_us: float
    int8_us: float
    bf16_us: float | None = None
    quantize_us: float = 0.0
    dequantize_us: float = 0.0
    quantize_output_us: float = 0.0

    def __post_init__(self) -> None:
        times = [getattr(self, each.name) for each in fields(self)]
        if any(time is not None and not 0 <= time < math.inf for time in times):
            raise ValueError(f"times {times}: expected finite ones of at least 0 us")

    @property
    def converted_us(self) -> float:
        """In INT8 between float neighbours."""
        return self.int8_us + self.quantize_us + self.dequantize_us

    def scaled(self, factor: float, elements: float) -> KernelCost:
        """Returns what a kernel of other lengths costs.

        Args:
            factor: Times as much work.
            elements: Times as many elements to convert.
        """
        return KernelCost(
            self.f32_us * factor,
            self.int8_us * factor,
            None if self.bf16_us is None else self.bf16_us * factor,
            self.quantize_us * elements,
            self.dequantize_us * elements,
            self.quantize_output_us * elements,
        )


Obtained = Literal["measured", "shipped"]


@dataclass(frozen=True)
class KernelTable:
    """Times of kernels in one engine.

    Attributes:
        engine: Name of the runtime.
        version: Of the engine.
        cpu: Model name of the CPU.
        cpu_features: Its instruction sets that decide about INT8 and BF16.
        threads: CPU threads of the engine.
        obtained: `measured` on this machine, or `shipped` with edgeq.
        rows: The costs.
        how: How they were obtained, in a sentence.
    """

    engine: str
    version: str
    cpu: str
    cpu_features: tuple[str, ...]
    threads: int
    obtained: Obtained
    rows: Mapping[Kernel, KernelCost] = field(default_factory=dict)
    how: str = ""

    @property
    def is_measured(self) -> bool:
        """Whether its figures are this machine's."""
        return self.obtained == "measured"

    @property
    def source(self) -> str:
        """What the figures are, in a few words: every message that rests on them says it."""
        where = "measured on this machine" if self.is_measured else f"shipped, of {self.cpu}"
        return f"{where} ({self.engine} {self.version}, {self.threads} thread{'s' if self.threads > 1 else ''})"

    @property
    def kernels(self) -> list[Kernel]:
        """The kernels with a row, by kind."""
        return sorted(self.rows, key=lambda kernel: (kernel.kind, kernel))

    def to_json(self) -> dict[str, Any]:
        """Returns the table as JSON values, one object per kernel."""
        rows = [{"kernel": str(each), "kind": each.kind, **asdict(self.rows[each])} for each in self.kernels]
        facts = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "rows"}
        return {**facts, "cpu_features": list(self.cpu_features), "rows": rows}

    def cost(self, kernel: Kernel) -> KernelCost | None:
        """Returns the cost of a kernel: its row, or else that of the nearest of its kind, scaled to its lengths.

        `None` if the table has no kernel of its kind.
        """
        if (row := self.rows.get(kernel)) is not None:
            return row
        alike = [each for each in self.rows if each.kind == kernel.kind]
        if not alike:
            return None
        nearest = min(alike, key=lambda each: (_distance(each, kernel), each))
        elements = kernel.result.size / nearest.result.size
        work = kernel.macs / nearest.macs if kernel.macs and nearest.macs else elements
        return self.rows[nearest].scaled(work, elements)


def _distance(one: Kernel, other: Kernel) -> float:
    """Returns how much two kernels differ: doublings of channels, of pixels and of the window."""
    lengths = zip(_lengths(one), _lengths(other), strict=True)
    return sum(abs(math.log2(left / right)) for left, right in lengths) + (one.activation != other.activation) / 4


def _lengths(kernel: Kernel) -> tuple[float, ...]:
    window = kernel.kernel[0] * kernel.kernel[1]
    return (kernel.inputs, kernel.outputs, kernel.height * kernel.width, window, kernel.stride[0], kernel.dilation)


def write_table(table: KernelTable) -> str:
    """Returns a table as CSV: lines of `# name: value` about all rows, then one line per kernel."""
    about = {
        "engine": table.engine,
        "version": table.version,
        "cpu": table.cpu,
        "cpu_features": " ".join(table.cpu_features),
        "threads": str(table.threads),
        "how": table.how,
    }
    text = io.StringIO()
    text.writelines(f"# {name}: {value}\n" for name, value in about.items())
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["kernel", *_COLUMNS])
    for kernel, cost in sorted(table.rows.items()):
        values = [getattr(cost, name) for name in _COLUMNS]
        writer.writerow([str(kernel), *("" if value is None else f"{value:.1f}" for value in values)])
    return text.getvalue()


def read_table(path: Path) -> KernelTable:
    """Returns a table that comes with edgeq.

    Raises:
        InputError: the file is missing or not such a table.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        about = dict(line[2:].split(": ", 1) for line in lines if line.startswith("# "))
        rows = {
            Kernel.parse(row["kernel"]): KernelCost(**{name: float(row[name]) for name in _COLUMNS if row[name]})
            for row in csv.DictReader(line for line in lines if not line.startswith("#"))
        }
        return KernelTable(
            about["engine"], about["version"], about["cpu"], tuple(about["cpu_features"].split()),
            int(about["threads"]), "shipped", rows, about["how"],
        )  # fmt: skip
    except (OSError, KeyError, ValueError, TypeError, InputError) as error:
        raise InputError(f"{path}: is not a table of kernel costs ({error}); install edgeq again") from error


def shipped_table(engine: str, cpu_features: Iterable[str]) -> KernelTable | None:
    """Returns the table that comes with edgeq for an engine and the nearest CPU; `None` for other engines and CPUs."""
    features = set(cpu_features)
    isa = _ISAS[1] if features & _STRONGER else _ISAS[0]
    path = SHIPPED / f"{isa}.{engine}.csv"
    return read_table(path) if "avx2" in features and path.is_file() else None


_COLUMNS = tuple(each.name for each in fields(KernelCost))
