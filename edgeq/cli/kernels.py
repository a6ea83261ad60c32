"""Prints tables of kernel costs: `edgeq doctor --kernels`."""

from __future__ import annotations

from collections.abc import Sequence

from edgeq.cli.printing import say
from edgeq.exporting.costs.kernel import Kernel
from edgeq.exporting.costs.table import KernelCost, KernelTable

_TITLES = ("kernel", "kind", "f32", "bf16", "int8", "converted", "int8/f32", "converted/f32")
_LEFT = 2


def print_kernels(tables: Sequence[KernelTable]) -> None:
    """Prints what kernels cost, a table per engine, with how the figures were obtained."""
    for table in tables:
        say(f"{table.engine}: {table.source}; us, batch 1; converted: INT8 between float neighbours")
        if table.how:
            say(f"  {table.how}")
        rows = [_TITLES, *(_cells(kernel, table.rows[kernel]) for kernel in table.kernels)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = [
                cell.ljust(width) if index < _LEFT else cell.rjust(width)
                for index, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            say(f"  {'  '.join(cells).rstrip()}")
    measured = {table.engine for table in tables if table.is_measured}
    if shipped := [table.engine for table in tables if table.engine not in measured]:
        say(
            f"{', '.join(shipped)}: nothing was measured here yet; `edgeq export --precision int8` times the kernels "
            "of its model"
        )


def _cells(kernel: Kernel, cost: KernelCost) -> tuple[str, ...]:
    values = (cost.f32_us, cost.bf16_us, cost.int8_us, cost.converted_us)
    ratios = (value / cost.f32_us if cost.f32_us else None for value in (cost.int8_us, cost.converted_us))
    return (
        str(kernel),
        kernel.kind,
        *("-" if value is None else f"{value:.1f}" for value in values),
        *("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
    )
