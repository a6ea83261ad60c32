"""Where values that are not finite come from, for the error that refuses a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.graphs.data_flow import is_float
from edgeq.sources.formats import get_format

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.exporting.onnx.writer import FloatModel


def origin_of(model: FloatModel, tensor: str, image: np.ndarray, threads: int | None) -> str:
    """Returns in words which tensor is the first that holds NaN or infinite values on the way to another.

    The graph is run again with all its tensors as outputs, which is slow and happens once, before an error.

    Args:
        model: The float model.
        tensor: The tensor in which such values were found.
        image: An input for which it holds them.
        threads: CPU threads of the engine.
    """
    values = {str(value.name): value for node in model.graph.graph for value in node.outputs if is_float(value)}
    arrays = get_format(model.format).function("observe")(model, list(values), threads)(image)
    value = values.get(tensor)
    while value is not None and (before := _broken_input(value, values, arrays)) is not None:
        value = before
    node = None if value is None else value.producer()
    if value is None or node is None:
        return f"tensor {tensor!r}"
    return f"tensor {value.name!r}, which {node.op_type} {node.name!r} computes,"


def _broken_input(value: ir.Value, values: dict[str, ir.Value], arrays: dict[str, np.ndarray]) -> ir.Value | None:
    node = value.producer()
    for given in () if node is None else node.inputs:
        if given is not None and given.name in values and not np.isfinite(arrays[given.name]).all():
            return given
    return None
