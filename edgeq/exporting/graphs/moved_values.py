"""Where operators that only move values put each of them: found by running them on the values' numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.graphs.channels import move
from edgeq.exporting.graphs.evaluate import evaluate
from edgeq.exporting.graphs.graph import constant
from edgeq.exporting.graphs.moves import JOINS, REARRANGES

if TYPE_CHECKING:
    import onnx_ir as ir


def lengths_of(value: ir.Value) -> list[int] | None:
    """Returns the lengths of a map `(N, C, H, W)`; `None` if one is not known or there are not four."""
    lengths = [size for size in value.shape or () if isinstance(size, int)]
    return lengths if len(lengths) == 4 == len(value.shape or ()) else None


def one_source(value: ir.Value) -> ir.Value | None:
    """Returns the one tensor whose values are moved to become `value`, or `None` if there are several."""
    found: set[ir.Value] = set()
    waiting = [value]
    while waiting:
        one = waiting.pop()
        producer = one.producer()
        if producer is None or not _moves(producer):
            found.add(one)
        else:
            waiting += [each for each in _moved_by(producer) if each is not None and constant(each) is None]
    return found.pop() if len(found) == 1 else None


def _moves(node: ir.Node) -> bool:
    return node.op_type in REARRANGES | JOINS | {"SpaceToDepth"}


def _moved_by(node: ir.Node) -> list[ir.Value | None]:
    return list(node.inputs if node.op_type in JOINS else node.inputs[:1])


def moved_values(value: ir.Value, known: Mapping[ir.Value, np.ndarray], opset: int) -> np.ndarray | None:
    """Returns what becomes of the source's numbers on the way to a tensor."""
    if value in known:
        return known[value]
    node = value.producer()
    if node is None or not _moves(node):
        return None
    given = [None if each is None else moved_values(each, known, opset) for each in _moved_by(node)]
    arrays = [array for array in given if array is not None]
    if len(arrays) < len(given):
        return None
    if node.op_type in JOINS:
        outputs: list[np.ndarray] | None = [np.concatenate(arrays, node.attributes["axis"].as_int())]
    elif node.op_type in REARRANGES:
        outputs = move(node, arrays[0])
    else:
        outputs = evaluate(node, arrays, opset)
    return None if outputs is None else outputs[node.outputs.index(value)]
