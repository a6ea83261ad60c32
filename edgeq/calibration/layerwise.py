"""Method `best`: the range of each tensor that changes the output of the layers that read it least.

Hessian-free: no gradient is needed, every layer runs by itself.

1. The images are parted by their content (`part_images`). Most of them are counted, and every candidate of
   `edgeq.calibrators.candidates` proposes a range from these counts.
2. On the held-out images each layer that reads a calibrated tensor, directly or behind operators that only move values,
   runs on the float tensor and on the tensor on each candidate's grid, with its weight quantized. Layers are those with
   a constant weight, and products of two activations, one side at a time.
3. The candidate with the least squared error wins, in the asymmetric and in the symmetric form each for itself; among
   equals, to one per cent, the first. The error of a layer counts relative to the energy of its float output. Tensors
   that share a grid share a choice.
4. The winner's range is computed anew from the counts of all images, so that the histograms in the ranges file are
   those of any other method.

Tensors that no such layer reads (those between residual Adds, the outputs) fall back to `lp`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgeq.calibrators import Grid, Histogram, Range
from edgeq.calibrators.candidates import FALLBACK, Candidate, Choice, candidates
from edgeq.calibrators.grid import SMALLEST_AMAX
from edgeq.calibrators.minmax import minmax
from edgeq.errors import InputError
from edgeq.exporting.graphs.graph import WEIGHTED_OPS, data_inputs, opset_of, weight_of
from edgeq.exporting.graphs.linear import without_channels
from edgeq.exporting.planning.plan import constant_ranges, tensors_by_grid
from edgeq.runtimes.layer_error import LayerError

if TYPE_CHECKING:
    import onnx_ir as ir

HELD_OUT = 32
"""Images that layers are measured on, at most a quarter of all."""

_SHARE = 4
_DIGITS = 4
_EQUAL = 1.01
"""Errors within one per cent are equal on so few images; the earlier of the candidates then wins, `lp` first."""


def part_images(digests: Iterable[str], num: int = HELD_OUT) -> tuple[list[str], list[str]]:
    """Returns the digests of the images to count and of those to hold out, each once and sorted.

    Held out are the `num` smallest SHA-256 digests, at most a quarter of all images: a choice by content, so that
    neither order nor names of the files nor copies matter, and random as the digests are.

    Raises:
        InputError: there are less than two different images, or `num` is below 1.
    """
    ordered = sorted(set(digests))
    if num < 1:
        raise InputError(f"held_out {num}: wanted at least 1 image to measure layers on")
    if len(ordered) < 2:
        raise InputError(
            f"method best counts some images and measures the layers on others, and there is {len(ordered)} that "
            "can be read; give at least 2 different ones"
        )
    size = min(int(num), max(1, len(ordered) // _SHARE))
    return ordered[size:], ordered[:size]


@dataclass
class _Reader:
    """A layer that reads a tensor of a group, and what was measured on it so far.

    Attributes:
        name: The layer's name.
        value: The tensor that is quantized.
        other: The second activation of a product.
        layer: Runs it.
        errors: Squared error for each of the group's grids, summed over the images.
        energy: Energy of its float output, summed over the images.
    """

    name: str
    value: str
    other: str | None
    layer: LayerError
    errors: np.ndarray | float = 0.0
    energy: float = 0.0


@dataclass
class _Group:
    """Tensors on one grid, the layers that read them, and the grids to choose from.

    Attributes:
        names: The calibrated tensors among them.
        candidates: What proposes ranges.
        readers: The layers.
        grids: The different grids of all candidates in both forms.
        asymmetric: Candidate -> position of its asymmetric grid.
        symmetric: Candidate -> position of its symmetric grid.
    """

    names: list[str]
    candidates: Mapping[str, Candidate]
    readers: list[_Reader]
    grids: list[Grid] = field(default_factory=list)
    asymmetric: dict[str, int] = field(default_factory=dict)
    symmetric: dict[str, int] = field(default_factory=dict)


class Search:
    """Measures the candidates of every calibrated tensor on held-out images.

    Args:
        graph: The float graph.
        histograms: Calibrated tensor -> its values on the other images.
        bits: Bits of activations and weights.
        threads: CPU threads; `None` takes all.
    """

    def __init__(
        self, graph: ir.Model, histograms: Mapping[str, Histogram], bits: int = 8, threads: int | None = None
    ) -> None:
        self._bits = bits
        self._threads = threads or os.cpu_count() or 1
        self._groups = [self._group(graph, members, histograms) for members in _tied(graph, histograms)]
        self._readers = [(group, reader) for group in self._groups for reader in group.readers]

    @property
    def tensors(self) -> list[str]:
        """Names of the activations that `add` wants to see, in no particular order."""
        read = [name for _, reader in self._readers for name in (reader.value, reader.other) if name is not None]
        return list(dict.fromkeys(read))

    def add(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Measures all layers on one image.

        Args:
            arrays: Tensor name -> float32 activations, for at least `tensors`.

        Raises:
            EngineError: the engine cannot run a layer by itself.
        """

        def measure(entry: tuple[_Group, _Reader]) -> None:
            group, reader = entry
            other = None if reader.other is None else arrays[reader.other]
            errors, energy = reader.layer.measure(arrays[reader.value], other, group.grids)
            reader.errors += errors
            reader.energy += energy

        with ThreadPoolExecutor(self._threads) as pool:
            list(pool.map(measure, self._readers))

    def choose(self) -> dict[str, Choice]:
        """Returns calibrated tensor -> the candidate of least error on the images that were added."""
        found: dict[str, Choice] = {}
        for group in self._groups:
            found |= dict.fromkeys(group.names, _choice(group))
        return found

    def ranges(self, choices: Mapping[str, Choice], histograms: Mapping[str, Histogram]) -> dict[str, Range]:
        """Returns tensor -> the range that its chosen candidates find in histograms."""
        found = {}
        for group in self._groups:
            for name in group.names:
                choice, histogram = choices[name], histograms[name]
                ends = group.candidates[choice.asymmetric](histogram)
                threshold = group.candidates[choice.symmetric](histogram).threshold
                found[name] = Range(ends.low, ends.high, threshold)
        return found

    def _group(self, graph: ir.Model, members: Sequence[str], histograms: Mapping[str, Histogram]) -> _Group:
        names = [name for name in members if name in histograms]
        softmax = bool(softmax_outputs(graph).intersection(members))
        proposing = candidates(self._bits, softmax=softmax)
        group = _Group(names, proposing, self._find_readers(graph, set(members)))
        if not group.readers:
            return group
        constants = constant_ranges(graph, members)
        for candidate, propose in proposing.items():
            proposed = [*(propose(histograms[name]) for name in names), *constants]
            low, high = min(one.low for one in proposed), max(one.high for one in proposed)
            threshold = max(one.threshold for one in proposed)
            group.asymmetric[candidate] = _position(group.grids, Grid.asymmetric(low, high, self._bits))
            group.symmetric[candidate] = _position(group.grids, Grid.symmetric(threshold, self._bits))
        return group

    def _find_readers(self, graph: ir.Model, members: set[str]) -> list[_Reader]:
        readers = []
        for node in graph.graph:
            for side in _quantized_sides(node):
                value, other = node.inputs[side], node.inputs[1 - side]
                if value is not None and other is not None and value.name in members:
                    second = None if weight_of(node) is not None else str(other.name)
                    layer = LayerError(node, side, opset_of(graph), self._bits)
                    readers.append(_Reader(str(node.name), str(value.name), second, layer))
        return readers


