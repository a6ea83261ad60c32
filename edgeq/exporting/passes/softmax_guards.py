"""Takes out what exporters put around an attention's softmax for cases that cannot arise. Exact.

A mask of zeros hides nothing. A row of logits that is minus infinity throughout has NaN for its softmax, and torch's
exporter replaces NaN by zero behind every softmax with a mask. Both hide the attention from engines that fuse it.

Rules, by number:

1. A constant of zeros that is added to the logits goes, unless the sum has another shape than they.
2. The guard is a Where that takes a softmax except where IsNaN is true of it. It goes if the logits are finite: a
   product of activations, or what finite constants, scales and moves make of one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.graphs.graph import constant, data_inputs, drop_unused, walk
from edgeq.exporting.graphs.masks import SOFTMAX, guarded, masks_before
from edgeq.exporting.graphs.moves import REARRANGES
from edgeq.exporting.passes.report import RewriteReport

if TYPE_CHECKING:
    import onnx_ir as ir

_FINITE = REARRANGES | {"Add", "Sub", "Mul", "Div"}


def drop_softmax_guards(model: ir.Model) -> RewriteReport:
    """Takes masks of zeros and guards against NaN out of a graph, in place.

    Args:
        model: A cleaned graph with shapes and finite masks.
    """
    done: list[str] = []
    for softmax in walk(model):
        if softmax.op_type not in SOFTMAX:
            continue
        for mask in list(masks_before(softmax)):
            logits = mask.node.inputs[1 - mask.position] if mask.node.op_type == "Add" else None
            if logits is not None and not mask.array.any() and logits.shape == mask.node.outputs[0].shape:
                mask.node.outputs[0].replace_all_uses_with(logits)
                done.append(str(mask.node.name))
        weights = softmax.outputs[0]
        guards = [use.node for use in weights.uses() if guarded(use.node) is weights]
        for guard in guards if _is_finite(softmax.inputs[0]) else ():
            if not guard.outputs[0].is_graph_output():
                guard.outputs[0].replace_all_uses_with(weights)
                done.append(str(guard.name))
    if done:
        drop_unused(model)
    return RewriteReport(tuple(done))


def _is_finite(value: ir.Value | None) -> bool:
    while value is not None and (node := value.producer()) is not None:
        inputs = data_inputs(node)
        if node.op_type == "MatMul":
            return True
        constants = [array for each in node.inputs if each is not None and (array := constant(each)) is not None]
        finite = all(array.dtype.kind != "f" or np.isfinite(array).all() for array in constants)
        divides = node.op_type == "Div" and (node.inputs[0] is not inputs[0] or not all(map(np.all, constants)))
        if node.op_type not in _FINITE or len(inputs) != 1 or not finite or divides:
            return False
        value = inputs[0]
    return False
