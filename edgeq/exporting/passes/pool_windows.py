"""Takes the rounding up from pools in which shape inference counts windows that no engine computes. Exact.

A window that would begin behind the last pixel and its padding is none, for engines at any opset and for the
specification since opset 22. Inference of older opsets counts it, where strides are longer than kernels.

Where the numbers differ the windows of that axis fit without rounding up. An axis that needs a window over the edge
gets the padding for it, which a maximum and an average of pixels alone do not count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeq.exporting.graphs.graph import copy_graph, infer_shapes, walk
from edgeq.exporting.passes.node_builder import attribute, dims, set_attribute
from edgeq.exporting.passes.report import RewriteReport

if TYPE_CHECKING:
    import onnx_ir as ir

_POOLS = frozenset({"MaxPool", "AveragePool", "LpPool"})


def settle_pool_windows(model: ir.Model) -> RewriteReport:
    """Rewrites such pools of the main graph, in place; shapes behind them are not known any more."""
    rounding = [
        (place, node)
        for place, node in enumerate(walk(model))
        if node.op_type in _POOLS and attribute(node, "ceil_mode", 0)
    ]
    if not any(_may_skip(node) for _, node in rounding):
        return RewriteReport()
    done = []
    for place, node in rounding:
        inferred = copy_graph(model)  # the graph itself would keep what is counted wrong
        infer_shapes(inferred)
        if (pads := _pads_without_rounding(list(inferred.graph)[place])) is not None:
            set_attribute(node, "ceil_mode", None)
            set_attribute(node, "pads", pads)
            _forget_shapes_behind(node)
            done.append(str(node.name))
    return RewriteReport(tuple(done))


def _may_skip(pool: ir.Node) -> bool:
    """Returns whether pixels may lie between the windows of a pool."""
    kernel = attribute(pool, "kernel_shape")
    return any(stride > side for stride, side in zip(attribute(pool, "strides", ()), kernel, strict=False))


def _pads_without_rounding(node: ir.Node) -> list[int] | None:
    """Returns the padding with which a pool has its windows without rounding up; `None` where nothing is to be done."""
    shape = dims(node.inputs[0])
    if shape is None or attribute(node, "auto_pad", "NOTSET") != "NOTSET":
        return None
    kernel = attribute(node, "kernel_shape")
    rank = len(kernel)
    strides, dilations = (attribute(node, name, (1,) * rank) for name in ("strides", "dilations"))
    pads = list(attribute(node, "pads", (0,) * 2 * rank))
    differs = False
    for axis, length in enumerate(shape[2:]):
        if length is None:
            return None
        begin, stride = pads[axis], strides[axis]
        reach = dilations[axis] * (kernel[axis] - 1) + 1
        counted = -(-(length + begin + pads[rank + axis] - reach) // stride) + 1
        windows = counted - ((counted - 1) * stride >= length + begin)
        differs |= windows != counted
        missing = (windows - 1) * stride + reach - (length + begin + pads[rank + axis])
        if missing > 0:
            pads[rank + axis] += missing
            if attribute(node, "count_include_pad", 0) or node.op_type == "LpPool":
                return None
    return pads if differs else None


def _forget_shapes_behind(node: ir.Node) -> None:
    seen, waiting = {node}, [node]
    while waiting:
        for output in waiting.pop().outputs:
            if not output.is_graph_output():
                output.shape = None
            readers = {use.node for use in output.uses()} - seen
            seen |= readers
            waiting += readers
