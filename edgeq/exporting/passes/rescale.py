"""Rescales channels between LayerNorm and the Linear layers behind it, by what was measured. Exact up to rounding.

The channels of a LayerNorm's output differ by orders of magnitude in a ViT, and one scale for all of them wastes most
of its steps on most of them. What is divided out of a channel by gamma and beta is multiplied into the rows of
the weights that read it, so that the network computes what it did.

This works where an affine map stands before the Linear layer, that is behind LayerNorm. Between v and the projection
stands the average of the softmax, between fc1 and fc2 a GELU, through which no factor can be moved.

Rules, by number:

1. LayerNormalization and readers as rules 1 and 2 of `edgeq.exporting.passes.layernorm` want them, with statistics for
   its output. It does not matter whether gamma and beta were folded before.
2. A channel that never varies, or whose weights are all zero, keeps its scale.
3. What does not qualify is left alone and named with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from edgeq.errors import InputError
from edgeq.exporting.graphs.names import keeps_names
from edgeq.exporting.passes.layernorm import NormedLinears, normed_linears
from edgeq.exporting.passes.report import RewriteReport

if TYPE_CHECKING:
    import onnx_ir as ir


class ChannelExtremes(NamedTuple):
    """The least and the greatest value of every channel of a tensor, each `(C,)`."""

    minimum: np.ndarray
    maximum: np.ndarray


class _Rescaling(NamedTuple):
    """The new output is `(old + shift) / scale`, each `(C,)`, float64."""

    scale: np.ndarray
    shift: np.ndarray


def rescalable_tensors(model: ir.Model) -> tuple[str, ...]:
    """Returns the names of the tensors whose channels can be rescaled: what statistics are wanted for."""
    found = (each for _, each in normed_linears(model) if isinstance(each, NormedLinears))
    return tuple(_tensor(each) for each in found)


@keeps_names
def smooth_channels(model: ir.Model, statistics: Mapping[str, ChannelExtremes], *, alpha: float = 0.5) -> RewriteReport:
    """Moves the difficulty of outlier channels into the weights, in place, and returns what was done.

    SmoothQuant (Xiao et al., 2023): channel j is divided by `max|X_j|^alpha / max|W_j|^(1 - alpha)`. Zero stays
    where it is.

    Args:
        model: A cleaned graph with shapes.
        statistics: Tensor name -> extremes of its channels; for the names that `rescalable_tensors` returns.
        alpha: 0 leaves the difficulty with the activations, 1 moves all of it into the weights.

    Raises:
        InputError: alpha is not between 0 and 1, or statistics do not fit their tensor.
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha {alpha}: wanted a number from 0 to 1")

    def rescaling(found: NormedLinears, extremes: ChannelExtremes) -> _Rescaling:
        activations = np.maximum(np.abs(extremes.minimum), np.abs(extremes.maximum)).astype(np.float64)
        weights = np.max([np.abs(layer.weight).max(axis=1) for layer in found.readers], axis=0)
        usable = (activations > 0) & (weights > 0)
        scale = np.ones_like(activations)
        scale[usable] = activations[usable] ** alpha / weights[usable] ** (1 - alpha)
        return _Rescaling(scale, np.zeros_like(scale))

    return _rescale(model, statistics, rescaling)


@keeps_names
def unify_channels(model: ir.Model, statistics: Mapping[str, ChannelExtremes]) -> RewriteReport:
    """Gives all channels of a tensor one range, in place, and returns what was done.

    RepQ-ViT (Li et al., 2023): with the scale `s` and zero point `z` that each channel would get by itself and their
    means `s~` and `z~`, `r1 = s / s~` and `r2 = z - z~` lead to the channel `(X + s r2) / r1`. One scale for the
    tensor then is as good as one for each channel. The paper rounds zero points to the grid; here they are not, so
    that the result fits any number of bits.

    Args:
        model: A cleaned graph with shapes.
        statistics: Tensor name -> extremes of its channels; for the names that `rescalable_tensors` returns.

    Raises:
        InputError: statistics do not fit their tensor.
    """

    def rescaling(_: NormedLinears, extremes: ChannelExtremes) -> _Rescaling:
        low, high = extremes.minimum.astype(np.float64), extremes.maximum.astype(np.float64)
        width = high - low
        usable = width > 0
        scale, shift = np.ones_like(width), np.zeros_like(width)
        if usable.any():
            # As shares of the grid, whatever its number of bits; zero itself has to stay on it.
            zero_points = -low[usable] / width[usable]
            common = min(max(float(zero_points.mean()), 0.0), 1.0)
            scale[usable] = width[usable] / width[usable].mean()
            shift[usable] = width[usable] * (zero_points - common)
        return _Rescaling(scale, shift)

    return _rescale(model, statistics, rescaling)


def _rescale(
    model: ir.Model,
    statistics: Mapping[str, ChannelExtremes],
    rescaling: Callable[[NormedLinears, ChannelExtremes], _Rescaling],
) -> RewriteReport:
    done, left = [], {}
    for name, found in normed_linears(model):
        if isinstance(found, str):
            left[name] = found
        elif (extremes := statistics.get(_tensor(found))) is None:
            left[name] = f"there are no statistics of {_tensor(found)}"
        else:
            check_extremes(_tensor(found), extremes, found.gamma.size)
            _apply(model, found, rescaling(found, extremes))
            done.append(name)
    return RewriteReport(tuple(done), left)


def _apply(model: ir.Model, found: NormedLinears, by: _Rescaling) -> None:
    for layer in found.readers:
        weight = layer.weight
        layer.replace(model, weight * by.scale[:, None], layer.bias - by.shift @ weight)
    found.replace(model, found.gamma / by.scale, (found.beta + by.shift) / by.scale)


def check_extremes(name: str, extremes: ChannelExtremes, channels: int) -> None:
    """Checks that statistics are those of a tensor.

    Raises:
        InputError: they are of another number of channels, or no finite numbers.
    """
    low, high = extremes
    if low.shape != (channels,) or high.shape != (channels,):
        raise InputError(f"statistics of {name}: have shapes {low.shape} and {high.shape}, wanted ({channels},)")
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low <= high).all()):
        raise InputError(f"statistics of {name}: wanted finite numbers, each minimum at most its maximum")


def _tensor(found: NormedLinears) -> str:
    return str(found.node.outputs[0].name)
