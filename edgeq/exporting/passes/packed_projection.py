"""Splits a packed projection into the layers of queries, keys and values. Exact.

Torch's attention computes all three in one product and cuts it apart behind. Apart they can be quantized apart, and
what cut them (a Split, or five-dimensional Transposes and Gathers) is gone.

Rules, by number:

1. A layer that is `qkv` or `qk` of an attention (`edgeq.exporting.graphs.transformer`) and whose output is cut along
   its columns, behind operators that only move values.
2. Each piece takes a run of columns, and all rows of it; it becomes a layer of its own, with a Reshape and a Transpose
   where the piece is not laid out as the layer's output. The pieces keep their names, so that their ranges hold.
3. A free batch is the first axis of the output, or the layer is left alone and named.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.graphs.channels import move
from edgeq.exporting.graphs.graph import drop_unused, new_initializer, walk
from edgeq.exporting.graphs.linear import Linear, linear_of
from edgeq.exporting.graphs.moves import REARRANGES
from edgeq.exporting.graphs.transformer import find_transformer
from edgeq.exporting.passes.report import RewriteReport

if TYPE_CHECKING:
    import onnx_ir as ir


_COLUMNS = "_columns_"


@dataclass(frozen=True)
class _Piece:
    """A tensor that holds some columns of a layer's output.

    Attributes:
        value: The tensor.
        columns: Which, a run of them.
        lengths: Its axes by how slowly they run through the piece's own output, without those of length 1.
        order: Where each of these axes stands in `value`.
    """

    value: ir.Value
    columns: slice
    lengths: tuple[int, ...]
    order: tuple[int, ...]


def split_projections(model: ir.Model) -> RewriteReport:
    """Splits what can be split, in place, and returns what was done.

    Args:
        model: A cleaned graph with shapes.
    """
    roles = find_transformer(model).roles
    done, left = [], {}
    for node in walk(model):
        role = roles.get(node.name or "")
        layer = linear_of(node) if role is not None and role.part in ("qkv", "qk") else None
        if layer is None or layer.node is not node:
            continue
        pieces = _pieces(layer)
        if isinstance(pieces, str):
            left[layer.name] = pieces
            continue
        for piece in pieces:
            _write(model, layer, piece)
        done.append(layer.name)
    drop_unused(model)
    return RewriteReport(tuple(done), left)


def whole_name(node: ir.Node) -> str:
    """Returns a node's name; for a piece of a split layer the layer's, by which `keep` means the piece, too."""
    return whole_of(node.name or "")


def whole_of(piece: str) -> str:
    """Returns the name of the layer that a layer is a piece of; its own name, if it is whole."""
    name, _, first = piece.rpartition(_COLUMNS)
    return name if name and first.isdecimal() else piece


def _pieces(layer: Linear) -> list[_Piece] | str:
    """Returns the pieces of a layer's output, or why it cannot be split."""
    output = layer.output
    if output.shape is None or any(not isinstance(length, int) for length in list(output.shape)[1:]):
        return "only the first axis of its output may be free"
    lengths = [length if isinstance(length, int) else 1 for length in output.shape]
    numbers = np.arange(int(np.prod(lengths)), dtype=np.int64).reshape(lengths)
    found = []
    for value, selected in _cuts(output, numbers):
        piece = None if selected is None else _piece(value, selected, lengths)
        if piece is None:
            return f"what reads it ({value.name}) does not take whole columns of it"
        found.append(piece)
    return found


def _cuts(value: ir.Value, numbers: np.ndarray) -> Iterator[tuple[ir.Value, np.ndarray | None]]:
    """Yields the first tensors that hold fewer elements than the output, and which; `None` where that is unknown."""
    if value.is_graph_output():
        yield value, None
    for use in value.uses():
        moved = move(use.node, numbers) if use.node.op_type in REARRANGES and use.idx == 0 else None
        if moved is None:
            yield value, None
            continue
        for output, selected in zip(use.node.outputs, moved, strict=True):
            if selected.size == numbers.size:
                yield from _cuts(output, selected)
            else:
                yield output, selected


def _piece(value: ir.Value, selected: np.ndarray, lengths: list[int]) -> _Piece | None:
    rows, columns = np.divmod(selected, lengths[-1])
    first, count = int(columns.min()), int(columns.max()) - int(columns.min()) + 1
    own = rows * count + columns - first
    # Each element of some columns of all rows, once: a piece that leaves rows out (the class token's) is none.
    whole = np.arange(int(np.prod(lengths[:-1])) * count)
    if value.shape is None or not np.array_equal(np.sort(own, axis=None), whole):
        return None
    # What one step along each axis adds to the place in the piece's own output: the layout, if it is a regular one.
    axes = [axis for axis, length in enumerate(own.shape) if length > 1]
    steps = {axis: int(np.take(own, 1, axis).flat[0] - own.flat[0]) for axis in axes}
    places = sum(steps[axis] * np.arange(own.shape[axis]).reshape([-1] + [1] * (own.ndim - 1 - axis)) for axis in axes)
    if not np.array_equal(own, np.broadcast_to(places, own.shape)):
        return None
    order = tuple(sorted(axes, key=lambda axis: -steps[axis]))
    return _Piece(value, slice(first, first + count), tuple(own.shape[axis] for axis in order), order)


def _write(model: ir.Model, layer: Linear, piece: _Piece) -> None:
    import onnx_ir as ir

    source, value = layer.node.inputs[0], piece.value
    assert source is not None and layer.output.shape is not None and value.shape is not None  # noqa: S101 - a layer's
    name = f"{layer.name}{_COLUMNS}{piece.columns.start}"
    rows = list(layer.output.shape)[:-1]
    units = piece.columns.stop - piece.columns.start
    nodes: list[ir.Node] = []

    def add(op_type: str, inputs: list[ir.Value], shape: list[int | ir.SymbolicDim], **attributes: list[int]) -> None:
        nodes.append(ir.node(op_type, inputs, attributes or None, name=f"{name}_{op_type}_{len(nodes)}"))
        output = nodes[-1].outputs[0]
        output.name, output.type, output.shape = f"{name}_{op_type}_{len(nodes)}_output", value.type, ir.Shape(shape)

    dtype = np.float32
    weight = new_initializer(model, f"{name}_weight", layer.weight[:, piece.columns].astype(dtype))
    bias = new_initializer(model, f"{name}_bias", layer.bias[piece.columns].astype(dtype))
    add("MatMul", [source, weight], [*rows, units])
    nodes[0].name = name
    add("Add", [nodes[-1].outputs[0], bias], [*rows, units])
    # Axes of length 1 stand where the piece has them; a free batch among them is first and slowest.
    ones = [axis for axis in range(len(value.shape)) if axis not in piece.order]
    shape = [value.shape[axis] for axis in (*ones, *piece.order)]
    target = [length if isinstance(length, int) else -1 for length in shape]
    if target != [length if isinstance(length, int) else -1 for length in [*rows, units]]:
        add(
            "Reshape",
            [nodes[-1].outputs[0], new_initializer(model, f"{name}_shape", np.array(target, np.int64))],
            shape,
        )
    order = [*ones, *piece.order]
    if order != sorted(order):
        back = [order.index(axis) for axis in range(len(order))]
        add("Transpose", [nodes[-1].outputs[0]], list(value.shape), perm=back)
    model.graph.insert_before(layer.node, nodes)
    last, kept = nodes[-1].outputs[0], value.name
    value.replace_all_uses_with(last, replace_graph_outputs=True)
    value.name = f"{kept}_packed"
    last.name = kept
