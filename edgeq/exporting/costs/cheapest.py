"""The cheapest choice of INT8 layers: a minimum cut.

Every layer is computed in float or in INT8, and each way has a cost. A tensor that one layer writes in one precision
and another layer reads in the other one is converted, once for all its readers. The choice with the least sum is a
minimum cut of a network in which INT8 is the source's side: the costs of a layer are edges to the source and to the
sink, and a conversion is an edge that is cut if the writer and any reader are on different sides (Kolmogorov and Zabih,
"What energy functions can be minimized via graph cuts?", 2004). For a chain of layers it is the shortest path through
the two states of each; the cut is exact for graphs that fork and join as well.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class LayerCost:
    """What a layer costs either way.

    Attributes:
        float_us: In float.
        int8_us: In INT8; infinite for a layer that has to stay in float.
    """

    float_us: float
    int8_us: float = math.inf


@dataclass(frozen=True)
class Conversion:
    """A tensor between layers.

    Attributes:
        writer: Name of the layer that writes it.
        readers: Names of the layers that read it.
        quantize_us: What it costs that a float layer's result is read in INT8.
        dequantize_us: What it costs that an INT8 layer's result is read in float.
    """

    writer: str
    readers: tuple[str, ...]
    quantize_us: float = 0.0
    dequantize_us: float = 0.0


def total_us(
    layers: Mapping[str, LayerCost], conversions: Sequence[Conversion], int8: frozenset[str] | set[str]
) -> float:
    """Returns what a choice costs.

    Args:
        layers: Name -> cost.
        conversions: The tensors between them.
        int8: Names of the layers in INT8.
    """
    total = sum(cost.int8_us if name in int8 else cost.float_us for name, cost in layers.items())
    for each in conversions:
        if each.writer in int8:
            total += each.dequantize_us * any(reader not in int8 for reader in each.readers)
        else:
            total += each.quantize_us * any(reader in int8 for reader in each.readers)
    return total


def cheapest(layers: Mapping[str, LayerCost], conversions: Sequence[Conversion]) -> frozenset[str]:
    """Returns the layers to compute in INT8; of several cheapest choices the one with the fewest of them.

    Fewer layers in INT8 lose less of a model's accuracy, which breaks ties.

    Args:
        layers: Name -> cost. Costs in float are finite; none is negative.
        conversions: The tensors between them.
    """
    network = _Network()
    for name, cost in layers.items():
        network.connect(_INT8, name, cost.float_us)  # cut if the layer is on the other side: it is in float
        network.connect(name, _FLOAT, cost.int8_us)
    for index, each in enumerate(conversions):
        some_float, some_int8 = ("some reader in float", index), ("some reader in INT8", index)
        network.connect(each.writer, some_float, each.dequantize_us)
        network.connect(some_int8, each.writer, each.quantize_us)
        for reader in each.readers:
            network.connect(some_float, reader, math.inf)
            network.connect(reader, some_int8, math.inf)
    return frozenset(layers).intersection(network.source_side(_INT8, _FLOAT))


_INT8, _FLOAT = ("source",), ("sink",)

_NEGLIGIBLE_US = 1e-6
"""A capacity below this is none: sums of floats leave such remainders."""


class _Network:
    """A flow network. Edges are added, then it is asked once."""

    def __init__(self) -> None:
        self._capacity: dict[object, dict[object, float]] = {}

    def connect(self, start: object, end: object, capacity: float) -> None:
        """Adds an edge; edges between the same two nodes add up."""
        outgoing = self._capacity.setdefault(start, {})
        outgoing[end] = outgoing.get(end, 0.0) + capacity
        self._capacity.setdefault(end, {}).setdefault(start, 0.0)

    def source_side(self, source: object, sink: object) -> set[object]:
        """Returns the nodes on the source's side of the minimum cut that is nearest to it (Edmonds and Karp, 1972)."""
        while (path := self._shortest_path(source, sink)) is not None:
            flow = min(self._capacity[start][end] for start, end in path)
            for start, end in path:
                self._capacity[start][end] -= flow
                self._capacity[end][start] += flow
        return self._reached

    def _shortest_path(self, source: object, sink: object) -> list[tuple[object, object]] | None:
        """Returns the edges of a path that can take more flow; `None` if there is none."""
        before: dict[object, object] = {source: source}
        waiting = deque([source])
        while waiting:
            node = waiting.popleft()
            for end, capacity in self._capacity.get(node, {}).items():
                if capacity > _NEGLIGIBLE_US and end not in before:
                    before[end] = node
                    waiting.append(end)
        self._reached = set(before)
        if sink not in before:
            return None
        path, node = [], sink
        while node != source:
            path.append((before[node], node))
            node = before[node]
        return path[::-1]
