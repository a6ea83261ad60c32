"""What method `best` chooses from, tensor by tensor, and the record of a choice.

The methods of `METHODS` judge a tensor by its own histogram. `best` asks the layers that read it: of the ranges that
those methods propose, the one that changes the layers' outputs least (`edgeq.calibration.layerwise`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from edgeq.calibrators.entropy import entropy
from edgeq.calibrators.grid import Range
from edgeq.calibrators.histogram import Histogram
from edgeq.calibrators.least_error import lp, mse
from edgeq.calibrators.minmax import minmax
from edgeq.calibrators.percentile import percentile

Candidate = Callable[[Histogram], Range]

FALLBACK = "lp"
"""What a tensor gets that no layer reads whose output could be measured; the first of equals too."""

_PERCENTILES = (99.9, 99.99, 99.999)
_CLIPS = (0.75, 0.5, 0.35, 0.25, 0.18, 0.125)


def candidates(bits: int = 8, *, softmax: bool = False) -> dict[str, Candidate]:
    """Returns name -> method of the ranges to choose from.

    Args:
        bits: Bits of the grids; `lp`, `mse` and `entropy` depend on it.
        softmax: Whether the tensor comes out of a softmax. Its values are in [0, 1] whatever the image, and most of
            them far below: `unit` is that whole range, `clip-0.5` ends at half of the largest value seen.
    """
    found: dict[str, Candidate] = {
        FALLBACK: partial(lp, bits=bits),
        "mse": partial(mse, bits=bits),
        "entropy": partial(entropy, bits=bits),
    }
    found |= {f"percentile-{share}": partial(percentile, percentile=share) for share in _PERCENTILES}
    found["minmax"] = minmax
    if softmax:
        found["unit"] = _unit
        found |= {f"clip-{fraction}": partial(_clip, fraction=fraction) for fraction in _CLIPS}
    return found


def _unit(_histogram: Histogram) -> Range:
    return Range(0.0, 1.0, 1.0)


def _clip(histogram: Histogram, fraction: float) -> Range:
    whole = minmax(histogram)
    return Range(whole.low, whole.high * fraction, whole.threshold * fraction)


@dataclass(frozen=True)
class Choice:
    """Why a tensor has its range.

    Attributes:
        asymmetric: Name of the candidate that gave `low` and `high`.
        symmetric: Name of the candidate that gave `threshold`.
        layers: The layers whose outputs were measured; none where the tensor fell back to `FALLBACK`.
        asymmetric_errors: Candidate -> squared error of the layers' outputs over their energy, added up over the
            layers, on the asymmetric grid; three digits.
        symmetric_errors: The same on the symmetric grid.
    """

    asymmetric: str
    symmetric: str
    layers: tuple[str, ...] = ()
    asymmetric_errors: Mapping[str, float] = field(default_factory=dict)
    symmetric_errors: Mapping[str, float] = field(default_factory=dict)
