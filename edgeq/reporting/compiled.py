"""What NVIDIA's compiler made of files: the rows of a table, and the sentence that says what it is and is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from edgeq.reporting.document import CompiledEntry
from edgeq.results.compilation import Compilation, CompiledFile, NodePrecision
from edgeq.results.rows import Row

TEXTS = ("file", "compiler", "result", "as planned", "computed in", "fused attention")
"""Titles of the columns of words."""
FIGURES = ("kernels", "conversions", "float epilogues", "plan MB", "weights MB", "activations MB")
"""Titles of the columns of numbers, which stand behind them."""

NOTE = (
    "Compiled by TensorRT for RTX without a GPU, which is not the TensorRT of a Jetson: nothing was run, and no speed "
    "or accuracy follows. As planned: weighted layers, and products of activations, that multiply in the type that the "
    "file's Q/DQ pairs mean. Conversions: kernels that only convert, quantize or move values. Float epilogues: INT8 "
    "layers that write floats, so that another kernel adds the bias and quantizes again."
)


def compiled_entry(file: CompiledFile, rows: Sequence[Row]) -> CompiledEntry:
    """Returns a compiled file with the numbers of the rows that are of the same file."""
    found = file.compiled
    numbers = tuple(number for number, row in enumerate(rows, start=1) if _is_same(row, file))
    return CompiledEntry(numbers, file, found.verdict, found.agreeing, found.groups)


def _is_same(row: Row, file: CompiledFile) -> bool:
    if row.digest and file.digest:
        return row.digest == file.digest
    return row.artifact == file.name


def cells(entry: CompiledEntry) -> tuple[str, ...]:
    """Returns what a file's row says under `TEXTS` and `FIGURES`; of a refused file no figures."""
    compiled = entry.file.compiled
    head = (entry.file.name, compiler_name(compiled), _result(compiled))
    if not compiled.is_built:
        return (*head, *("-" for _ in (*TEXTS, *FIGURES)[len(head) :]))
    attention = ", ".join(f"{count} {types}" for types, count in compiled.fused_attention.items())
    sizes = (compiled.plan_bytes, compiled.weights_bytes, compiled.activation_bytes)
    return (
        *head,
        f"{entry.agreeing} of {len(compiled.nodes)}",
        _computed_in(compiled) or "-",
        attention or "none",
        *map(str, (compiled.kernels, compiled.conversions, compiled.float_epilogues)),
        *(f"{size / 1e6:.2f}" for size in sizes),
    )


def _computed_in(compiled: Compilation) -> str:
    """Returns the types that layers multiply in, and those of weights that stay stored in few bits."""
    counts: Counter[str] = Counter()
    for group in compiled.groups:
        weights = f" by {group.stored}" if group.stored and group.planned == "weights" else ""
        counts[f"{group.compiled or 'unknown'}{weights}"] += group.count
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))


def compiler_name(compiled: Compilation) -> str:
    """Returns the compiler with its version, and what it compiled for."""
    return f"{compiled.library}, {compiled.sm}"


def difference(node: NodePrecision) -> str:
    """Returns in what a layer differs from the plan, and why."""
    return f"planned {node.planned}, compiled to {node.compiled or 'nothing'}: {node.reason or 'no reason is known'}"


def _result(compiled: Compilation) -> str:
    if compiled.is_built:
        return f"{compiled.verdict}; {compiled.note}" if compiled.note else compiled.verdict
    node = f"node {compiled.node}: " if compiled.node else ""
    return f"{compiled.verdict}: {node}{compiled.reason}"
