"""`LayerDecision`: how one layer is computed, and why."""

from __future__ import annotations

from dataclasses import dataclass

from edgeq.schemes import LayerScheme


@dataclass(frozen=True)
class LayerDecision:
    """How a layer is computed and why.

    Attributes:
        name: Name of the ONNX node, or of the TFLite operator's first output.
        op_type: The ONNX operator, or the TFLite schema's name of it.
        scheme: How its weight and its activations are stored.
        reason: Why, for the manifest.
    """

    name: str
    op_type: str
    scheme: LayerScheme
    reason: str

    @property
    def is_float(self) -> bool:
        """Whether it stays in float."""
        return self.scheme.is_float
