"""Gives free dimensions of a graph's inputs a length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeq.errors import ModelError
from edgeq.exporting.graphs.graph import forget_lengths
from edgeq.exporting.passes.report import RewriteReport

if TYPE_CHECKING:
    import onnx_ir as ir


def make_static(model: ir.Model, batch: int = 1) -> RewriteReport:
    """Replaces a free batch dimension of every input by `batch`, in place.

    Raises:
        ModelError: an input has another free dimension; the message says which.
    """
    import onnx_ir as ir

    done = []
    named = {str(dim.value) for value in model.graph.inputs for dim in value.shape or () if not isinstance(dim, int)}
    for value in model.graph.inputs:
        if value.shape is None:
            raise ModelError(f"input {value.name!r} has no shape; export the model with a static input shape")
        dims = [dim if isinstance(dim, int) else None for dim in value.shape]
        if dims and dims[0] is None:
            dims[0] = batch
            done.append(str(value.name))
        if None in dims:
            raise ModelError(
                f"input {value.name!r} has the free shape {value.shape}; give its height and width with `size` HxW"
            )
        value.shape = ir.Shape([dim for dim in dims if dim is not None])
    for value in (output for node in model.graph for output in node.outputs):
        forget_lengths(value, named.__contains__)
    return RewriteReport(tuple(done))


def set_input_size(model: ir.Model, height_px: int, width_px: int) -> RewriteReport:
    """Gives free height and width of the image input `(N, C, H, W)` a value, in place.

    Raises:
        ModelError: the model is fixed to another size.
    """
    import onnx_ir as ir

    value = model.graph.inputs[0]
    if value.shape is None or len(value.shape) != 4:
        raise ModelError(f"input {value.name!r} has shape {value.shape}, wanted an image batch (N, 3 or 1, H, W)")
    for found, wanted in zip(value.shape[2:], (height_px, width_px), strict=True):
        if isinstance(found, int) and found != wanted:
            raise ModelError(f"the model is fixed to {value.shape}; omit `size` or export the model again")
    free = not all(isinstance(found, int) for found in value.shape[2:])
    value.shape = ir.Shape([*value.shape[:2], height_px, width_px])
    return RewriteReport((str(value.name),) if free else ())
