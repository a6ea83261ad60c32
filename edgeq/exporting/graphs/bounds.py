"""How large the tensors of a float graph can become, from what was observed of some of them.

An observed tensor has the magnitude that was seen. For others a bound follows from the tensors before them: a linear
layer adds up its weights times its input, so that the largest sum of `|weights|` of an output bounds it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.graphs.graph import constant, weight_of
from edgeq.exporting.graphs.moves import moved_from, moved_inputs, moves_values
from edgeq.exporting.graphs.written_norm import written_norm

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.calibrators import Histogram

# Operators whose results lie in -1..1.
_AT_MOST_ONE = frozenset({"Softmax", "Sigmoid", "HardSigmoid", "Tanh", "Erf", "Cos", "Sin"})
# Operators whose results are no larger than their first input.
_NOT_LARGER = frozenset(
    {"Relu", "LeakyRelu", "Gelu", "Clip", "Abs", "Neg", "HardSwish", "Cast", "GlobalAveragePool", "AveragePool"}
    | {"ReduceMean", "ReduceMax", "ReduceMin"}
)


class Magnitudes:
    """Magnitudes of a graph's tensors.

    Args:
        histograms: Tensor name -> what was observed.
    """

    def __init__(self, histograms: Mapping[str, Histogram]) -> None:
        self._histograms = histograms
        self._known: dict[ir.Value, float | None] = {}

    def histogram(self, value: ir.Value) -> Histogram | None:
        """Returns what was observed of a tensor, or of the one whose values it only moves."""
        return self._histograms.get(str(moved_from(value).name))

    def of(self, value: ir.Value) -> float | None:
        """Returns the largest magnitude of a tensor, observed, of a constant or a bound; `None` where none is known."""
        if value not in self._known:
            self._known[value] = self._find(value)
        return self._known[value]

    def _find(self, value: ir.Value) -> float | None:
        if (histogram := self.histogram(value)) is not None:
            return histogram.amax
        if (array := constant(value)) is not None:
            return _largest(array)
        node = value.producer()
        return None if node is None else self._bound(node)

    def _bound(self, node: ir.Node) -> float | None:
        """Returns the largest magnitude that a node's outputs can have, by its inputs'."""
        if moves_values(node):
            return self._of_all(max, moved_inputs(node))
        if node.op_type in _AT_MOST_ONE:
            return 1.0
        if node.op_type in _NOT_LARGER:
            return self._of_all(max, node.inputs[:1])
        if weight_of(node) is not None:
            return self._weighted_sum(node)
        rule = _RULES.get(node.op_type)
        return None if rule is None else rule(self, node)

    def _of_all(self, combine: Callable[[list[float]], float], values: Sequence[ir.Value | None]) -> float | None:
        magnitudes = [None if value is None else self.of(value) for value in values]
        known = [magnitude for magnitude in magnitudes if magnitude is not None]
        return combine(known) if known and len(known) == len(magnitudes) else None

    def _sum(self, node: ir.Node) -> float | None:
        return self._of_all(math.fsum, node.inputs)

    def _product(self, node: ir.Node) -> float | None:
        return self._of_all(math.prod, node.inputs)

    def _quotient(self, node: ir.Node) -> float | None:
        if (norm := written_norm(node)) is not None and (count := reduced_count(norm.variance)) is not None:
            return math.sqrt(count)  # no square is above their sum
        divisor = constant(node.inputs[1])
        least = 0.0 if divisor is None else float(np.abs(divisor).min(initial=math.inf))
        return self._of_all(lambda known: known[0] / least, node.inputs[:1]) if least > 0 else None

    def _matrix_product(self, node: ir.Node) -> float | None:
        """Returns the bound of a product of activations where the first is a softmax's: that is an average."""
        first = None if node.inputs[0] is None else moved_from(node.inputs[0]).producer()
        return self._of_all(max, node.inputs[1:]) if first is not None and first.op_type == "Softmax" else None

    def _weighted_sum(self, node: ir.Node) -> float | None:
        sums = _sums_of_weights(node)
        before = self._of_all(max, node.inputs[:1])
        if sums is None or before is None:
            return None
        bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        return sums * before + (0.0 if bias is None else _largest(bias))

    def _normalized(self, node: ir.Node) -> float | None:
        """Returns the bound of a LayerNormalization: one value of `n` can be `sqrt(n - 1)` standard deviations away."""
        count = normalized_count(node)
        if count is None:
            return None
        return self._of_all(lambda known: math.sqrt(count) * known[0] + sum(known[1:]), node.inputs[1:])


def normalized_count(node: ir.Node) -> int | None:
    """Returns how many values a LayerNormalization normalises together; `None` where a length is not fixed."""
    value = node.inputs[0]
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
    lengths = [] if value is None or value.shape is None else list(value.shape)[axis:]
    fixed = [length for length in lengths if isinstance(length, int)]
    return math.prod(fixed) if fixed and len(fixed) == len(lengths) else None


def reduced_count(node: ir.Node) -> int | None:
    """Returns how many values each result of a Reduce node is made of; `None` where a length is not fixed."""
    value = node.inputs[0]
    if value is None or value.shape is None:
        return None
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is None and "axes" in node.attributes:
        axes = np.array(node.attributes["axes"].as_ints())
    lengths = list(value.shape) if axes is None else [value.shape[axis] for axis in axes]
    fixed = [length for length in lengths if isinstance(length, int)]
    return math.prod(fixed) if len(fixed) == len(lengths) else None


_RULES: dict[str, Callable[[Magnitudes, ir.Node], float | None]] = {
    "Add": Magnitudes._sum,
    "Sub": Magnitudes._sum,
    "Mul": Magnitudes._product,
    "Div": Magnitudes._quotient,
    "MatMul": Magnitudes._matrix_product,
    "LayerNormalization": Magnitudes._normalized,
}


def _sums_of_weights(node: ir.Node) -> float | None:
    """Returns the largest sum of the weights' magnitudes that go into one output; `None` for other layers."""
    weight = weight_of(node)
    if weight is None:
        return None
    magnitudes = np.abs(weight.astype(np.float64))
    if node.op_type == "Conv":
        return float(magnitudes.reshape(len(magnitudes), -1).sum(axis=1).max())
    if node.op_type == "MatMul":
        return float(magnitudes.sum(axis=-2 if magnitudes.ndim > 1 else 0).max())
    if node.op_type == "Gemm":
        turned = "transB" in node.attributes and node.attributes["transB"].as_int()
        alpha = node.attributes["alpha"].as_float() if "alpha" in node.attributes else 1.0
        return float(magnitudes.sum(axis=1 if turned else 0).max()) * abs(alpha)
    return None


def _largest(array: np.ndarray) -> float:
    if array.dtype.kind not in "fiu":
        return 0.0
    return float(np.abs(array[np.isfinite(array)].astype(np.float64)).max(initial=0))
