"""`Candidate`: how a file of a model is to be computed, before it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

FLOAT = "float"
INT8 = "int8"
W4A8 = "w4a8"
"""The precisions of a group of layers; in `w4a8` those of its layers that the target runs so have weights of 4 bits."""


@dataclass(frozen=True)
class Recipe:
    """What is the same for all layers of a file.

    Attributes:
        method: The method that ranges are computed by from their histograms; `None` takes them as they were calibrated.
        rescale: How channels are rescaled first, exactly in float: one of `Subject.rescaled`, or `None`.
        corrects_biases: Whether biases take back what rounding adds to the mean of each channel.
        learns_rounding: Whether it is learned which weights are rounded up and which down, by `Subject.rounding`.
    """

    method: str | None = None
    rescale: str | None = None
    corrects_biases: bool = False
    learns_rounding: bool = False

    def __str__(self) -> str:
        parts = [self.method or "ranges as calibrated", *([self.rescale] if self.rescale else [])]
        parts += ["learned rounding"] if self.learns_rounding else []
        return ", ".join([*parts, *(["corrected biases"] if self.corrects_biases else [])])


AS_CALIBRATED = Recipe()


@dataclass(frozen=True)
class Candidate:
    """The precision of each group of layers, and the recipe of the file.

    Attributes:
        precisions: Name of a group -> its precision, for those that are not in float.
        recipe: What is the same for all layers.
        in_float: Single layers that stay in float whatever their group is.
    """

    precisions: Mapping[str, str] = field(default_factory=dict)
    recipe: Recipe = AS_CALIBRATED
    in_float: frozenset[str] = frozenset()

    def precision(self, group: str) -> str:
        """Returns the precision of a group, by its name."""
        return self.precisions.get(group, FLOAT)
