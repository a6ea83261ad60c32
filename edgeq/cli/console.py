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

from edgeq.cli.low_bit import describe_low_bit
from edgeq.cli.words import as_options
from edgeq.exporting.signal.ratio import EQUAL_DB
from edgeq.results.evaluation import Score
from edgeq.results.rows import LOCAL, Row, provenance
from edgeq.results.table import Column, filled, header, report_columns, table
from edgeq.wording import compared_with_fp32, counted, printable

if TYPE_CHECKING:
    from edgeq.exporting.artifact import Artifact
    from edgeq.exporting.quantization_facts import (
        FinetuningFacts,
        KernelCostFacts,
        QuantizationFacts,
        SaturationFacts,
        SpeedFacts,
    )
    from edgeq.exporting.signal.ratio import Signal
    from edgeq.verbs.build import BuildResult
    from edgeq.verbs.doctor import Diagnosis
    from edgeq.verbs.export import ExportResult
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


def describe_export(result: ExportResult) -> list[str]:
    """Returns what `edgeq export` wrote: of each file its size, what it keeps of the model, layers and speed."""
    lines = []
    for file in result.files:
        size_mb, comparison = file.artifact.size_bytes / 1e6, file.comparison
        lines.append(
            f"{file.artifact.path}  {size_mb:.2f} MB  max abs difference {comparison.max_abs_difference:.3g} of "
            f"{comparison.max_abs_output:.3g}, cosine {comparison.cosine:.5f} "
            f"(measured against {comparison.reference} on {counted(comparison.images, 'image')})"
        )
        facts = file.artifact.quantization_facts
        details = (
            *describe_signal(file.artifact, comparison.signal), *describe_layers(facts),
            *_describe_costs(facts.kernel_costs), *_describe_speed(facts.speed, file.artifact.precision),
        )  # fmt: skip
        lines += [f"    {line}" for line in details]
    target = result.target
    if target.engines and any(file.artifact.precision == "int8" for file in result.files):
        chosen, *others = target.engines
        further = "; ".join(f"for {name}: --runtime {name}" for name in others)
        lines.append(f"int8 is planned for {chosen} (target {target.engines[chosen]}); {further}")
    return lines if result.ranges_path is None else [*lines, f"ranges: {result.ranges_path}"]


def describe_layers(facts: QuantizationFacts) -> list[str]:
    """Returns how many layers of a quantized file compute in INT8, and which do not for what reason.

    Only some are named; the manifest names them all.
    """
    islands = [f"{name} ({reason})" for name, reason in facts.fp16_islands.items()]
    why = "kept in FP32 because FP16 would overflow or lose digits"
    kept = f"{counted(len(islands), 'layer')} {why}: {'; '.join(islands[:_NAMED])}"
    audit = [f"{kept}{'; ...' if len(islands) > _NAMED else ''}"] if islands else []
    forms = {
        "in int8": facts.int8_nodes,
        "in int8 with weights of 4 bits": facts.w4a8_nodes,
        "in fp8": facts.fp8_nodes,
        "with weights of 4 bits": facts.w4_nodes,
        "with weights in fp4": facts.fp4_nodes,
    }
    reason = f" ({facts.method_reason})" if facts.method_reason is not None else ""
    ranges = f", ranges by {facts.method}{reason}" if facts.method is not None else ""
    lines = [f"{counted(count, 'layer')} {how}{ranges}" for how, count in forms.items() if count is not None]
    lines += [] if facts.low_bit is None else describe_low_bit(facts.low_bit)
    if not lines:
        return audit
    for form, nodes in (("with dynamic ranges", facts.dynamic_nodes), ("in float", facts.float_nodes)):
        names: dict[str, list[str]] = {}
        for name, reason in nodes.items():
            why, figures = _with_figures(as_options(reason))
            names.setdefault(why, []).append(name + figures)
        lines += [
            f"{len(found)} {form}, {reason}: {', '.join(found[:_NAMED])}{', ...' if len(found) > _NAMED else ''}"
            for reason, found in names.items()
        ]
    if facts.saturation is not None and facts.saturation.fitted_channels + len(facts.saturation.wide_grids):
        lines.append(_describe_saturation(facts.saturation))
    if facts.finetuning is not None:
        lines.append(_describe_finetuning(facts.finetuning))
    if facts.calibration_cache is not None:
        cache = facts.calibration_cache
        lines.append(
            f"{cache.file}: {cache.tensors} scales for {cache.float_file}, under the header of TensorRT "
            f"{cache.tensorrt}; edgeq build writes that of the board over it"
        )
    return lines + audit


