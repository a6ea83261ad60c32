"""What `edgeq check` prints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from edgeq.cli.console import open_console
from edgeq.wording import counted

if TYPE_CHECKING:
    from edgeq.results.compilation import Compilation
    from edgeq.verbs.check import CheckResult
    from edgeq.verbs.check_saturation import SaturationResult

_NAMED = 5


def print_check(result: CheckResult) -> None:
    """Prints what `edgeq check` found: a line for each finding, and how many layers run in INT8."""
    console = open_console()
    checked = result.checked
    for finding in checked.findings:
        console.print(f"{finding.rule} {finding.severity}: {finding.sentence}", soft_wrap=True, markup=False)
    errors, advice = len(checked.errors), len(checked.findings) - len(checked.errors)
    named = f" ({', '.join(checked.float_layers[:_NAMED])}{', ...' if len(checked.float_layers) > _NAMED else ''})"
    floats = f"{len(checked.float_layers)}{named if checked.float_layers else ''}"
    fp8 = f", in fp8 {len(checked.fp8_layers)}" if checked.fp8_layers else ""
    console.print(
        f"{result.path.name}, TensorRT {result.tensorrt}: errors {errors}, advice {advice}; weighted layers in int8 "
        f"{len(checked.int8_layers)}{fp8}, in float {floats}",
        soft_wrap=True,
        markup=False,
    )
    if result.compiled is not None:
        for line in describe_compilation(result.compiled):
            console.print(line, soft_wrap=True, markup=False)


def describe_compilations(compiled: Iterable[tuple[str, Compilation]]) -> list[str]:
    """Returns what the compiler made of several files, each with its name."""
    return [line for name, each in compiled for line in (f"{name}:", *_indented(describe_compilation(each)))]


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def describe_compilation(compiled: Compilation) -> list[str]:
    """Returns what the compiler made of a file: its verdict, the layers that differ from the plan, and its figures."""
    who = f"{compiled.library} for {compiled.sm} (not a Jetson)"
    if not compiled.is_built:
        node = f"node {compiled.node}: " if compiled.node else ""
        return [f"{who}: {compiled.verdict}: {node}{compiled.reason}"]
    lines = [
        f"{each.node} ({each.operator}): planned {each.planned}, compiled to {each.compiled or 'nothing'}"
        f"{f'; {each.reason}' if each.reason else ''}"
        for each in compiled.disagreements
    ]
    lines += [
        f"{each.operator:<14}{each.count:>5} planned {each.planned:<8} compiled to {each.compiled or 'nothing'}"
        f"{f', weights in {each.stored}' if each.stored and each.planned == 'weights' else ''}"
        for each in compiled.groups
    ]
    attention = ", ".join(f"{count} {types}" for types, count in compiled.fused_attention.items()) or "none"
    lines += [
        f"{who}: built in {compiled.parse_s + compiled.build_s:.1f} s; weighted layers as planned {compiled.agreeing} "
        f"of {len(compiled.nodes)}; fused attention: {attention}",
        f"kernels {compiled.kernels}, of them conversions {compiled.conversions}; int8 layers that write floats "
        f"{compiled.float_epilogues}; plan {compiled.plan_bytes / 1e6:.2f} MB, weights "
        f"{compiled.weights_bytes / 1e6:.2f} MB, activations {compiled.activation_bytes / 1e6:.2f} MB",
    ]
    return [*lines, f"note: {compiled.note}"] if compiled.note else lines


def print_saturation(result: SaturationResult) -> None:
    """Prints which layers of a file can saturate in each engine, and which did on images."""
    console = open_console()
    lines = []
    for engine in result.engines:
        for layer in engine.saturated if result.images else engine.layers:
            worst = f", {100 * layer.share:.2g} % of its sums wrong, {layer.snr_db} dB" if result.images else ""
            channels = layer.saturated if result.images else layer.can_saturate
            named = ", ".join(map(str, channels[:_NAMED])) + (", ..." if len(channels) > _NAMED else "")
            verb = "saturates" if result.images else "can saturate"
            lines.append(
                f"{engine.engine}: {layer.name} {verb} in {len(channels)} of {layer.channels} channels ({named}){worst}"
            )
        channels_at_risk = sum(len(layer.can_saturate) for layer in engine.layers)
        end = "" if engine.snr_db is None else f"; worst output {engine.snr_db:.1f} dB against exact sums"
        seen = f", {len(engine.saturated)} did on {counted(result.images, 'image')}{end}" if result.images else ""
        lines.append(
            f"{result.path.name}, {engine.engine} on AVX2: {len(engine.layers)} of {engine.int8_layers} INT8 layers "
            f"({counted(channels_at_risk, 'channel')}) can saturate{seen}"
        )
    if not result.engines:
        lines.append(f"{result.path.name}: CPUs with {result.isa} add INT8 products exactly; nothing can saturate")
    elif result.written_for is not None:
        lines.append(f"written for: {result.written_for}")
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)
