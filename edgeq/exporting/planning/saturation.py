"""Keeps the sums of x86 kernels without VNNI within 16 bits: what `Rules.isa` asks of weights and grids.

Rules, by number:

1. Which pairs of products a kernel adds in 16 bits is in `edgeq.exporting.saturation.kernels`; what holds for one
   engine has to hold for all, because both read the same file.
2. The largest raw integer of an input channel is that of the largest value that calibration saw in it, or that of its
   padding. Where calibration did not look, it is 255.
3. A first convolution, which reads the image, keeps its weights: if a pair could saturate, the image's grid becomes
   twice as wide, so that its integers end at 128.
4. All other weights are fitted (`edgeq.quantizers.pair_sums.fitted`): scales of the channels concerned are enlarged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.exporting.graphs.graph import weight_of
from edgeq.exporting.graphs.moves import RESHAPES
from edgeq.exporting.saturation.kernels import paired_weight
from edgeq.quantizers.pair_sums import fitted, lost_bits
from edgeq.quantizers.round_nearest import round_nearest
from edgeq.schemes import INT8_WEIGHT, PerAxis

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.calibrators.grid import Grid
    from edgeq.quantizers.weight import QuantizedWeight

_LEVELS = 255
"""The largest raw integer of 8 bits; signed ones are read as 128 more."""


@dataclass
class SaturationGuard:
    """Fits weights and grids to sums in 16 bits, and keeps count of what that changed.

    Attributes:
        maxima: Tensor name -> largest value of each channel that calibration saw.
        fitted: Name of a layer -> bits that each of its enlarged scales has cost.
        wide: Names of tensors whose grids became twice as wide.
    """

    maxima: Mapping[str, Sequence[float]]
    fitted: dict[str, list[float]] = field(default_factory=dict)
    wide: list[str] = field(default_factory=list)

    def fit(self, node: ir.Node, weight: np.ndarray, quantized: QuantizedWeight, grid: Grid | None) -> QuantizedWeight:
        """Returns a weight none of whose pairs can saturate.

        Args:
            node: The layer.
            weight: Its float weight.
            quantized: The same as integers.
            grid: The grid of its input; `None` if its range is measured at every run.
        """
        paired = paired_weight(node, weight.shape)
        if paired is None:
            return quantized
        inputs = int(paired.inputs.max()) + 1
        result = fitted(quantized, weight, paired, self._raw_maxima(node, inputs, grid))
        if bits := lost_bits(quantized, result):
            self.fitted[str(node.name)] = list(bits)
        return result

    def widen(self, model: ir.Model, members: Sequence[str], grid: Grid, quantized: frozenset[str]) -> Grid:
        """Returns the grid of tensors that share one, twice as wide if rule 3 asks for it.

        Args:
            model: The float graph.
            members: Names of the tensors.
            grid: Their grid.
            quantized: Names of the nodes that run in INT8.
        """
        if not {str(value.name) for value in model.graph.inputs}.intersection(members):
            return grid
        for node in model.graph:
            source, weight = node.inputs[0] if node.inputs else None, weight_of(node)
            if node.op_type != "Conv" or weight is None or source is None or source.name not in members:
                continue
            paired = paired_weight(node, weight.shape)
            if node.name not in quantized or paired is None:
                continue
            rounded = round_nearest(weight, INT8_WEIGHT.along(PerAxis(0)), {})
            raw = self._raw_maxima(node, int(paired.inputs.max()) + 1, grid)
            if (paired.excess(rounded.integers, raw) > 1).any():
                self.wide.append(str(source.name))
                return _twice_as_wide(grid)
        return grid

    def facts(self, isa: str) -> dict[str, Any]:
        """Returns what the manifest says: the instruction set, and what was changed for it."""
        bits = [each for layer in self.fitted.values() for each in layer]
        found: dict[str, Any] = {"isa": isa, "fitted_layers": len(self.fitted), "fitted_channels": len(bits)}
        if bits:
            found |= {"mean_bits": round(float(np.mean(bits)), 3), "most_bits": round(max(bits), 3)}
        return found | {"wide_grids": self.wide}

    def _raw_maxima(self, node: ir.Node, inputs: int, grid: Grid | None) -> np.ndarray:
        """Returns the largest raw integer of each input channel, padding among them."""
        seen = self._seen(node.inputs[0], inputs)
        if seen is None or grid is None:
            return np.full(inputs, _LEVELS)
        zero = grid.zero_point - grid.qmin
        raw: np.ndarray = np.clip(np.rint(np.asarray(seen) / grid.scale) + zero, zero, grid.qmax - grid.qmin)
        return raw

    def _seen(self, value: ir.Value | None, inputs: int) -> Sequence[float] | None:
        """Returns the maxima of a tensor's channels, of what it was reshaped from if a pass has reshaped it."""
        while value is not None:
            found = self.maxima.get(str(value.name))
            if found is not None and len(found) == inputs:
                return found
            producer = value.producer()
            if producer is None or producer.op_type not in RESHAPES or found is not None:
                return None
            value = producer.inputs[0]
        return None


def _twice_as_wide(grid: Grid) -> Grid:
    """Returns a grid of twice the step whose integers end at 128 for what ended at 255 before."""
    zero = grid.qmin + round((grid.zero_point - grid.qmin) / 2)
    return replace(grid, scale=grid.scale * 2, zero_point=zero)
