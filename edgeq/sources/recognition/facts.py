"""What recognisers look at: a model's input, its outputs, its last operators, and what its file says of itself."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.graphs.graph import WEIGHTED_OPS, constant
from edgeq.exporting.graphs.image_input import image_layout
from edgeq.exporting.graphs.subgraphs import nodes_inside
from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.sources.file_metadata import FileMetadata

if TYPE_CHECKING:
    import onnx_ir as ir

ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Exp", "Pow", "Softmax"})
"""Operators that make boxes out of what a head's last layers give."""

_PASS_ON = frozenset(
    {"Cast", "Transpose", "Identity", "DequantizeLinear", "QuantizeLinear", "Split", "Slice", "Concat"}
)
_BATCHED_AXES = 4
_MAX_TAIL = 2000  # nodes; a decoder in the graph has a few hundred


@dataclass(frozen=True)
class ModelFacts:
    """A model with one image as its input, as recognisers see it.

    Attributes:
        name: The file's name.
        height_px: Height of the input; `None` if it is free.
        width_px: Width of the input; `None` if it is free.
        channels: Its channels; `None` if they are free.
        outputs: Name and shape of each.
        metadata: What the file says of itself.
        tails: Output -> operators between the last layers with weights and it; `None` if they are not known.
        constants: Names of further inputs that always get the same.
        suppressed: How many boxes the graph's NonMaxSuppression chooses from; `None` if it has none, or does not say.
        scales: Whether the graph itself brings pixels 0..255 to 0..1.
        provable: Whether annotated images can be scored on it before it is exported: it is a file and takes a batch.
    """

    name: str
    height_px: int | None
    width_px: int | None
    channels: int | None
    outputs: tuple[TensorSpec, ...]
    metadata: FileMetadata = field(default_factory=FileMetadata)
    tails: Mapping[str, frozenset[str]] | None = None
    constants: frozenset[str] = frozenset()
    suppressed: int | None = None
    scales: bool = False
    provable: bool = True

    @classmethod
    def of(
        cls,
        name: str,
        image: TensorSpec,
        outputs: Sequence[TensorSpec],
        metadata: FileMetadata,
        graph: ir.Model | None = None,
        constants: frozenset[str] = frozenset(),
    ) -> ModelFacts:
        """Returns the facts of a model.

        Args:
            name: The file's name.
            image: The input that takes images.
            outputs: The outputs.
            metadata: What the file says of itself; its size counts where the input's is free.
            graph: The graph, if there is one.
            constants: Names of further inputs that always get the same.
        """
        shape = image.shape if len(image.shape) >= 3 else (None, None, None)
        first = image.layout == "NCHW" and image_layout(shape) == "NCHW"
        channels, height, width = shape[-3:] if first else (shape[-1], shape[-3], shape[-2])
        stated = metadata.size or (None, None)
        return cls(
            name,
            height or stated[0],
            width or stated[1],
            channels,
            tuple(outputs),
            metadata,
            None if graph is None else {str(value.name): _tail(value) for value in graph.graph.outputs},
            constants,
            None if graph is None else _suppressed(graph),
            graph is not None and _scales_pixels(graph),
            len(image.shape) == _BATCHED_AXES,
        )

    @property
    def classes(self) -> int:
        """How many classes the file names; 0 if it does not say."""
        return self.metadata.classes

    def cells(self, strides: Sequence[int]) -> tuple[int, ...]:
        """Returns how many cells the input has at each stride; zeros if its size is free."""
        return tuple(height * width for height, width in map(self.grid, strides))

    def grid(self, stride: int) -> tuple[int, int]:
        """Returns how many rows and columns of cells the input has at a stride; zeros if its size is free."""
        if self.height_px is None or self.width_px is None:
            return 0, 0
        return math.ceil(self.height_px / stride), math.ceil(self.width_px / stride)

    def has(self, output: str, operators: frozenset[str]) -> bool | None:
        """Returns whether one of the operators is in an output's tail; `None` if tails are not known."""
        return None if self.tails is None else bool(self.tails.get(output, frozenset()) & operators)

    def describe(self) -> str:
        """Returns the outputs, for messages."""
        shapes = [", ".join("?" if side is None else str(side) for side in spec.shape) for spec in self.outputs]
        shown = [f"{spec.name} ({shape})" for spec, shape in zip(self.outputs, shapes, strict=True)]
        return ", ".join(shown[:6]) + (f" and {len(shown) - 6} more" if len(shown) > 6 else "")


def _tail(output: ir.Value) -> frozenset[str]:
    """Returns the operators between the last layers with weights and an output; constants and shapes do not count."""
    found: set[str] = set()
    seen: set[int] = set()
    queue = deque([output])
    while queue and len(seen) < _MAX_TAIL:
        node = queue.popleft().producer()
        if node is None or id(node) in seen or _is_layer(node):
            continue
        seen.add(id(node))
        if node.op_type not in ("Constant", "Shape"):
            found.add(node.op_type)
            found.update(inner.op_type for inner in nodes_inside(node))
            queue.extend(value for value in node.inputs if value is not None)
    return frozenset(found)


def _is_layer(node: ir.Node) -> bool:
    """Returns whether a node has weights: a Conv with the constants 0..N, which sums up distributions, does not."""
    if node.op_type not in WEIGHTED_OPS:
        return False
    weight = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    return weight is None or weight.size > 64 or not np.array_equal(weight.ravel(), np.arange(weight.size))


def _suppressed(graph: ir.Model) -> int | None:
    """Returns how many boxes the first NonMaxSuppression chooses from."""
    boxes = next((node.inputs[0] for node in graph.graph if node.op_type == "NonMaxSuppression"), None)
    count = None if boxes is None or boxes.shape is None or len(boxes.shape) < 2 else boxes.shape[1]
    return count if isinstance(count, int) else None


def _scales_pixels(graph: ir.Model) -> bool:
    """Returns whether the graph first divides its input by 255, or multiplies it with the inverse."""
    initializers = graph.graph.initializers
    values = [value for value in graph.graph.inputs if value.name not in initializers]
    while len(values) == 1:
        uses = list(values[0].uses())
        if len(uses) != 1:
            return False
        node = uses[0].node
        if node.op_type in ("Div", "Mul"):
            factors = [constant(value) for value in node.inputs if value is not None and value is not values[0]]
            factor = factors[0] if len(factors) == 1 else None
            wanted = 255.0 if node.op_type == "Div" else 1 / 255
            return factor is not None and bool(np.allclose(np.asarray(factor, np.float64), wanted, rtol=1e-3))
        if node.op_type not in _PASS_ON or len(node.outputs) != 1:
            return False
        values = list(node.outputs)
    return False
