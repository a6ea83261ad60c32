"""What `edgeq export` says of weights of few bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeq.wording import counted

if TYPE_CHECKING:
    from edgeq.exporting.quantization_facts import LowBitFacts


def describe_low_bit(facts: LowBitFacts) -> list[str]:
    """Returns how many layers have weights of few bits, and what of it no kernel computes."""
    groups = "" if facts.group_size is None else f" in groups of {facts.group_size}"
    stored = "" if facts.bits_per_weight is None else f", {facts.bits_per_weight:.2f} bits per weight with scales"
    lines = [f"{counted(facts.nodes, 'layer')} with weights of {facts.bits} bits{groups}{stored}"]
    if facts.form == "float":
        lines.append(
            "simulated: the engine has no kernel for such weights, so the file holds them in floats; it can be scored, "
            "and is neither smaller nor faster"
        )
    elif facts.convolutions:
        lines.append(f"{counted(facts.convolutions, 'convolution')} among them: stored so, and computed in FP32")
    if facts.folded or facts.multiplied:
        lines.append(f"AWQ scales: {facts.folded} in the layer before, {facts.multiplied} by a Mul")
    return lines
