"""Takes out what hands on its input as it is: Identity, and Dropout, which does nothing in inference. Exact."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeq.exporting.passes.report import RewriteReport

if TYPE_CHECKING:
    import onnx_ir as ir


def bypass_identities(model: ir.Model) -> RewriteReport:
    """Lets what reads an Identity or Dropout read what that reads, in place; subgraphs too.

    The outputs of a graph keep their names: the tensor that an output repeats takes over the output's name. Where it
    cannot, because it is an input, a constant, of another graph or an output itself, an Identity stays.
    """
    done = []
    for graph in (model.graph, *model.graph.subgraphs()):
        for node in list(graph):
            if _hands_on(node) and _bypass(graph, node):
                done.append(node.name or node.op_type)
    return RewriteReport(tuple(done))


def _hands_on(node: ir.Node) -> bool:
    if node.domain or node.op_type not in ("Identity", "Dropout") or node.inputs[0] is None:
        return False
    return not any(mask.uses() or mask.is_graph_output() for mask in node.outputs[1:])


def _bypass(graph: ir.Graph, node: ir.Node) -> bool:
    """Returns whether the node is gone; one that is not is an Identity now."""
    import onnx_ir as ir

    source, output = node.inputs[0], node.outputs[0]
    assert source is not None  # noqa: S101 - the caller has looked
    if output.is_graph_output():
        producer = source.producer()
        if producer is None or producer.graph is not graph or source.is_graph_output():
            if node.op_type == "Dropout":
                copy = ir.node("Identity", [source], name=node.name)
                graph.insert_before(node, copy)
                output.replace_all_uses_with(copy.outputs[0], replace_graph_outputs=True)
                _take_over(copy.outputs[0], output)
                graph.remove(node, safe=True)
            return False
        output.replace_all_uses_with(source, replace_graph_outputs=True)
        _take_over(source, output)
    else:
        output.replace_all_uses_with(source)
    graph.remove(node, safe=True)
    return True


def _take_over(value: ir.Value, output: ir.Value) -> None:
    """Gives a value the name and declaration of the output that it has become."""
    import onnx_ir as ir

    value.name = output.name
    value.type = value.type or output.type
    if value.shape is None or output.shape is None or len(value.shape) != len(output.shape):
        value.shape = output.shape or value.shape
    else:
        lengths = zip(value.shape, output.shape, strict=True)
        value.shape = ir.Shape([known if isinstance(known, int) else other for known, other in lengths])
