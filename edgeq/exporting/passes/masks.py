"""Makes masks of attention finite, so that FP16 and quantized files can hold them. The same softmax.

Exporters write minus infinity, -1e9 or the least float where a position is not to be attended to. FP16 makes minus
infinity of all of them, and an integer grid that reaches so far has no steps left for the logits. What counts is only
that the exponential becomes zero: in float32 that is so 104 below the largest logit of the row.

Rules, by number:

1. A mask is a constant that is added to the logits of a Softmax over the last axis, or that a Where puts in the place
   of some. Values below `LEAST` become `LEAST`: the softmax is the same while the logits of a row are within 16,000.
2. A row that is masked altogether would become another softmax, or one where there was none; its mask is left, and so
   is one whose places are computed, and one that holds NaN.
3. A constant that others read is left to them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.graphs.graph import drop_unused, new_initializer, walk
from edgeq.exporting.graphs.linear import set_constant
from edgeq.exporting.graphs.masks import SOFTMAX, Mask, masks_before
from edgeq.exporting.passes.report import RewriteReport

if TYPE_CHECKING:
    import onnx_ir as ir

LEAST = -16384.0
"""A power of two that FP16 holds, with room for logits below it."""


def limit_masks(model: ir.Model) -> RewriteReport:
    """Makes masks finite, in place, and returns the names of the nodes that apply them.

    Args:
        model: A cleaned graph with shapes.
    """
    done: list[str] = []
    left: dict[str, str] = {}
    limited: dict[ir.Value, ir.Value] = {}
    for softmax in walk(model):
        if softmax.op_type not in SOFTMAX:
            continue
        masks = list(masks_before(softmax))
        large = [mask for mask in masks if np.isnan(mask.array).any() or mask.array.min(initial=0) < LEAST]
        reason = _reason(masks) if large else None
        for mask in large:
            name = str(mask.node.name)
            if reason is not None:
                left[name] = reason
            else:
                _limit(model, mask, limited)
                done.append(name)
    if done:
        drop_unused(model)
    return RewriteReport(tuple(done), left)


def _reason(masks: list[Mask]) -> str | None:
    """Returns why the masks of a Softmax stay (rule 2), or `None`."""
    hidden = np.zeros((), np.bool_)
    for mask in masks:
        if np.isnan(mask.array).any():
            return "it holds NaN"
        if mask.applies is None:
            return "which logits it is for is computed"
        try:
            hidden = hidden | ((mask.array < LEAST) & mask.applies)
        except ValueError:
            return "it is one of several masks of different shapes"
    if not hidden.ndim or hidden.all(axis=-1).any():
        return "it masks whole rows"
    return None


def _limit(model: ir.Model, mask: Mask, limited: dict[ir.Value, ir.Value]) -> None:
    old = mask.node.inputs[mask.position]
    assert old is not None  # noqa: S101 - it is a constant
    if old in limited:
        mask.node.replace_input_with(mask.position, limited[old])
        return
    array = np.maximum(mask.array, mask.array.dtype.type(LEAST))
    if len(old.uses()) == 1:
        set_constant(model, mask.node, mask.position, str(old.name), array)
        return
    limited[old] = new_initializer(model, f"{old.name}_finite", array)
    mask.node.replace_input_with(mask.position, limited[old])
