"""Follows tensors of a float TFLite graph through its operators to tensors whose histograms are known.

The converter pads before a layer, splits one layer into several, moves axes, and takes constants into weights. What is
left between a new tensor and a known one is arithmetic that histograms can do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.calibrators.histogram import Histogram
from edgeq.exporting.tflite.graph import Graph, Operator

Floats = npt.NDArray[Any]
Function = Callable[[Floats], Floats]

_KEEPS_VALUES = frozenset(
    {"RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS", "SPACE_TO_DEPTH", "DEPTH_TO_SPACE", "REVERSE_V2"}
)
"""Operators that hand on all values of their first input, each once."""

_REPEATS = frozenset({"PAD", "MIRROR_PAD", "MAX_POOL_2D", "RESIZE_NEAREST_NEIGHBOR"})
"""Operators whose outputs are values of their first input, the outermost among them, or zero."""

_JOINS = frozenset({"CONCATENATION", "PACK"})
_PARTS = frozenset({"SPLIT", "SPLIT_V", "UNPACK"})

_CUTS: Mapping[int, tuple[float, float]] = {0: (-np.inf, np.inf), 1: (0.0, np.inf), 2: (-1.0, 1.0), 3: (0.0, 6.0)}
"""Fused activation, by the schema's number -> where it cuts off; those that bend values are missing."""

_CLAMPS = {"RELU": (0.0, np.inf), "RELU_N1_TO_1": (-1.0, 1.0), "RELU6": (0.0, 6.0), "RELU_0_TO_1": (0.0, 1.0)}

_FUNCTIONS: Mapping[str, Function] = {
    "ABS": np.abs,
    "HARD_SWISH": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "LOGISTIC": lambda x: (1 + np.tanh(x / 2)) / 2,
    "NEG": np.negative,
    "SQUARE": np.square,
    "TANH": np.tanh,
}
"""Operators that compute a function of each value."""


def fused_limits(operator: Operator) -> tuple[float, float] | None:
    """Returns where an operator cuts its output off; `None` where the function that is fused to it bends values."""
    return _CUTS.get(getattr(operator.options, "fusedActivationFunction", 0))


