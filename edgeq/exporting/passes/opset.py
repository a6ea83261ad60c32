"""Brings a graph to another ONNX opset. Exact."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from edgeq.errors import ModelError
from edgeq.exporting.graphs.graph import first_line, new_initializer, opset_of, walk
from edgeq.exporting.passes.report import RewriteReport

if TYPE_CHECKING:
    import onnx_ir as ir

_SPLIT_CHANGED = 18


def convert_opset(model: ir.Model, opset: int) -> RewriteReport:
    """Brings a graph to the given ONNX opset, in place.

    Args:
        model: A cleaned graph.
        opset: The wanted opset.

    Raises:
        ModelError: a node has no equivalent in that opset.
    """
    import onnx
    import onnx_ir as ir

    if opset_of(model) == opset:
        return RewriteReport()
    names = tuple(str(node.name) for node in model.graph)
    if opset < _SPLIT_CHANGED <= opset_of(model):
        _slice_instead_of_split(model)
    try:
        proto = onnx.version_converter.convert_version(ir.to_proto(model), opset)
        for node in proto.graph.node:
            # onnx 1.23 leaves it behind on the way down to 17. Zero is its default.
            kept = [each for each in node.attribute if (each.name, each.i) != ("noop_with_empty_axes", 0)]
            del node.attribute[:]
            node.attribute.extend(kept)
        onnx.checker.check_model(proto)
    except (RuntimeError, onnx.checker.ValidationError) as error:
        raise ModelError(
            f"the model cannot be converted from opset {opset_of(model)} to {opset} ({first_line(error)}); "
            "choose another `opset`"
        ) from error
    converted = ir.from_proto(proto)
    model.graph, model.ir_version = converted.graph, converted.ir_version
    return RewriteReport(names)


def _slice_instead_of_split(model: ir.Model) -> None:
    """Replaces every Split of known lengths by Slices, in place: the converter knows no way down for opset 18's."""
    import onnx_ir as ir

    for node in walk(model):
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
        source = node.inputs[0]
        if node.op_type != "Split" or source is None:
            continue
        lengths = [output.shape[axis] for output in node.outputs if output.shape is not None]
        ends = list(itertools.accumulate(length for length in lengths if isinstance(length, int)))
        if len(ends) < len(node.outputs):
            continue
        for start, end, output in zip([0, *ends[:-1]], ends, list(node.outputs), strict=True):
            window = [
                new_initializer(model, f"{output.name}_{part}", np.array([number], np.int64))
                for part, number in (("start", start), ("end", end), ("axis", axis))
            ]
            piece = ir.node("Slice", [source, *window], name=f"{output.name}_slice")
            model.graph.insert_before(node, piece)
            name, result = output.name, piece.outputs[0]
            result.shape, result.type = output.shape, output.type
            output.replace_all_uses_with(result, replace_graph_outputs=True)
            output.name, result.name = f"{name}_split", name
        model.graph.remove(node, safe=True)