def softmax_outputs(graph: ir.Model) -> set[str]:
    """Returns the names of the tensors that come out of a softmax."""
    return {str(node.outputs[0].name) for node in graph.graph if node.op_type == "Softmax"}


def _tied(graph: ir.Model, histograms: Mapping[str, Histogram]) -> list[list[str]]:
    """Returns the groups of tensors on one grid that hold a calibrated tensor."""
    seen = {name: histogram for name, histogram in histograms.items() if histogram.amax >= SMALLEST_AMAX}
    widths = {name: minmax(histogram).width for name, histogram in seen.items()}
    every = {str(value.name) for node in graph.graph for value in node.outputs}
    every |= {str(value.name) for value in graph.graph.inputs}
    return [members for members in tensors_by_grid(graph, every, widths) if any(name in histograms for name in members)]


def _quantized_sides(node: ir.Node) -> tuple[int, ...]:
    """Returns which inputs of a layer can be quantized while the layer runs by itself."""
    if node.op_type not in WEIGHTED_OPS or without_channels(node) is not None:
        return ()
    if node.op_type == "Gemm" and "transA" in node.attributes and node.attributes["transA"].as_int():
        return ()  # its inputs cannot be stacked
    if weight_of(node) is not None:
        return (0,)
    return (0, 1) if node.op_type == "MatMul" and all(value in data_inputs(node) for value in node.inputs) else ()


def _position(grids: list[Grid], grid: Grid) -> int:
    """Returns where a grid stands in a list; puts it at the end where it does not."""
    if grid not in grids:
        grids.append(grid)
    return grids.index(grid)


def _choice(group: _Group) -> Choice:
    measured = [reader for reader in group.readers if reader.energy > 0]
    if not measured:
        return Choice(FALLBACK, FALLBACK)
    relative = np.sum([np.asarray(reader.errors) / reader.energy for reader in measured], axis=0)

    def best(positions: Mapping[str, int]) -> tuple[str, dict[str, float]]:
        errors = {name: float(f"{relative[position]:.{_DIGITS}g}") for name, position in positions.items()}
        least = min(errors.values())
        return next(name for name, error in errors.items() if error <= least * _EQUAL), errors

    asymmetric, asymmetric_errors = best(group.asymmetric)
    symmetric, symmetric_errors = best(group.symmetric)
    layers = tuple(dict.fromkeys(reader.name for reader in measured))
    return Choice(asymmetric, symmetric, layers, asymmetric_errors, symmetric_errors)
