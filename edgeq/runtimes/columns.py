"""What each sum of a layer multiplies: windows of its input as columns, so that a product of matrices computes all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx_ir as ir

Restore = Callable[[np.ndarray], np.ndarray]
"""Sums `(channels, positions)` -> the layer's output."""


def columns_of(
    node: ir.Node, raw: npt.NDArray[np.int16], shape: Sequence[int], zero: int
) -> tuple[npt.NDArray[np.int16], Restore]:
    """Returns the columns `(groups, products, positions)`, and what brings sums into the output's shape.

    Products go through the taps of the window, and within each through the group's input channels, as in
    `edgeq.exporting.saturation.kernels`.

    Args:
        node: Conv, ConvTranspose (without `output_shape`), Gemm (plain, or with `transB`), MatMul or MatMulInteger.
        raw: Its input: `(N, C, ...)`, of a linear layer `(..., C)`.
        shape: Of its weight.
        zero: What padding holds.
    """
    if node.op_type in ("Gemm", "MatMul", "MatMulInteger"):
        rows = raw.reshape(-1, raw.shape[-1])
        return rows.T[None], lambda sums: sums.T.reshape(*raw.shape[:-1], -1)
    kernel = tuple(shape[2:])
    strides, dilations = (_integers(node, name, [1] * len(kernel)) for name in ("strides", "dilations"))
    if node.op_type == "ConvTranspose":
        windows = _transposed_windows(node, raw, kernel, strides, dilations, zero)
    else:
        padded = np.pad(raw, ((0, 0), (0, 0), *_padding(node, raw.shape[2:], kernel)), constant_values=zero)
        windows = _windows(padded, kernel, strides, dilations)
    groups = node.attributes["group"].as_int() if "group" in node.attributes else 1
    dims = len(kernel)
    batch, channels, *sizes = windows.shape[: 2 + dims]
    split = windows.reshape(batch, groups, channels // groups, *windows.shape[2:])
    # (N, groups, C, out..., kernel...) -> (groups, kernel..., C, N, out...)
    order = (1, *range(3 + dims, 3 + 2 * dims), 2, 0, *range(3, 3 + dims))
    columns = split.transpose(order).reshape(groups, -1, batch * math.prod(sizes))
    return columns, lambda sums: np.moveaxis(sums.reshape(-1, batch, *sizes), 0, 1)


def _windows(padded: np.ndarray, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> np.ndarray:
    """Returns a view `(N, C, out..., kernel...)` of a padded map."""
    spans = tuple((size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True))
    axes = tuple(range(2, 2 + len(kernel)))
    views = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=axes)
    every = (slice(None), slice(None))
    chosen = (*every, *(slice(None, None, step) for step in strides), *(slice(None, None, step) for step in dilations))
    return views[chosen]


def _transposed_windows(
    node: ir.Node,
    raw: np.ndarray,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    zero: int,
) -> np.ndarray:
    """Returns the windows of a ConvTranspose: those of a convolution over its input with zeros between the values."""
    spread = [(size - 1) * step + 1 for size, step in zip(raw.shape[2:], strides, strict=True)]
    pads, further = _integers(node, "pads", [0] * 2 * len(kernel)), _integers(node, "output_padding", [0] * len(kernel))
    apart = np.full((*raw.shape[:2], *spread), zero, raw.dtype)
    apart[(slice(None), slice(None), *(slice(None, None, step) for step in strides))] = raw
    padding = []
    for axis, (size, step) in enumerate(zip(kernel, dilations, strict=True)):
        span = (size - 1) * step
        padding.append((span - pads[axis], span - pads[axis + len(kernel)] + further[axis]))
    cropped = apart[(slice(None), slice(None), *(slice(max(0, -low), -max(0, -high) or None) for low, high in padding))]
    widths = ((0, 0), (0, 0), *((max(0, low), max(0, high)) for low, high in padding))
    windows = _windows(np.pad(cropped, widths, constant_values=zero), kernel, [1] * len(kernel), dilations)
    return np.flip(windows, tuple(range(2 + len(kernel), windows.ndim)))


def _padding(node: ir.Node, sizes: Sequence[int], kernel: Sequence[int]) -> list[tuple[int, int]]:
    """Returns what a convolution adds before and behind each axis."""
    automatic = node.attributes["auto_pad"].as_string() if "auto_pad" in node.attributes else "NOTSET"
    dims = len(kernel)
    if automatic in ("NOTSET", "VALID"):
        pads = _integers(node, "pads", [0] * 2 * dims) if automatic == "NOTSET" else [0] * 2 * dims
        return list(zip(pads[:dims], pads[dims:], strict=True))
    strides, dilations = (_integers(node, name, [1] * dims) for name in ("strides", "dilations"))
    found = []
    for size, length, step, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = max(0, (math.ceil(size / step) - 1) * step + (length - 1) * dilation + 1 - size)
        less, more = total // 2, total - total // 2
        found.append((less, more) if automatic == "SAME_UPPER" else (more, less))
    return found


def _integers(node: ir.Node, name: str, default: Sequence[int]) -> Sequence[int]:
    return list(node.attributes[name].as_ints()) if name in node.attributes else default
