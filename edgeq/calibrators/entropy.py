"""Entropy: the clipping threshold that loses the least information, as TensorRT's entropy calibrator chooses it.

Szymon Migacz, "8-bit Inference with TensorRT" (GTC 2017, S7310), with the rule for the bin of zero and the mapping of
bins to levels of NVIDIA's pytorch-quantization. Over the histogram of `|x|` in 2048 bins from 0 to amax:

1. Bin 0 takes the count of bin 1: the spike of a ReLU's zeros says nothing about where to clip.
2. For each candidate of `i` bins, from 128 up to all 2048 of them:
   P is the first `i` bins, with everything beyond added to the last of them;
   Q is the first `i` bins without that, merged into levels of equal width (bin `j` goes to level `j * levels // i`),
   each level's sum spread evenly over its bins that are not empty.
3. The candidate with the smallest divergence KL(P || Q) wins, the last of equals. P > 0 where Q == 0 is infinite.
4. The threshold is the centre of bin `i`: `(i + 0.5) * amax / 2048`. Unclipped it lies half a bin beyond amax.
"""

from __future__ import annotations

import numpy as np

from edgeq.calibrators.grid import SMALLEST_AMAX, Floats, Range, check_bits
from edgeq.calibrators.histogram import Histogram

_BINS = 2048
_FIRST_CANDIDATE = 128
# Divergences that differ by less are equal: it covers the rounding of sums over the counts.
_TIE = 1e-12


def entropy(histogram: Histogram, *, bits: int = 8) -> Range:
    """Returns the range of least divergence.

    The threshold comes from 128 levels for `|x|`, as for TensorRT's int8. The asymmetric form is the range from minimum
    to maximum, cut at a threshold of its own on both sides. For that one `|x|` gets as many of the 256 levels as the
    longer side holds: 256 after a ReLU, 128 for a symmetric tensor. Fewer bits have fewer levels.

    Raises:
        InputError: the bits are not 2 to 8.
    """
    bits = check_bits(bits)
    if histogram.amax < SMALLEST_AMAX:
        return Range.unknown()
    bins = _magnitude_bins(histogram)
    low, high = min(histogram.minimum, 0.0), max(histogram.maximum, 0.0)
    levels = round(2**bits * histogram.amax / (high - low))
    clip = _threshold(bins, levels) * histogram.amax
    return Range(max(low, -clip), min(high, clip), _threshold(bins, 2 ** (bits - 1)) * histogram.amax)


def _magnitude_bins(histogram: Histogram) -> Floats:
    """Returns the counts of `|x|` in 2048 bins from 0 to amax, shape `(2048,)`.

    A bin that lies across a border is split as if its values were spread evenly.
    """
    counts = histogram.magnitude_counts()
    cumulative = np.concatenate([[0], np.cumsum(counts)])
    edges = np.minimum(np.arange(len(cumulative)) * histogram.width, histogram.amax)
    borders = np.arange(_BINS + 1) * (histogram.amax / _BINS)
    borders[-1] = histogram.amax
    return np.diff(np.interp(borders, edges, cumulative))


def _threshold(bins: Floats, levels: int) -> float:
    """Returns the threshold of least divergence as a fraction of amax."""
    divergences = _divergences(bins, levels)
    best = np.flatnonzero(divergences <= divergences.min() + _TIE)[-1]
    return (_FIRST_CANDIDATE + int(best) + 0.5) / len(bins)


def _divergences(bins: Floats, levels: int) -> Floats:
    """Returns KL(P || Q) of the candidates `128..len(bins)`, shape `(len(bins) - 127,)`.

    Within a level all non-empty bins of Q are equal, so that sum(p log p) - sum(p log q) needs only three running sums:
    of the counts, of the non-empty bins, and of count * log(count).
    """
    counts = np.concatenate([bins[1:2], bins[1:]])
    total = counts.sum()
    information = _x_log_x(counts)
    running_counts, running_filled, running_information = (
        np.concatenate([[0.0], np.cumsum(terms)]) for terms in (counts, counts > 0, information)
    )
    candidates = np.arange(_FIRST_CANDIDATE, len(counts) + 1)
    # Level k starts at the first bin j with j * levels // i >= k; where levels outnumber bins, some stay empty.
    borders = -(-np.arange(levels + 1) * candidates[:, None] // levels)
    level_counts = np.diff(running_counts[borders], axis=1)
    level_filled = np.diff(running_filled[borders], axis=1)
    inside = running_counts[candidates]
    last, outliers = counts[candidates - 1], total - inside
    last_level = ((candidates - 1) * levels // candidates)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        log_q = np.where(level_filled > 0, np.log(level_counts / level_filled), 0.0)
        p_log_p = running_information[candidates] - information[candidates - 1] + _x_log_x(last + outliers)
        p_log_q = (level_counts * log_q).sum(axis=1) + outliers * np.take_along_axis(log_q, last_level, axis=1)[:, 0]
        divergences: Floats = (p_log_p - p_log_q) / total + np.log(inside / total)
    divergences[(last == 0) & (outliers > 0)] = np.inf
    return divergences


def _x_log_x(values: Floats) -> Floats:
    """Returns `x * log(x)`, which is 0 at 0."""
    return values * np.log(np.where(values > 0, values, 1.0))