def _with_figures(reason: str) -> tuple[str, str]:
    """Returns a reason without a layer's own figures, and these as they stand behind the layer's name."""
    why, _, figures = reason.partition(": ")
    return (why, f" ({figures})") if " us against " in figures or " % of the time" in figures else (reason, "")


def _describe_costs(costs: KernelCostFacts | None) -> list[str]:
    """Returns the line that says by which kernel costs layers were chosen, and what they predict."""
    if costs is None:
        return []
    estimated = f", {costs.estimated} of them estimated from the nearest kernels" if costs.estimated else ""
    return [
        f"layers chosen by kernel costs {costs.source}{estimated}: {costs.predicted_us / 1000:.2f} ms predicted for "
        f"the layers with a choice, {costs.float_us / 1000:.2f} in fp32"
    ]


def _describe_finetuning(facts: FinetuningFacts) -> str:
    """Returns what training did to the error of the outputs, as a share of their energy."""
    before, after = facts.output_error_before, facts.output_error_after
    where = f"on {counted(facts.held_out, 'image')} held out of {facts.images}"
    if facts.kept:
        return f"finetuned: squared error of the outputs {after:.2g} of their energy instead of {before:.2g}, {where}"
    return f"not finetuned: squared error of the outputs {after:.2g} of their energy, untrained {before:.2g}, {where}"


def _describe_saturation(facts: SaturationFacts) -> str:
    wide = f"; {', '.join(facts.wide_grids)} in steps twice as wide" if facts.wide_grids else ""
    cost = "" if facts.costs_db is None else f"; this costs {facts.costs_db:.1f} dB"
    return (
        f"exact sums on CPUs without VNNI (isa {facts.isa}): {counted(facts.fitted_channels, 'channel')} of "
        f"{counted(facts.fitted_layers, 'layer')} in steps up to {2**facts.most_bits:.2f} times as wide{wide}{cost}"
    )


def describe_signal(artifact: Artifact, signal: Signal | None) -> list[str]:
    """Returns the line that says what a file leaves of its model's signal; nothing for a file that computes in FP32."""
    if signal is None:
        return []
    outputs = ", ".join(f"{output.label} {_decibels(output.snr_db)}" for output in signal.outputs[:_NAMED])
    more = ", ..." if len(signal.outputs) > _NAMED else ""
    worst = ""
    if signal.layers:
        layer = signal.layers[0]
        worst = f"; worst layer {layer.name} {_decibels(layer.input_db)} to {_decibels(layer.snr_db)} dB"
    return [f"{artifact.name}: {_decibels(signal.snr_db)} dB ({outputs}{more}{worst}); {signal.how}"]


def _describe_speed(speed: SpeedFacts | None, precision: str) -> list[str]:
    """Returns the line that says how a quantized file's time compares with FP32's, and which file to take here."""
    if speed is None:
        return []
    advice = {
        precision: f"{precision} is faster",
        "": "this machine is too busy to tell which is faster; repeat the export when it is idle",
    }.get(speed.recommended, f"{precision} is not the fastest here, take {speed.recommended}")
    bf16 = "" if speed.bf16_ratio is None else f"; FP32 computed in bf16 is {compared_with_fp32(speed.bf16_ratio)}"
    compared = compared_with_fp32(speed.ratio, speed.low, speed.high)
    return [
        f"{precision} is {compared}{bf16} (measured in turns, {speed.rounds} rounds; {speed.engine}, "
        f"{speed.threads} threads, {speed.cpu}): {advice}",
        *_describe_tried(speed),
    ]


def _describe_tried(speed: SpeedFacts) -> list[str]:
    """Returns the line that says which smaller selections were timed, and which one the file has."""
    if not speed.tried:
        return []
    figures = "; ".join(
        f"with {counted(each.int8_nodes, 'layer')} {each.ratio:.2f} [{each.low:.2f}, {each.high:.2f}]"
        for each in speed.tried
    )
    kept = f"the file has {speed.tried[-1].int8_nodes}" if speed.recommended == "int8" else "none is faster than fp32"
    return [f"selections of int8 layers that were timed: {figures}; {kept}"]


def _decibels(ratio: float) -> str:
    return "equal" if ratio == EQUAL_DB else f"{ratio:.1f}"


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
