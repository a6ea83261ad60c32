"""Writes every GELU so that engines find their own kernel for it. Exact up to float rounding.

Exporters spell GELU (Hendrycks and Gimpel, 2016) in many orders of the same factors, and engines look for a few of
them: ONNX Runtime 1.31 knows `(x / 2) * (1 + erf(x / sqrt(2)))`, but not torch's `x * ((1 + erf(x / sqrt(2))) / 2)`.

Rules, by number:

1. A GELU is known by its values: what is computed from one tensor by element-wise operators and scalar constants around
   an Erf or a Tanh, and agrees with GELU or its tanh approximation on a grid of points.
2. From opset 20 on it becomes one Gelu operator, below it the order that ONNX Runtime fuses.
3. A GELU whose inner values have another use, or are outputs of the graph, stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.graphs.graph import constant, drop_unused, new_initializer, opset_of, walk
from edgeq.exporting.passes.report import RewriteReport

if TYPE_CHECKING:
    import onnx_ir as ir

GELU_OPSET = 20
"""First opset with a Gelu operator."""

_GRID = np.linspace(-6.0, 6.0, 49)
_TOLERANCE = 2e-5
"""Far above what float32 constants cost, far below the 5e-4 between GELU and its approximation."""

_ERF = np.vectorize(math.erf, otypes=[np.float64])
_ELEMENT_WISE: dict[str, Callable[..., np.ndarray]] = {
    "Add": np.add, "Mul": np.multiply, "Div": np.divide, "Pow": np.power, "Erf": _ERF, "Tanh": np.tanh,
}  # fmt: skip
_SQRT_2 = math.sqrt(2.0)
_TANH_SCALE = math.sqrt(2.0 / math.pi)
_TANH_CUBIC = 0.044715
_REACH = 6
"""The most operators between the Erf or Tanh and either end of a GELU."""


def fuse_gelu(model: ir.Model) -> RewriteReport:
    """Rewrites every decomposed GELU, in place, and returns which, by their Erf or Tanh.

    Args:
        model: A cleaned graph.
    """
    done = []
    for node in walk(model):
        if node.op_type in ("Erf", "Tanh") and node.graph is not None:
            ends = _find(node)
            if ends is not None:
                _replace(model, *ends, approximate=node.op_type == "Tanh")
                drop_unused(model)
                done.append(node.name or "?")
    return RewriteReport(tuple(done))


# Rules 1 and 3 ------------------------------------------------------------------------------------------------------


def _find(node: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """Returns input and output of the GELU around an Erf or Tanh node, or `None`."""
    wanted = _gelu_tanh(_GRID) if node.op_type == "Tanh" else _gelu(_GRID)
    sources = list(_before(node))
    for result in _behind(node):
        for source in sources:
            found = _evaluate(result, {id(source): _GRID})
            if found is not None and found.shape == wanted.shape and np.allclose(found, wanted, atol=_TOLERANCE):
                return (source, result) if _closed(source, result) else None
    return None


def _before(node: ir.Node) -> Iterator[ir.Value]:
    """Yields what an Erf or Tanh may be computed from, nearest first."""
    seen, front = set(), [node]
    for _ in range(_REACH):
        values = [value for each in front for value in each.inputs if value is not None and constant(value) is None]
        values = [value for value in values if id(value) not in seen]
        seen |= {id(value) for value in values}
        yield from values
        producers = [value.producer() for value in values]
        front = [each for each in producers if each is not None and each.op_type in _ELEMENT_WISE]


def _behind(node: ir.Node) -> Iterator[ir.Value]:
    """Yields what is computed from an Erf or Tanh alone, as long as it has one reader."""
    value = node.outputs[0]
    for _ in range(_REACH):
        readers = [use.node for use in value.uses()]
        if len(readers) != 1 or readers[0].op_type not in _ELEMENT_WISE:
            return
        value = readers[0].outputs[0]
        yield value


def _evaluate(value: ir.Value, known: dict[int, np.ndarray]) -> np.ndarray | None:
    """Returns a value computed from the known ones and scalar constants, or `None` where it needs others."""
    if id(value) in known:
        return known[id(value)]
    array = constant(value)
    if array is not None:
        return np.asarray(array, np.float64).reshape(()) if array.size == 1 else None
    node = value.producer()
    if node is None or node.op_type not in _ELEMENT_WISE:
        return None
    inputs = [None if each is None else _evaluate(each, known) for each in node.inputs]
    if any(each is None for each in inputs):
        return None
    with np.errstate(all="ignore"):
        known[id(value)] = np.asarray(_ELEMENT_WISE[node.op_type](*inputs))
    return known[id(value)]


def _closed(source: ir.Value, result: ir.Value) -> bool:
    """Returns whether nothing but `result` reads what lies between it and `source`."""
    inside: dict[int, ir.Node] = {}
    front = [result]
    while front:
        node = front.pop().producer()
        if node is not None and id(node) not in inside:
            inside[id(node)] = node
            front += [each for each in node.inputs if each is not None and each is not source]
    inner = [node.outputs[0] for node in inside.values() if node.outputs[0] is not result]
    return not any(
        value.is_graph_output() or any(id(use.node) not in inside for use in value.uses()) for value in inner
    )


def _gelu(x: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * x * (1.0 + _ERF(x / _SQRT_2)))


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * x * (1.0 + np.tanh(_TANH_SCALE * (x + _TANH_CUBIC * x**3))))


# Rule 2 -------------------------------------------------------------------------------------------------------------


def _replace(model: ir.Model, source: ir.Value, result: ir.Value, *, approximate: bool) -> None:
    import onnx_ir as ir

    old = result.producer()
    assert old is not None  # noqa: S101 - `result` was found behind a node
    name = result.name
    if opset_of(model) >= GELU_OPSET:
        kind = "tanh" if approximate else "none"
        nodes = [ir.node("Gelu", [source], {"approximate": kind}, name=old.name)]
    else:
        nodes = _decomposed(model, source, result, approximate=approximate)
    for node in nodes:
        node.outputs[0].type, node.outputs[0].shape = result.type, result.shape
    model.graph.insert_before(old, nodes)
    result.replace_all_uses_with(nodes[-1].outputs[0], replace_graph_outputs=True)
    model.graph.remove(old, safe=True)
    nodes[-1].outputs[0].name = name


def _decomposed(model: ir.Model, source: ir.Value, result: ir.Value, *, approximate: bool) -> list[ir.Node]:
    import onnx_ir as ir

    dtype = source.dtype.numpy() if source.dtype is not None else np.dtype(np.float32)
    nodes: list[ir.Node] = []

    def apply(op_type: str, value: ir.Value, other: float | ir.Value | None = None) -> ir.Value:
        label = f"{result.name}_{op_type.lower()}_{len(nodes)}"
        if isinstance(other, float):
            other = new_initializer(model, f"{label}.constant", np.array(other, dtype))
        node = ir.node(op_type, [value] if other is None else [value, other], name=label)
        node.outputs[0].name = f"{label}_output"
        nodes.append(node)
        return node.outputs[0]

    if approximate:
        cubic = apply("Mul", apply("Pow", source, 3.0), _TANH_CUBIC)
        inner = apply("Tanh", apply("Mul", apply("Add", source, cubic), _TANH_SCALE))
    else:
        inner = apply("Erf", apply("Div", source, _SQRT_2))
    half = apply("Mul", source, 0.5)
    apply("Mul", half, apply("Add", inner, 1.0))
    return nodes
