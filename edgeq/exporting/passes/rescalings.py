"""The ways to rescale channels by what images show of them: a table, of which `rescale` names one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeq.exporting.passes.equalize import equalizable_tensors, equalize_channels
from edgeq.exporting.passes.report import RewriteReport
from edgeq.exporting.passes.rescale import ChannelExtremes, rescalable_tensors, smooth_channels, unify_channels

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class Rescaling:
    """A way to rescale channels by what images show of them.

    Attributes:
        tensors: Names of the tensors that it wants statistics of.
        axis: Where these have their channels.
        change: Rescales a graph in place.
        place: What a graph must have for it, as a message says it.
    """

    tensors: Callable[[ir.Model], tuple[str, ...]]
    axis: int
    change: Callable[[ir.Model, Mapping[str, ChannelExtremes]], RewriteReport]
    place: str


_NORMED = "LayerNorm that linear layers alone read"
RESCALINGS = {
    "smooth": Rescaling(rescalable_tensors, -1, smooth_channels, _NORMED),
    "unify": Rescaling(rescalable_tensors, -1, unify_channels, _NORMED),
    "equalize": Rescaling(
        equalizable_tensors, 1, equalize_channels, "convolution that convolutions alone read, behind ReLU or pooling"
    ),
}
"""What `rescale` takes: SmoothQuant's way and RepQ-ViT's behind LayerNorm, and equalization between convolutions."""
