"""What `edgeq export` says of weights of few bits, and of engines that compute them more slowly than FP32."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeq.exporting.costs.low_bit_products import read_products
from edgeq.wording import counted

if TYPE_CHECKING:
    from edgeq.exporting.quantization_facts import LowBitFacts

_TITLES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}

_ENGINES = {"matmul_nbits": "onnxruntime", "dequantize_linear": "openvino", "decompression": "openvino"}
"""How linear layers hold their weights -> the runtime that the form is for."""

_SHOWN = 3
"""Products that are named."""


def describe_low_bit(facts: LowBitFacts) -> list[str]:
    """Returns how many layers have weights of few bits, and what of it no kernel computes."""
    groups = "" if facts.group_size is None else f" in groups of {facts.group_size}"
    stored = "" if facts.bits_per_weight is None else f", {facts.bits_per_weight:.2f} bits per weight with scales"
    numbers = facts.codebook.upper() or f"{facts.bits} bits"
    lines = [f"{counted(facts.nodes, 'layer')} with weights of {numbers}{groups}{stored}"]
    if facts.form == "float":
        lines.append(
            "simulated: the engine has no kernel for such weights, so the file holds them in floats; it can be scored, "
            "and is neither smaller nor faster"
        )
    elif facts.convolutions:
        lines.append(f"{counted(facts.convolutions, 'convolution')} among them: stored so, and computed in FP32")
    if facts.group_size is not None and facts.form in _ENGINES and not facts.codebook:
        lines += describe_slower(_ENGINES[facts.form], facts.bits, facts.group_size)
    if facts.folded or facts.multiplied:
        lines.append(f"AWQ scales: {facts.folded} in the layer before, {facts.multiplied} by a Mul")
    return lines


def describe_slower(engine: str, bits: int, group_size: int) -> list[str]:
    """Returns the line that says where weights of few bits take longer than FP32; none where they do not.

    Args:
        engine: Name of the runtime.
        bits: Of a weight.
        group_size: Inputs that share a scale.
    """
    table = read_products()
    slow = table.slower(engine, bits, group_size)
    if not slow:
        return []
    cases = ", ".join(
        f"{each.ratio:.1f} times as long for {counted(each.rows, 'row')} of {each.inputs} x {each.outputs}"
        for each in slow[:_SHOWN]
    )
    groups = f"{bits} bits in groups of {slow[0].group_size}"
    return [
        f"slower than FP32 in {_TITLES[engine]}, by edgeq's table: {groups} take {cases} "
        f"({table.how}); measure yours with `edgeq bench`, or choose more bits or another group size"
    ]
