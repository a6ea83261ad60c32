"""Pad of some axes or around the edge, CenterCropPad, and Col2Im. Exact."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.passes.node_builder import (
    NodeBuilder,
    Rule,
    attribute,
    dims,
    input_at,
    known_ints,
    set_input,
)  # fmt: skip

if TYPE_CHECKING:
    import onnx_ir as ir


def _all_axes(node: ir.Node, make: NodeBuilder) -> None:
    axes = input_at(node, 3)
    if axes is not None:
        set_input(node, 1, make.ints(*(each for side in _pads(node, make) for each in side)))
    node.resize_inputs(min(len(node.inputs), 3))


def _around(node: ir.Node, make: NodeBuilder) -> ir.Value | None:
    """Mode wrap: what lies at the other end of the axis."""
    if attribute(node, "mode", "constant") != "wrap":
        return None
    value = node.inputs[0]
    for axis, (before, after) in enumerate(zip(*_pads(node, make), strict=True)):
        parts = [value]
        if before > 0:
            parts.insert(
                0, make("Slice", value, make.ints(-before), make.ints(np.iinfo(np.int64).max), make.ints(axis))
            )
        if after > 0:
            parts.append(make("Slice", value, make.ints(0), make.ints(after), make.ints(axis)))
        length = (dims(node.inputs[0]) or ())[axis]
        if min(before, after) < 0 or (len(parts) > 1 and (length is None or max(before, after) > length)):
            make.refuse("wraps more than a whole axis or crops it, which opsets below 19 cannot say; pad twice instead")
        value = parts[0] if len(parts) == 1 else make("Concat", *parts, axis=axis)
    return value


def _pads(node: ir.Node, make: NodeBuilder) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns how much a Pad adds before and behind each axis."""
    shape, pads = dims(node.inputs[0]), known_ints(input_at(node, 1))
    axes = input_at(node, 3)
    some = None if shape is None else tuple(range(len(shape))) if axes is None else known_ints(axes)
    if shape is None or pads is None or some is None:
        make.refuse(
            "has computed axes or lengths, which opsets below 19 cannot say; export the model with constant ones"
        )
    before, after = [0] * len(shape), [0] * len(shape)
    for position, axis in enumerate(some):
        before[axis], after[axis] = pads[position], pads[position + len(some)]
    return tuple(before), tuple(after)


def _crop_or_pad(node: ir.Node, make: NodeBuilder) -> ir.Value | None:
    shape, wanted = dims(node.inputs[0]), known_ints(node.inputs[1])
    axes = attribute(node, "axes")
    some = axes if axes is not None or shape is None else tuple(range(len(shape)))
    if shape is None:
        make.refuse("has an input of unknown rank, and opsets below 18 need it; fix the input's shape")
    if wanted is None or any(shape[axis] is None for axis in some):
        return _crop_or_pad_computed(node, make, [axis % len(shape) for axis in some], len(shape))
    value, pads = node.inputs[0], np.zeros((2, len(shape)), np.int64)
    for axis, length in zip(some, wanted, strict=True):
        surplus = (shape[axis] or 0) - length
        if surplus > 0:
            start = surplus // 2
            value = make("Slice", value, make.ints(start), make.ints(start + length), make.ints(axis))
        else:
            pads[:, axis] = -surplus // 2, -surplus - -surplus // 2
    return make("Pad", value, pads.reshape(-1)) if pads.any() else value


def _crop_or_pad_computed(node: ir.Node, make: NodeBuilder, some: Sequence[int], rank: int) -> ir.Value:
    """The same where lengths are known only when the model runs: `some` are the axes that the second input names."""
    value, wanted = node.inputs[:2]
    lengths = make("Shape", value)
    others = [axis for axis in range(rank) if axis not in some]
    if others:
        wanted = make("Concat", wanted, make("Gather", lengths, make.ints(*others)), axis=0)
        order = [*some, *others]
        wanted = make("Gather", wanted, make.ints(*(order.index(axis) for axis in range(rank))))
    surplus, none, two = make("Sub", lengths, wanted), make.ints(0), make.ints(2)
    start = make("Div", make("Max", surplus, none), two)
    end = make("Add", start, make("Min", lengths, wanted))
    missing = make("Max", make("Neg", surplus), none)
    before = make("Div", missing, two)
    pads = make("Concat", before, make("Sub", missing, before), axis=0)
    return make("Pad", make("Slice", value, start, end, make.ints(*range(rank))), pads)


def _columns(node: ir.Node, make: NodeBuilder) -> ir.Value:
    """A transposed convolution whose kernels put each column back where it came from, and adds up what overlaps."""
    image, block, shape = known_ints(node.inputs[1]), known_ints(node.inputs[2]), dims(node.inputs[0])
    if image is None or block is None or shape is None or shape[1] is None:
        make.refuse("has free or computed lengths, which opsets below 18 cannot say; fix the input's shape")
    rank, taps = len(block), math.prod(block)
    strides, dilations = (list(attribute(node, name, (1,) * rank)) for name in ("strides", "dilations"))
    pads = list(attribute(node, "pads", (0,) * 2 * rank))
    reach = [dilation * (side - 1) + 1 for dilation, side in zip(dilations, block, strict=True)]
    places, rest = [], []
    for axis in range(rank):
        room = image[axis] + pads[axis] + pads[axis + rank] - reach[axis]
        places.append(room // strides[axis] + 1)
        rest.append(room % strides[axis])
    channels = shape[1] // taps
    kernel = np.tile(np.eye(taps, dtype=_dtype(node)).reshape(taps, 1, *block), (channels, 1, *[1] * rank))
    columns = make("Reshape", node.inputs[0], make.ints(0, 0, *places))
    return make(
        "ConvTranspose", columns, kernel, group=channels, kernel_shape=list(block), strides=strides, pads=pads,
        dilations=dilations, output_padding=rest,
    )  # fmt: skip


def _dtype(node: ir.Node) -> np.dtype:
    source = node.inputs[0]
    return np.dtype(np.float32) if source is None or source.dtype is None else source.dtype.numpy()


PADDING: dict[tuple[str, int], Rule] = {
    ("CenterCropPad", 18): _crop_or_pad,
    ("Col2Im", 18): _columns,
    ("Pad", 18): _all_axes,
    ("Pad", 19): _around,
}