@dataclass(frozen=True)
class Followed:
    """A graph some of whose tensors are known.

    Attributes:
        graph: A float graph whose tensors have names of their own.
        twins: Tensor name -> name of what it has the values of.
        histograms: Tensor name -> histogram, where it is known.
    """

    graph: Graph
    twins: Mapping[str, str]
    histograms: Mapping[str, Histogram]

    def same(self, name: str) -> str | None:
        """Returns the twin of a tensor that holds the same values in another order, or with zeros around them."""
        seen = {self._numbers[name]}
        pending = list(seen)
        for index in pending:
            twin = self._twin(index)
            if twin is not None:
                return twin
            neighbours = [neighbour for neighbour in self._neighbours(index) if neighbour not in seen]
            seen.update(neighbours)
            pending += neighbours
        return None

    def whole(self, name: str) -> str | None:
        """Returns the twin of what a tensor is joined to with others that have none, as the parts of a split layer."""
        for reader in self.graph.readers[self._numbers[name]]:
            if reader.kind in _JOINS and not any(self._twin(part) for part in reader.inputs):
                return self._twin(reader.outputs[0])
        return None

    def histogram(self, name: str) -> Histogram | None:
        """Returns the histogram that arithmetic on known ones leads to; `None` if no way leads to any."""
        found = self._histogram(self._numbers[name], frozenset())
        return found if found is not None and found.total else None

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {tensor.name: tensor.index for tensor in self.graph.tensors}

    def _twin(self, index: int) -> str | None:
        return self.twins.get(self.graph.tensors[index].name)

    def _neighbours(self, index: int) -> Iterator[int]:
        """Yields what holds all values of a tensor, and no others but zeros that surround them."""
        for reader in self.graph.readers[index]:
            if self._surrounds(reader) and reader.inputs[0] == index:
                yield reader.outputs[0]
        producer = self.graph.producer.get(index)
        if producer is not None and self._surrounds(producer):
            yield producer.inputs[0]

    def _surrounds(self, operator: Operator) -> bool:
        """Returns whether an operator only moves values, and pads with zeros or with what no reader sees: infinity."""
        if operator.kind != "PADV2":
            return operator.kind in _KEEPS_VALUES or operator.kind == "PAD"
        fill = self.graph.values.get(operator.inputs[2])
        return fill is not None and bool(((fill == 0) | np.isinf(fill)).all())

    def _histogram(self, index: int, seen: frozenset[int]) -> Histogram | None:
        known = self.histograms.get(self.graph.tensors[index].name)
        if known is not None or index in seen:
            return known
        seen = seen | {index}
        found = self._computed(index, seen)
        for reader in self.graph.readers[index] if found is None else ():
            found = self._read_back(reader, index, seen)
            if found is not None:
                break
        return found

    def _computed(self, index: int, seen: frozenset[int]) -> Histogram | None:
        """Returns the histogram of what an operator makes of known tensors."""
        operator = self.graph.producer.get(index)
        if operator is None:
            return None
        function = self._function(operator)
        if function is not None:
            given = self._histogram(self.graph.activations(operator)[0], seen)
            return None if given is None else given.mapped(function)
        if operator.kind in _JOINS:
            return self._merged(operator.inputs, seen)
        if self._surrounds(operator) or operator.kind in _REPEATS:
            return self._histogram(operator.inputs[0], seen)
        return self._padded(operator, seen) if operator.kind == "PADV2" else None

    def _padded(self, operator: Operator, seen: frozenset[int]) -> Histogram | None:
        """Returns the histogram of what is padded with a number, which counts as often as it is there."""
        given, fill = self._histogram(operator.inputs[0], seen), self.graph.values.get(operator.inputs[2])
        if given is None or fill is None:
            return None
        inner, whole = (math.prod(self.graph.tensors[each].shape) for each in (operator.inputs[0], operator.outputs[0]))
        padding = Histogram.of(fill)
        return given + replace(padding, counts=padding.counts * round(given.total * (whole - inner) / inner))

    def _read_back(self, reader: Operator, index: int, seen: frozenset[int]) -> Histogram | None:
        """Returns the histogram of what an operator reads, from that of what it makes of it."""
        if reader.kind in _PARTS:
            return self._merged(reader.outputs, seen)
        cut_off = self._clamp(reader) is not None and self.graph.readers[index] == (reader,)
        # What lies beyond the ends of a clamp may as well be cut off before it.
        if cut_off or (self._surrounds(reader) and reader.inputs[0] == index):
            return self._histogram(reader.outputs[0], seen)
        line = self._line(reader)
        if line is None or line[0] == 0 or fused_limits(reader) != _CUTS[0]:
            return None
        made = self._histogram(reader.outputs[0], seen)
        factor, offset = line
        return None if made is None else made.mapped(lambda y: (y - offset) / factor)

    def _merged(self, indices: tuple[int, ...], seen: frozenset[int]) -> Histogram | None:
        total = Histogram()
        for index in indices:
            part = self._histogram(index, seen)
            if part is None:
                return None
            total += part
        return total

    def _function(self, operator: Operator) -> Function | None:
        """Returns what an operator of one computed input does to each value, if it does the same to all."""
        if operator.kind in _FUNCTIONS:
            return _FUNCTIONS[operator.kind]
        if operator.kind == "LEAKY_RELU":
            alpha = float(operator.options.alpha)
            return lambda x: np.where(x < 0, alpha * x, x)
        low, high = self._clamp(operator) or fused_limits(operator) or (np.nan, np.nan)
        line = (1.0, 0.0) if self._clamp(operator) else self._line(operator)
        if line is None or np.isnan(low):
            return None
        factor, offset = line
        return lambda x: np.clip(factor * x + offset, low, high)

    def _clamp(self, operator: Operator) -> tuple[float, float] | None:
        scalar = self._scalar(operator)
        if operator.kind in ("MAXIMUM", "MINIMUM") and scalar is not None:
            return (scalar, np.inf) if operator.kind == "MAXIMUM" else (-np.inf, scalar)
        return _CLAMPS.get(operator.kind)

    def _line(self, operator: Operator) -> tuple[float, float] | None:
        """Returns factor and offset of an operator that multiplies by a number, or adds one."""
        scalar = self._scalar(operator)
        if scalar is None:
            return None
        first = operator.inputs[0] in self.graph.values
        if operator.kind == "ADD":
            return 1.0, scalar
        if operator.kind == "SUB":
            return (-1.0, scalar) if first else (1.0, -scalar)
        if operator.kind == "MUL":
            return scalar, 0.0
        if operator.kind == "DIV" and not first and scalar:
            return 1 / scalar, 0.0
        return None

    def _scalar(self, operator: Operator) -> float | None:
        """Returns the one constant number that an operator computes with besides its one computed input."""
        constants = [self.graph.values[index] for index in operator.inputs if index in self.graph.values]
        if len(operator.inputs) != 2 or len(constants) != 1 or len(self.graph.activations(operator)) != 1:
            return None
        first = constants[0].flat[0] if constants[0].size else np.nan
        return float(first) if np.isfinite(first) and (constants[0] == first).all() else None
