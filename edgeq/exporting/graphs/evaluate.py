"""Computes single nodes on arrays."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir


def evaluate(node: ir.Node, inputs: Sequence[np.ndarray | None], opset: int) -> list[np.ndarray] | None:
    """Returns the outputs of a node for these inputs, in ONNX's reference implementation.

    Args:
        node: A node of the default domain without subgraphs.
        inputs: Its inputs in order; `None` for those that it omits.
        opset: The graph's version of the default operator set.

    Returns:
        One array per output, or `None` if the reference implementation cannot compute the node.
    """
    import onnx_ir as ir
    from onnx.reference import ReferenceEvaluator

    proto = ir.to_proto(node)
    del proto.input[:], proto.output[:]
    names = ["" if array is None else f"input_{index}" for index, array in enumerate(inputs)]
    proto.input.extend(names)
    proto.output.extend(f"output_{index}" for index in range(len(node.outputs)))
    feeds = {name: array for name, array in zip(names, inputs, strict=True) if array is not None}
    try:
        # A division by zero in a constant is the model's own affair, and is computed as engines do.
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outputs = ReferenceEvaluator(proto, opsets={"": opset}).run(None, feeds)
    # It raises whatever its Python code happens to raise.
    except Exception:
        return None
    found = [np.asarray(output) for output in outputs if isinstance(output, (np.ndarray, np.generic))]
    return found if len(found) == len(node.outputs) else None
