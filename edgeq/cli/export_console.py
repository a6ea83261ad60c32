"""What `edgeq export` prints of its files, and `edgeq inspect` of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeq.cli.low_bit import describe_low_bit
from edgeq.cli.words import as_options
from edgeq.exporting.signal.ratio import EQUAL_DB
from edgeq.wording import compared_with_fp32, counted

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
    from edgeq.verbs.export import ExportResult

_NAMED = 5


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
            *_describe_signal(file.artifact, comparison.signal), *describe_layers(facts),
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


def _describe_signal(artifact: Artifact, signal: Signal | None) -> list[str]:
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
        f"{counted(speed.threads, 'thread')}, {speed.cpu}): {advice}",
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
