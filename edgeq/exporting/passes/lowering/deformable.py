"""DeformConv. Exact up to float rounding."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.passes.node_builder import NodeBuilder, Rule, attribute, dims, input_at

if TYPE_CHECKING:
    import onnx_ir as ir


def _deform_conv(node: ir.Node, make: NodeBuilder) -> ir.Value:
    """Zhu et al., 2019: what a kernel's taps read at their offsets is sampled first, and then mixed by a 1x1 Conv."""
    image, weight, offset, bias, mask = (input_at(node, position) for position in range(5))
    shape, kernel, places = dims(image), dims(weight), dims(offset)
    if (
        shape is None
        or kernel is None
        or places is None
        or len(shape) != 4
        or None in (*shape[1:], *kernel, *places[2:])
    ):
        make.refuse("has free lengths or volumes, which opsets below 19 cannot say; fix the input's shape")
    channels, height, width = (each or 0 for each in shape[1:])
    outputs, _, *sides = (each or 0 for each in kernel)
    rows, columns = (each or 0 for each in places[2:])
    groups, taps = attribute(node, "offset_group", 1), math.prod(sides)

    # Offsets are (N, groups, taps, y and x, rows, columns); a grid holds x and y, from -1 to 1 at the outer edges.
    apart = make("Reshape", offset, make.ints(-1, taps, 2, rows, columns))
    positions = make("Add", apart, make.like(offset, _positions(node, sides, rows, columns)))
    ordered = make("Transpose", positions, perm=[0, 1, 3, 4, 2])
    scale, shift = np.array([2 / height, 2 / width]), np.array([1 / height - 1, 1 / width - 1])
    scaled = make("Add", make("Mul", ordered, make.like(offset, scale)), make.like(offset, shift))
    x_first = make("Gather", scaled, np.array([1, 0]), axis=-1)
    grid = make("Reshape", x_first, make.ints(-1, taps * rows, columns, 2))
    maps = make("Reshape", image, make.ints(-1, channels // groups, height, width))
    samples = make("GridSample", maps, grid, mode="bilinear", padding_mode="zeros", align_corners=0)
    if mask is not None:
        weights = make("Reshape", mask, make.ints(-1, 1, taps * rows, columns))
        samples = make("Mul", samples, weights)
    stacked = make("Reshape", samples, make.ints(-1, channels * taps, rows, columns))
    mixed = make("Reshape", weight, make.ints(outputs, -1, 1, 1))
    return make("Conv", stacked, mixed, bias, group=attribute(node, "group", 1), kernel_shape=[1, 1])


def _positions(node: ir.Node, sides: list[int], rows: int, columns: int) -> np.ndarray:
    """Returns where the taps of a kernel lie without offsets, `(taps, 2, rows, columns)`."""
    strides, dilations = attribute(node, "strides", (1, 1)), attribute(node, "dilations", (1, 1))
    pads = attribute(node, "pads", (0, 0, 0, 0))
    lines = []
    for axis, count in enumerate((rows, columns)):
        first = np.arange(count) * strides[axis] - pads[axis]
        lines.append(np.arange(sides[axis])[:, None] * dilations[axis] + first)
    y, x = lines
    both = np.broadcast_arrays(y[:, None, :, None], x[None, :, None, :])
    return np.stack(both, axis=2).reshape(-1, 2, rows, columns)


DEFORMABLE: dict[tuple[str, int], Rule] = {("DeformConv", 19): _deform_conv}
