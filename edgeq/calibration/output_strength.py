"""How much signal an input leaves in the outputs of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.signal.output_groups import compared_groups

if TYPE_CHECKING:
    import onnx_ir as ir

_LEAST = 1e-30
"""Energy of an output that is zero."""


class OutputStrength:
    """Tells inputs whose outputs hold much signal from those whose outputs are nearly zero.

    Attributes:
        names: The outputs that it looks at.
    """

    def __init__(self, graph: ir.Model) -> None:
        self._groups = compared_groups(graph)
        self.names = list(dict.fromkeys(name for name, _ in self._groups))

    def __call__(self, activations: Mapping[str, np.ndarray]) -> float:
        """Returns the sum of the logarithms of the energies of the outputs, each group of channels by itself.

        No group counts more because its unit is larger: another scale adds the same to the strength of every input.
        NaN if an output is missing, or not finite.
        """
        if any(name not in activations for name in self.names):
            return math.nan
        energies = (np.square(group.of(activations[name]), dtype=np.float64).sum() for name, group in self._groups)
        strength = sum(math.log(float(energy) + _LEAST) for energy in energies)
        return strength if math.isfinite(strength) else math.nan
