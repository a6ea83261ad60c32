"""GridSample, AffineGrid and the attributes that Resize got. Exact up to float rounding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.graphs.interpolation import PLACES, Interpolation
from edgeq.exporting.passes.node_builder import (
    NodeBuilder,
    Rule,
    attribute,
    dims,
    input_at,
    known,
    known_ints,
    set_attribute,
    set_input,
)  # fmt: skip

if TYPE_CHECKING:
    import onnx_ir as ir

_OLD_NAMES = {"linear": "bilinear", "cubic": "bicubic"}
_NEAREST_WHOLE = 1e-6


def _mode_name(node: ir.Node, make: NodeBuilder) -> None:
    if len(dims(node.inputs[0]) or (0,) * 4) != 4:
        make.refuse("samples volumes, which opsets below 20 cannot say; give `opset` 20 or sample planes")
    mode = attribute(node, "mode", "linear")
    set_attribute(node, "mode", _OLD_NAMES.get(mode, mode))


def _affine_grid(node: ir.Node, make: NodeBuilder) -> ir.Value:
    """Jaderberg et al., 2015: each position of the image, transformed."""
    size = known_ints(node.inputs[1])
    if size is None:
        make.refuse("has a computed size, which opsets below 20 cannot say; fix the input's shape")
    lengths, theta = size[2:], node.inputs[0]
    aligned = attribute(node, "align_corners", 0)
    lines = [np.linspace(-1, 1, n) if aligned else (2 * np.arange(n) + 1) / n - 1 for n in lengths]
    # Coordinates count from the last axis: x, y, z, and 1.
    places = [each.reshape(-1) for each in np.meshgrid(*lines, indexing="ij")][::-1]
    grid = np.stack([*places, np.ones(math.prod(lengths))], axis=-1)
    moved = make("MatMul", make.like(theta, grid), make("Transpose", theta, perm=[0, 2, 1]))
    return make("Reshape", moved, make.ints(-1, *lengths, len(lengths)))


def _symmetric(node: ir.Node, make: NodeBuilder) -> ir.Value | None:
    """Mode half_pixel_symmetric is half_pixel where the size is no part of a pixel off."""
    if attribute(node, "coordinate_transformation_mode") != "half_pixel_symmetric":
        return None
    shape, scales = dims(node.inputs[0]), known(input_at(node, 2))
    if scales is not None and scales.size:
        lengths = None if shape is None or None in shape else np.array(shape, np.float64)
        axes = attribute(node, "axes")
        sides = lengths if axes is None or lengths is None else lengths[list(axes)]
        if sides is None or np.abs(sides * scales - np.rint(sides * scales)).max() > _NEAREST_WHOLE:
            return _products(node, "is half_pixel_symmetric for parts of a pixel", make)
    set_attribute(node, "coordinate_transformation_mode", "half_pixel")
    return None


def _all_axes(node: ir.Node, make: NodeBuilder) -> ir.Value | None:
    axes, policy = attribute(node, "axes"), attribute(node, "keep_aspect_ratio_policy", "stretch")
    if attribute(node, "antialias", 0) and (_shrinks(node) or attribute(node, "exclude_outside", 0)):
        return _products(node, "makes an image smaller with antialias", make)
    if axes is not None or policy != "stretch":
        _name_all(node, axes, policy, make)
    for name in ("antialias", "keep_aspect_ratio_policy", "axes"):
        set_attribute(node, name, None)
    return None


def _name_all(node: ir.Node, axes: Sequence[int] | None, policy: str, make: NodeBuilder) -> None:
    """Gives a Resize of some axes the region, sizes or scales of all of them."""
    shape, roi = dims(node.inputs[0]), known(input_at(node, 1))
    sizes, scales = known_ints(input_at(node, 3)), known(input_at(node, 2))
    if shape is None:
        make.refuse("has an input of unknown rank, and opsets below 18 need it; fix the input's shape")
    some = list(range(len(shape))) if axes is None else [axis % len(shape) for axis in axes]
    if sizes:
        set_input(node, 3, _sizes(node.inputs[0], some, sizes, policy, make))
    elif scales is not None:
        factors = np.ones(len(shape), np.float32)
        factors[some] = scales
        set_input(node, 2, make.constant(factors))
    else:
        make.refuse("has computed sizes of some axes, which opsets below 18 cannot say; fix the input's shape")
    if roi is not None and roi.size and axes is not None:
        starts, ends = np.zeros(len(shape), roi.dtype), np.ones(len(shape), roi.dtype)
        starts[some], ends[some] = roi.reshape(2, -1)
        set_input(node, 1, make.constant(np.concatenate([starts, ends])))


def _products(node: ir.Node, what: str, make: NodeBuilder) -> ir.Value:
    """A Resize of height and width, as the matrices that it multiplies a map by."""
    before, after = dims(node.inputs[0]), dims(node.outputs[0])
    place = attribute(node, "coordinate_transformation_mode", "half_pixel")
    mode, policy = attribute(node, "mode", "nearest"), attribute(node, "keep_aspect_ratio_policy", "stretch")
    if before is None or after is None or mode == "nearest" or place not in PLACES or policy != "stretch":
        make.refuse(f"{what}, which older opsets cannot say; give `opset` 19 or a fixed size")
    kernel = Interpolation(
        mode,
        place,
        attribute(node, "cubic_coeff_a", -0.75),
        bool(attribute(node, "exclude_outside", 0)),
        bool(attribute(node, "antialias", 0)),
    )
    scales, axes = known(input_at(node, 2)), attribute(node, "axes") or range(len(before))
    given = {} if scales is None or not scales.size else {a % len(before): s for a, s in zip(axes, scales, strict=True)}
    source = node.inputs[0]
    assert source is not None  # noqa: S101 - its shape is known
    value = source
    for axis, (length, size) in enumerate(zip(before, after, strict=True)):
        if length == size and given.get(axis, 1.0) == 1:
            continue
        if length is None or size is None or axis < len(before) - 2:
            make.refuse(f"{what} along axis {axis}, which older opsets cannot say; give `opset` 19 or a fixed size")
        weights = kernel.matrix(length, size, float(given.get(axis, size / length)))
        if axis == len(before) - 1:
            value = make("MatMul", value, make.like(source, weights.T))
        else:
            value = make("MatMul", make.like(source, weights), value)
    return value


def _sizes(value: ir.Value | None, axes: list[int], sizes: tuple[int, ...], policy: str, make: NodeBuilder) -> ir.Value:
    """Returns the sizes of all axes; free lengths of axes that keep theirs are read from the tensor itself."""
    result = list(dims(value) or ())
    if policy != "stretch":
        lengths = [length for axis in axes if (length := result[axis]) is not None]
        if len(lengths) < len(axes):
            make.refuse(
                "keeps the aspect ratio of a free shape, which opsets below 18 cannot say; fix the input's shape"
            )
        factors = [size / length for size, length in zip(sizes, lengths, strict=True)]
        factor = min(factors) if policy == "not_larger" else max(factors)
        sizes = tuple(math.floor(length * factor + 0.5) for length in lengths)
    for axis, size in zip(axes, sizes, strict=True):
        result[axis] = size
    known_sizes = [length for length in result if length is not None]
    if len(known_sizes) == len(result):
        return make.ints(*known_sizes)
    own = make("Shape", value)
    pieces = [
        make("Slice", own, make.ints(axis), make.ints(axis + 1)) if length is None else make.ints(length)
        for axis, length in enumerate(result)
    ]
    return make("Concat", *pieces, axis=0)


def _shrinks(node: ir.Node) -> bool:
    before, after = dims(node.inputs[0]), dims(node.outputs[0])
    if before is None or after is None:
        return True
    return any(one is None or other is None or other < one for one, other in zip(before[1:], after[1:], strict=True))


RESAMPLING: dict[tuple[str, int], Rule] = {
    ("AffineGrid", 20): _affine_grid,
    ("GridSample", 20): _mode_name,
    ("Resize", 18): _all_axes,
    ("Resize", 19): _symmetric,
}
