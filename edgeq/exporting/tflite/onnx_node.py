"""An ONNX node as the TFLite conversion reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.errors import ModelError
from edgeq.exporting.graphs.graph import constant

if TYPE_CHECKING:
    import onnx_ir as ir


class OnnxNode:
    """An ONNX node with its attributes as Python values."""

    def __init__(self, node: ir.Node) -> None:
        self.op_type = node.op_type
        self.name = str(node.name)
        self.inputs = [None if value is None else str(value.name) for value in node.inputs]
        self.outputs = [str(value.name) for value in node.outputs]
        self.output_shape = _static_shape(node.outputs[0])
        # What decides shapes (axes, pads, sizes) has to be known while tracing, as plain numbers.
        self.constants = [None if value is None else constant(value) for value in node.inputs]
        self._attributes = {name: attribute.value for name, attribute in node.attributes.items()}

    def get(self, name: str, default: Any = None) -> Any:
        """Returns an attribute, or the default where the node leaves it out."""
        value = self._attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def numbers(self, position: int, name: str | None = None) -> list[Any] | None:
        """Returns the constant at an input as a list, or the attribute that older opsets have in its place."""
        if position < len(self.inputs) and self.inputs[position] is not None:
            found = self.constants[position]
            if found is None:
                raise ModelError(
                    f"{self.op_type} {self.name!r}: takes {self.inputs[position]!r}, which is computed from the image; "
                    "TFLite files of edgeq have fixed shapes"
                )
            return list(np.asarray(found).reshape(-1).tolist())
        return None if name is None or self.get(name) is None else list(self.get(name))


def _static_shape(value: ir.Value) -> tuple[int, ...] | None:
    lengths = [] if value.shape is None else [length for length in value.shape if isinstance(length, int)]
    return tuple(lengths) if value.shape is not None and len(lengths) == len(value.shape) else None
