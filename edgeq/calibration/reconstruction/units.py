"""Parts a graph into the units whose rounding is learned together: residual blocks, and layers by themselves.

A block ends with an Add of two tensors and begins with the tensor that both come from ("BRECQ", Li et al., 2021,
section 3.2); a ReLU or Clip behind belongs to it. Errors of its layers can then make up for each other. Layers in no
such block are units of one, as in AdaRound ("Up or Down?", Nagel et al., 2020).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeq.exporting.graphs.graph import data_inputs, weight_of
from edgeq.exporting.planning.selection import activation_behind

if TYPE_CHECKING:
    import onnx_ir as ir

_ELEMENTWISE = frozenset({"Relu", "Clip", "LeakyRelu", "Sigmoid", "Add", "Mul"})
_LINEAR = frozenset({"Gemm", "MatMul"})
_MOST_LAYERS = 6
"""A larger block would take more images than a calibration has."""


@dataclass(frozen=True, eq=False)
class Unit:
    """Nodes between one tensor and another, whose rounding is learned together.

    Attributes:
        nodes: The nodes, in graph order.
        source: Name of the one tensor that they read from outside.
        output: Name of the one that is read outside.
        layers: Names of those whose rounding is learned.
    """

    nodes: tuple[ir.Node, ...]
    source: str
    output: str
    layers: tuple[str, ...]

    @property
    def is_spatial(self) -> bool:
        """Whether it reads maps `(N, C, H, W)`, and part of a map decides part of the output."""
        return not any(node.op_type in _LINEAR for node in self.nodes)


def find_units(model: ir.Model, layers: Collection[str], *, blocks: bool = True) -> list[Unit]:
    """Returns the units of a graph, in an order in which each follows what it reads.

    Layers whose form is not known here (`auto_pad`, 1-D and 3-D convolutions, scaled Gemms) are in none.

    Args:
        model: The float graph.
        layers: Names of the layers whose rounding can be learned.
        blocks: Whether residual blocks are one unit; otherwise each layer is.
    """
    position = {id(node): index for index, node in enumerate(model.graph)}
    units: list[Unit] = []
    taken: set[int] = set()
    for node in model.graph if blocks else ():
        unit = _block(node, position, layers) if node.op_type == "Add" else None
        if unit is not None and taken.isdisjoint(map(id, unit.nodes)):
            units.append(unit)
            taken.update(map(id, unit.nodes))
    for node in model.graph:
        if node.name in layers and id(node) not in taken and _is_known(node):
            output = activation_behind(node)
            behind = output.producer()
            nodes = (node,) if behind is node or behind is None else (node, behind)
            units.append(Unit(nodes, str(data_inputs(node)[0].name), str(output.name), (str(node.name),)))
    return sorted(units, key=lambda unit: position[id(unit.nodes[-1])])


def _block(add: ir.Node, position: dict[int, int], layers: Collection[str]) -> Unit | None:
    """Returns the block that an Add ends; `None` if what it adds does not come from one tensor by a few known nodes."""
    nodes = {id(add): add}
    frontier = {id(value): value for value in data_inputs(add)}
    if len(frontier) != 2:
        return None
    while len(frontier) > 1:
        latest = max(frontier.values(), key=lambda value: position.get(id(value.producer()), -1))
        node = latest.producer()
        if node is None or not _is_known(node) or latest.is_graph_output() or len(nodes) > 3 * _MOST_LAYERS:
            return None
        del frontier[id(latest)]
        nodes[id(node)] = node
        frontier |= {id(value): value for value in data_inputs(node)}
    (source,) = frontier.values()
    inner = [node for node in nodes.values() if node is not add]
    if any(use.node for node in inner for use in node.outputs[0].uses() if id(use.node) not in nodes):
        return None
    output = activation_behind(add)
    if (behind := output.producer()) is not None and behind is not add:
        nodes[id(behind)] = behind
    ordered = sorted(nodes.values(), key=lambda node: position[id(node)])
    found = tuple(str(node.name) for node in ordered if node.name in layers)
    if not 0 < len(found) <= _MOST_LAYERS or not any(node.op_type == "Conv" for node in ordered):
        return None
    return Unit(tuple(ordered), str(source.name), str(output.name), found)


def _is_known(node: ir.Node) -> bool:
    """Returns whether a node can be computed by itself and differentiated."""
    if node.op_type in ("Add", "Mul"):
        return all(value is not None and value in data_inputs(node) for value in node.inputs)
    if node.op_type in _ELEMENTWISE:
        return len(data_inputs(node)) == 1
    weight, source = weight_of(node), node.inputs[0] if node.inputs else None
    if weight is None or source is None or len(data_inputs(node)) != 1:
        return False
    if node.op_type in _LINEAR:
        return weight.ndim == 2 and not {"alpha", "beta", "transA"}.intersection(node.attributes)
    attributes = node.attributes
    if weight.ndim != 4 or ("auto_pad" in attributes and attributes["auto_pad"].as_string() != "NOTSET"):
        return False
    dilated = "dilations" in attributes and any(each != 1 for each in attributes["dilations"].as_ints())
    return node.op_type == "Conv" or not (dilated or "output_shape" in attributes)
