"""Folds LayerNorm's scale and shift into the Linear layers behind it. Exact up to float rounding.

`(gamma * n + beta) W + b` is `n (diag(gamma) W) + (b + beta W)` for the normalised `n`. What is left of the LayerNorm
has no channels of its own: its output is one tensor of variance one, which a single scale fits better.

Rules, by number:

1. LayerNormalization over the last axis, with constant gamma and beta.
2. All readers of its output are Linear layers (Gemm, MatMul, MatMul and Add), also behind operators that only move
   values and leave the channels whole and in order (a Gather of the class token, a Transpose to tokens first).
3. Gamma goes into the rows of every reader's weight, beta into its bias; LayerNormalization stays one operator, with
   ones and zeros.
4. What does not qualify is left alone and named with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.graphs.channels import follow_channels
from edgeq.exporting.graphs.graph import constant, walk
from edgeq.exporting.graphs.linear import Linear, linear_of, set_constant
from edgeq.exporting.passes.report import RewriteReport

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx_ir as ir


@dataclass(frozen=True)
class NormedLinears:
    """A LayerNorm and the Linear layers that are all that reads it.

    Attributes:
        node: The LayerNormalization.
        gamma: Its scale `(C,)`, float64.
        beta: Its shift `(C,)`, float64.
        readers: The layers.
    """

    node: ir.Node
    gamma: np.ndarray
    beta: np.ndarray
    readers: tuple[Linear, ...]

    def replace(self, model: ir.Model, gamma: np.ndarray, beta: np.ndarray) -> None:
        """Gives the LayerNorm another scale and shift `(C,)`, and leaves it at that."""
        scale = constant(self.node.inputs[1])
        assert scale is not None  # noqa: S101 - it was read before
        if len(self.node.inputs) < 3:
            self.node.resize_inputs(3)
        set_constant(model, self.node, 1, f"{self.node.name}.gamma", gamma.astype(scale.dtype))
        set_constant(model, self.node, 2, f"{self.node.name}.beta", beta.astype(scale.dtype))


def fold_layernorm_affine(model: ir.Model) -> RewriteReport:
    """Folds what can be folded, in place, and returns what was done.

    LayerNorms whose scale is one and whose shift is zero are in neither list of the report.

    Args:
        model: A cleaned graph with shapes.
    """
    done, left = [], {}
    for name, found in normed_linears(model):
        if isinstance(found, str):
            left[name] = found
        elif np.any(found.gamma != 1) or np.any(found.beta):
            for layer in found.readers:
                weight = layer.weight
                layer.replace(model, weight * found.gamma[:, None], layer.bias + found.beta @ weight)
            found.replace(model, np.ones_like(found.gamma), np.zeros_like(found.beta))
            done.append(name)
    return RewriteReport(tuple(done), left)


def normed_linears(model: ir.Model) -> Iterator[tuple[str, NormedLinears | str]]:
    """Yields the name of every LayerNormalization with its layers, or with the reason why rules 1 and 2 do not hold."""
    for node in walk(model):
        if node.op_type == "LayerNormalization":
            yield node.name or "?", _normed_linears(node)


def _normed_linears(node: ir.Node) -> NormedLinears | str:
    source, output = node.inputs[0], node.outputs[0]
    rank = len(source.shape) if source is not None and source.shape is not None else 0
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
    if rank == 0 or axis % rank != rank - 1:
        return "it normalises over more than the last axis"
    gamma = constant(node.inputs[1])
    beta = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.zeros(1)
    if gamma is None or beta is None or gamma.ndim != 1:
        return "its scale and shift are not constant vectors"
    if any(extra.uses() or extra.is_graph_output() for extra in node.outputs[1:]):
        return "its mean or variance is read"
    layers: dict[int, Linear] = {}
    for reader in follow_channels(output):
        layer = linear_of(reader.node)
        if layer is None or layer.node is not reader.node or layer.node.inputs[0] is not reader.value:
            return f"{reader.name} reads it, which is not a Linear layer"
        if not reader.keeps_channels or layer.weight.shape[0] != gamma.size:
            return f"its channels do not reach {layer.name} whole and in order"
        layers[id(layer.node)] = layer
    if not layers:
        return "nothing reads it"
    shift = np.broadcast_to(beta.astype(np.float64), gamma.shape)
    return NormedLinears(node, gamma.astype(np.float64), shift, tuple(layers.values()))
