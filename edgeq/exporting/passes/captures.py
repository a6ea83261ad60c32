"""Puts an Identity before every subgraph for each tensor that it reads from outside. Exact.

Passes and plans follow a tensor to its readers. A reader inside an If, Loop or Scan is no part of the graph that they
rewrite: a ReLU there must not be taken for the one behind a convolution here, nor an Add for its bias. Behind this pass
all readers of a computed tensor are in the tensor's own graph, and subgraphs stay as they are, in float.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeq.exporting.graphs.graph import walk
from edgeq.exporting.graphs.subgraphs import captures
from edgeq.exporting.passes.report import RewriteReport

if TYPE_CHECKING:
    import onnx_ir as ir


def isolate_captures(model: ir.Model) -> RewriteReport:
    """Lets subgraphs read copies of the computed tensors and inputs of the main graph, in place; constants stay."""
    import onnx_ir as ir

    done = []
    for node in walk(model):
        copies: dict[int, ir.Value] = {}
        for reader, position, value in captures(node, model.graph):
            producer = value.producer()
            if producer is not None and producer.op_type == "Identity":
                continue  # it is a copy already
            if id(value) not in copies:
                copy = ir.node("Identity", [value], name=f"{value.name}_captured")
                result = copies[id(value)] = copy.outputs[0]
                result.name, result.shape, result.type = f"{value.name}_captured", value.shape, value.type
                model.graph.insert_before(node, copy)
            reader.replace_input_with(position, copies[id(value)])
        if copies:
            done.append(str(node.name))
    return RewriteReport(tuple(done))
