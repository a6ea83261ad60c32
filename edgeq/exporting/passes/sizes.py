"""Gives free dimensions of a graph's inputs a length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeq.errors import ModelError
from edgeq.exporting.graphs.graph import forget_lengths
from edgeq.exporting.graphs.image_input import (
    describe,
    given_inputs,
    image_axes,
    image_layout,
    lengths_of,
    single_input,
)
from edgeq.exporting.passes.report import RewriteReport
from edgeq.exporting.tensor_spec import Layout

if TYPE_CHECKING:
    import onnx_ir as ir


def open_dimensions(model: ir.Model) -> RewriteReport:
    """Writes lengths below 1, which some exporters take for a free dimension, as free ones, in place."""
    import onnx_ir as ir

    done = []
    for value in (
        *model.graph.inputs,
        *model.graph.outputs,
        *(value for node in model.graph for value in node.outputs),
    ):
        found = value.shape
        # A tensor of no elements may be meant inside the graph; -1 never is.
        least = 1 if value.is_graph_input() or value.is_graph_output() else 0
        if found is not None and any(isinstance(length, int) and length < least for length in found):
            value.shape = ir.Shape([None if isinstance(dim, int) and dim < least else dim for dim in found])
            done.append(str(value.name))
    return RewriteReport(tuple(done))


def make_static(model: ir.Model, batch: int = 1) -> RewriteReport:
    """Replaces a free batch dimension of every input by `batch`, in place.

    Raises:
        ModelError: an input has another free dimension; the message says which.
    """
    import onnx_ir as ir

    done = []
    named = {str(dim.value) for value in model.graph.inputs for dim in value.shape or () if not isinstance(dim, int)}
    for value in given_inputs(model):
        shape = lengths_of(value)
        if shape is None:
            raise ModelError(
                f"input {value.name!r} has no shape; write it in the preset: [inputs.{value.name}] shape = [1, 3, H, W]"
            )
        dims = list(shape)
        if dims and dims[0] is None:
            dims[0] = batch
            done.append(str(value.name))
        if None in dims:
            raise ModelError(
                f"input {describe(str(value.name), shape)} has free lengths; give height and width of an image with "
                f"`size` HxW, or all lengths in the preset: [inputs.{value.name}] shape = [...]"
            )
        value.shape = ir.Shape([dim for dim in dims if dim is not None])
    for value in (output for node in model.graph for output in node.outputs):
        forget_lengths(value, named.__contains__)
    return RewriteReport(tuple(done))


def set_input_size(
    model: ir.Model,
    height_px: int,
    width_px: int,
    *,
    channels: int | None = None,
    layout: Layout | None = None,
    only_free: bool = False,
) -> RewriteReport:
    """Gives free height, width and channels of the image input a value, in place.

    Args:
        model: A graph with one input that is no constant.
        height_px: Its height.
        width_px: Its width.
        channels: How many channels it has, where the file leaves them free.
        layout: Where the image has its channels; `None` tells it by the shape.
        only_free: Whether a model that is fixed to another size keeps it.

    Raises:
        ModelError: the model takes no image, or is fixed to another size and `only_free` is not set.
    """
    import onnx_ir as ir

    value = single_input(model)
    shape = lengths_of(value) or (None,) * 4
    axes = image_axes(len(shape), image_layout(shape, layout))
    if axes is None and only_free:
        return RewriteReport()
    if axes is None:
        raise ModelError(f"input {describe(str(value.name), shape)} takes no image; omit `size`")
    sized = list(shape)
    for axis, length in zip(axes, (channels, height_px, width_px), strict=True):
        if axis is None:
            continue
        if axis != axes[0] and shape[axis] not in (None, length) and not only_free:
            raise ModelError(
                f"the model is fixed to {describe(str(value.name), shape)}; omit `size` or export the model again"
            )
        sized[axis] = length if shape[axis] is None else shape[axis]
    if sized == list(shape) and value.shape is not None:
        return RewriteReport()
    value.shape = ir.Shape(_named(value, sized))
    return RewriteReport((str(value.name),))


def _named(value: ir.Value, lengths: Sequence[int | None]) -> list[int | str | None]:
    """Returns lengths with the names of those that stay free."""
    before = value.shape if value.shape is not None else [None] * len(lengths)
    return [
        length if length is not None else getattr(dim, "value", None)
        for length, dim in zip(lengths, before, strict=True)
    ]
