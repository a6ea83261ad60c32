"""What the command line prints: tables for people, on stdout."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgeq.cli.words import as_options
from edgeq.results.evaluation import Score
from edgeq.results.rows import LOCAL, Row, provenance
from edgeq.results.table import Column, filled, header, report_columns, table
from edgeq.wording import counted, printable

if TYPE_CHECKING:
    from edgeq.verbs.build import BuildResult
    from edgeq.verbs.doctor import Diagnosis
    from edgeq.verbs.gate import GateResult
    from edgeq.verbs.inspect import EngineReport
    from edgeq.verbs.worst import WorstImages

# A pipe has no width; rich would fold tables at 80 columns.
_PIPE_WIDTH = 1000
_STYLES = {"ok": "green", "missing": "yellow", "warning": "yellow", "broken": "red"}

_MAX_CLASSES = 100
_NAMED = 5

Cells = Sequence[Sequence[str]]


def print_report(rows: Sequence[Row], columns: Sequence[Column] | None = None) -> None:
    """Prints a table of results without its empty columns, and below it how every figure was obtained.

    A terminal that is too narrow gets each artifact's name on a line of its own.

    Args:
        rows: The results.
        columns: By default those of `edgeq report`.
    """
    columns = filled(rows, report_columns(rows) if columns is None else columns)
    titles, cells = header(columns), table(rows, columns)
    console = open_console()
    layouts = (_one_line_a_row(titles, cells), _by_artifact(titles, cells, 2), _by_artifact(titles, cells, 1))
    fitting = (each for each in layouts if max(cell_len(line) for line in chain(*each)) <= console.width)
    _print_lines(console, *next(fitting, layouts[-1]))
    for sentence in provenance(rows):
        console.print(sentence, style="dim", soft_wrap=True, markup=False)


def print_failures(errors: Mapping[str, str]) -> None:
    """Prints a row for each device that failed, with the reason."""
    console = open_console()
    for device, error in errors.items():
        reason = as_options(" ".join(error.removeprefix(f"{device}: ").split()))
        console.print(f"{device}  failed: {reason}", style="red", soft_wrap=True, markup=False)


def print_classes(score: Score) -> None:
    """Prints the scores of each class that the images hold; nothing for a task without classes.

    Hundreds of classes with an image or two each tell nothing; beyond 100 they are left to the JSON file.
    """
    if not score.class_titles:
        return
    console = open_console()
    classes = [each for each in score.classes if each.support]
    if len(classes) > _MAX_CLASSES:
        console.print(f"{len(classes)} classes; --json FILE holds the scores of each", style="dim", soft_wrap=True)
        return
    cells = [
        (each.name, str(each.support), *("-" if value is None else f"{value:.4f}" for value in each.values))
        for each in classes
    ]
    top, *lines = _align([("class", *score.class_titles), *cells], left=1)
    _print_lines(console, [top], lines)


def print_table(rows: Cells) -> None:
    """Prints rows of cells below their titles, which are the first row; the first column is aligned to the left."""
    top, *lines = _align(rows, left=1)
    _print_lines(open_console(), [top], lines)


def print_worst(worst: Sequence[WorstImages]) -> None:
    """Prints for each file the kinds of error with their change from FP32, and where its pictures are."""
    console = open_console()
    for each in worst:
        where = each.runtime if each.device == LOCAL else f"{each.runtime} on {each.device}"
        console.print(f"{each.artifact} compared with {each.reference}, {where}", soft_wrap=True, markup=False)
        rows = [("kind of error", "FP32", "this", "change", "points of AP50: FP32", "this", "change")]
        rows += [
            (
                error.kind,
                *_with_change(error.count, error.count_change or 0, "d"),
                *_with_change(error.points, error.points_change or 0.0, ".2f"),
            )
            for error in each.errors
        ]
        if each.errors:
            top, *lines = _align(rows, left=1)
            _print_lines(console, [top], lines)
        folder = each.pictures[0].parent if each.pictures else None
        pictures = counted(len(each.pictures), "picture")
        found = "no image differs" if folder is None else f"{folder}: {pictures}, the worst first"
        console.print(f"{found}; findings from a score of {each.threshold:.2f}", soft_wrap=True, markup=False)


def _with_change(value: float, change: float, form: str) -> tuple[str, str, str]:
    """Returns what a figure was, what it is, and its change, as text."""
    return f"{value - change:{form}}", f"{value:{form}}", f"{change:+{form}}"


def _one_line_a_row(titles: Sequence[str], cells: Cells) -> tuple[list[str], list[str]]:
    top, *lines = _align([titles, *cells], left=2)
    return [top], lines


def _by_artifact(titles: Sequence[str], cells: Cells, gap: int) -> tuple[list[str], list[str]]:
    # Titles are broken at their spaces: "memory" above "MB", "time /" above "FP32".
    broken = [re.split(" (?!/)", title) for title in titles[1:]]
    height = max(map(len, broken))
    heads = [[""] * (height - len(words)) + words for words in broken]
    runtimes = [(f"  {runtime}", *figures) for _, runtime, *figures in cells]
    aligned = _align([*zip(*heads, strict=True), *runtimes], left=1, gap=gap)
    lines: list[str] = []
    previous = ""
    for (artifact, *_), line in zip(cells, aligned[height:], strict=True):
        lines += [line] if artifact == previous else [artifact, line]
        previous = artifact
    return aligned[:height], lines


def _align(rows: Cells, *, left: int, gap: int = 2) -> list[str]:
    """Returns one line for each row of cells: the first `left` columns aligned to the left, figures to the right."""
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        padding = [" " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)]
        names = [cell + space for cell, space in zip(row[:left], padding, strict=False)]
        figures = [space + cell for cell, space in zip(row[left:], padding[left:], strict=True)]
        lines.append((" " * gap).join([*names, *figures]).rstrip())
    return lines


def _print_lines(console: Console, top: Sequence[str], lines: Sequence[str]) -> None:
    for line in top:
        console.print(line, style="bold", soft_wrap=True, markup=False)
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)


def describe_engine(built: BuildResult) -> list[str]:
    """Returns what `edgeq build` made: size, memory, layers by precision, and what it was chosen from."""
    facts, artifact = built.facts, built.artifact
    layers = ", ".join(f"{count} {precision}" for precision, count in facts.layers.items())
    to_run = "" if built.device_memory_bytes is None else f", {built.device_memory_bytes / 1e6:.1f} MB to run"
    built_for = f"for {', '.join(facts.gpus)}, not opened" if facts.gpus else f"layers: {layers}"
    lines = [
        f"{artifact.path}  {artifact.size_bytes / 1e6:.2f} MB{to_run}",
        f"    {facts.route} route{f', scales from {facts.scales_from}' if facts.scales_from else ''}; {built_for}",
    ]
    for result in built.compared:
        error = "" if result.relative_error is None else f"relative error {result.relative_error:.4f}, "
        lines.append(f"    {result.route}: {error}time / explicit {result.ratio:.2f} (measured in turns)")
    if facts.missing_scales:
        lines.append(f"    tensors without a scale: {len(facts.missing_scales)}")
    return lines


def print_inspection(report: EngineReport) -> None:
    """Prints the layers of an engine by precision with their share of the profiled time, and the slowest ones."""
    console = open_console()
    platform, found = report.facts.platform, report.inspection
    mode = f", power mode {platform.power_mode}" if platform.power_mode else ""
    console.print(
        f"{report.artifact.name}: TensorRT {platform.tensorrt}, {platform.gpu} ({platform.compute_capability}){mode}, "
        f"{report.artifact.size_bytes / 1e6:.2f} MB, {report.device_memory_bytes / 1e6:.1f} MB to run",
        soft_wrap=True,
        markup=False,
    )
    rows = [(name, str(count), f"{100 * (found.share(name) or 0):.1f}") for name, count in found.counts.items()]
    top, *lines = _align([("precision", "layers", "% of time"), *rows], left=1)
    _print_lines(console, [top], lines)
    slowest = sorted(found.layers, key=lambda layer: layer.ms or 0, reverse=True)[:_NAMED]
    total = found.total_ms or 1.0
    rows = [(layer.name, layer.precision, f"{100 * (layer.ms or 0) / total:.1f}") for layer in slowest]
    top, *lines = _align([("slowest layers", "precision", "% of time"), *rows], left=2)
    _print_lines(console, [top], lines)


def print_gate(gate: GateResult) -> None:
    """Prints a line for each limit of each artifact, and below them whether all of them hold."""
    console = open_console()
    rows = [("verdict", "artifact", "runtime", "limit", "allowed", "figure", "95 % interval")]
    for each in gate.verdicts:
        figures = [
            "-" if value is None else f"{value:.2f}" for value in (each.allowed, each.figure, each.low, each.high)
        ]
        interval = "-" if each.high is None else f"{figures[2]} to {figures[3]}"
        runtime = each.runtime if each.device == LOCAL else f"{each.runtime} on {each.device}"
        rows.append((each.verdict, each.artifact, runtime, each.limit, figures[0], figures[1], interval))
    top, *lines = _align(rows, left=4)
    noted = [f"{line}  {each.note}" for line, each in zip(lines, gate.verdicts, strict=True)]
    _print_lines(console, [top], noted)
    doubtful = sum(each.verdict == "not proved" for each in gate.verdicts)
    doubt = f"; within its limit, but not proved: {doubtful}" if doubtful else ""
    console.print(f"gate: {'passed' if gate.passed else 'failed'}{doubt}", soft_wrap=True, markup=False)


def print_diagnosis(diagnosis: Diagnosis) -> None:
    """Prints what `edgeq doctor` found, with what to do about it."""
    machine = diagnosis.machine
    console = open_console()
    console.print(f"edgeq {diagnosis.edgeq}, Python {machine.python}, {machine.system}")
    memory = f", {machine.memory_bytes / 1e9:.0f} GB of memory" if machine.memory_bytes else ""
    console.print(f"{machine.cpu or machine.architecture}, {machine.usable_cpus} CPUs{memory}")
    drawn = Table(box=None, pad_edge=False)
    for check in diagnosis.checks:
        style = _STYLES[check.state]
        remedy = f"\n{check.remedy}" if check.remedy else ""
        drawn.add_row(f"[{style}]{check.state}[/{style}]", check.name, escape(check.found + remedy))
    console.print(drawn)


def open_console() -> Console:
    """Returns the console that tables are printed on, as wide as the terminal; a pipe has no width."""
    return _PlainConsole(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)


class _PlainConsole(Console):
    """Spells out the control characters of what it prints: names come from files, answers from devices."""

    def print(self, *objects: Any, **how: Any) -> None:
        super().print(*(printable(each, keep="\n") if isinstance(each, str) else each for each in objects), **how)
