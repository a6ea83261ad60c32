"""Counts of weights, added up from layers: those of linear layers by shape, which low bits are for, and the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

Shape = tuple[int, int]
"""Outputs and inputs of a linear layer; of an embedding table, its rows and what a row holds."""

_NONE: Mapping[Shape, int] = MappingProxyType({})


@dataclass(frozen=True)
class Weights:
    """The weights of some layers. They add up, and `2 * weights` are those of two equal layers.

    Attributes:
        matrices: Shape -> how many linear layers or embedding tables have it.
        others: Values that are stored as floats in every precision: norms, biases, convolutions, positions.
    """

    matrices: Mapping[Shape, int] = field(default_factory=lambda: _NONE)
    others: int = 0

    @property
    def quantizable(self) -> int:
        """Values of all matrices."""
        return sum(outputs * inputs * count for (outputs, inputs), count in self.matrices.items())

    @property
    def parameters(self) -> int:
        """All values."""
        return self.quantizable + self.others

    def __add__(self, other: Weights) -> Weights:
        return Weights(Counter(self.matrices) + Counter(other.matrices), self.others + other.others)

    def __rmul__(self, count: int) -> Weights:
        return Weights({shape: count * each for shape, each in self.matrices.items()}, count * self.others)


def linear(inputs: int, outputs: int, *, bias: bool = True) -> Weights:
    """Returns a linear layer."""
    return Weights({(outputs, inputs): 1}, outputs if bias else 0)


def table(rows: int, width: int) -> Weights:
    """Returns an embedding table, of which a token reads one row."""
    return Weights({(rows, width): 1})


def values(count: int) -> Weights:
    """Returns values that stay floats."""
    return Weights(others=count)


def layer_norm(width: int) -> Weights:
    """Returns a LayerNorm: a scale and a shift per channel."""
    return values(2 * width)


def rms_norm(width: int) -> Weights:
    """Returns an RMSNorm: a scale per channel."""
    return values(width)
