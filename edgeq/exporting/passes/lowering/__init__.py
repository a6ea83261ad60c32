"""What an older opset writes differently or lacks, as rules by operator and by the opset that brought the change.

A rule finds its node in the form of that opset and leaves what is valid in the one before.
"""

from __future__ import annotations

from edgeq.exporting.passes.lowering.activations import ACTIVATIONS
from edgeq.exporting.passes.lowering.attention import ATTENTION
from edgeq.exporting.passes.lowering.axes import AXES
from edgeq.exporting.passes.lowering.deformable import DEFORMABLE
from edgeq.exporting.passes.lowering.normalization import NORMALIZATION
from edgeq.exporting.passes.lowering.padding import PADDING
from edgeq.exporting.passes.lowering.resampling import RESAMPLING
from edgeq.exporting.passes.lowering.types import TYPES
from edgeq.exporting.passes.node_builder import Rule

LOWERING: dict[tuple[str, int], Rule] = {
    **ACTIVATIONS, **ATTENTION, **AXES, **DEFORMABLE, **NORMALIZATION, **PADDING, **RESAMPLING, **TYPES,
}  # fmt: skip
"""Operator and opset -> the rule that brings a node down from that opset."""
