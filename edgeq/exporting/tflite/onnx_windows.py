"""ONNX's convolutions, pools and Resize in torch: the operators that move a window over a map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.errors import ModelError
from edgeq.exporting.graphs.interpolation import PLACES, Interpolation, nearest
from edgeq.exporting.tflite.onnx_node import OnnxNode

if TYPE_CHECKING:
    from torch import Tensor

_WHOLE = 1e-3


def _require_axes(node: OnnxNode, kernel: Sequence[int], known: Sequence[int] = (2,)) -> None:
    if len(kernel) not in known:
        raise ModelError(f"{node.op_type} {node.name!r}: {len(kernel)}-D windows cannot be converted to TFLite")


def conv(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    """Returns what Conv computes."""
    import torch

    x, weight, bias = (*inputs, None)[:3]
    kernel = list(weight.shape[2:])
    _require_axes(node, kernel, (1, 2))
    stride, dilation = node.get("strides", [1] * len(kernel)), node.get("dilations", [1] * len(kernel))
    x, padding = _pad_windows(node, x, kernel, stride, dilation, 0.0)
    function = torch.nn.functional.conv1d if len(kernel) == 1 else torch.nn.functional.conv2d
    return function(x, weight, bias, stride, padding, dilation, node.get("group", 1))


def conv_transpose(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    """Returns what ConvTranspose computes."""
    import torch

    x, weight, bias = (*inputs, None)[:3]
    _require_axes(node, weight.shape[2:])
    stride, dilation = node.get("strides", [1, 1]), node.get("dilations", [1, 1])
    more, pads = node.get("output_padding", [0, 0]), node.get("pads", [0, 0, 0, 0])
    # What is cut at the end may be less than at the beginning: that is output padding.
    padding = list(pads[:2])
    more = [extra + begin - end for extra, begin, end in zip(more, pads[:2], pads[2:], strict=True)]
    if min(more) < 0 or node.get("auto_pad", "NOTSET") != "NOTSET" or node.get("output_shape") is not None:
        raise ModelError(f"ConvTranspose {node.name!r}: its padding {pads} cannot be converted to TFLite")
    return torch.nn.functional.conv_transpose2d(x, weight, bias, stride, padding, more, node.get("group", 1), dilation)


def max_pool(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    """Returns what MaxPool computes."""
    import torch

    kernel = node.get("kernel_shape")
    _require_axes(node, kernel)
    stride, dilation = node.get("strides", [1, 1]), node.get("dilations", [1, 1])
    x, padding = _pad_windows(node, inputs[0], kernel, stride, dilation, -math.inf)
    return torch.nn.functional.max_pool2d(x, kernel, stride, padding, dilation, bool(node.get("ceil_mode", 0)))


def average_pool(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    """Returns what AveragePool computes."""
    import torch

    kernel, stride = node.get("kernel_shape"), node.get("strides", [1, 1])
    _require_axes(node, kernel)
    if max(node.get("dilations", [1])) > 1:
        raise ModelError(f"AveragePool {node.name!r}: dilated windows cannot be converted to TFLite")
    counts = bool(node.get("count_include_pad", 0))
    x, padding = _pad_windows(node, inputs[0], kernel, stride, [1, 1], 0.0 if counts else None)
    return torch.nn.functional.avg_pool2d(x, kernel, stride, padding, bool(node.get("ceil_mode", 0)), counts)


def _pad_windows(
    node: OnnxNode, x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], fill: float | None
) -> tuple[Tensor, list[int]]:
    """Returns the input and its padding at both ends; what torch's windows do not take is put into the input."""
    import torch

    begin, end = _window_pads(node, list(x.shape[2:]), kernel, stride, dilation)
    half = [((taps - 1) * spread + 1) // 2 for taps, spread in zip(kernel, dilation, strict=True)]
    if begin == end and all(pad <= most for pad, most in zip(begin, half, strict=True)):
        return x, begin
    if fill is None:
        raise ModelError(f"{node.op_type} {node.name!r}: its padding {begin}, {end} cannot be converted to TFLite")
    pairs = [length for ends in zip(reversed(begin), reversed(end), strict=True) for length in ends]
    return torch.nn.functional.pad(x, pairs, value=fill), [0] * len(begin)


def _window_pads(
    node: OnnxNode, size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[list[int], list[int]]:
    mode = node.get("auto_pad", "NOTSET")
    if not mode.startswith("SAME"):
        pads = node.get("pads", [0] * (2 * len(kernel))) if mode == "NOTSET" else [0] * (2 * len(kernel))
        return list(pads[: len(kernel)]), list(pads[len(kernel) :])
    totals = [
        max(0, (math.ceil(length / step) - 1) * step + (taps - 1) * spread + 1 - length)
        for length, taps, step, spread in zip(size, kernel, stride, dilation, strict=True)
    ]
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return (large, small) if mode == "SAME_LOWER" else (small, large)


def resize(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    """Returns what Resize computes."""
    import torch

    mode, place = node.get("mode", "nearest"), node.get("coordinate_transformation_mode", "half_pixel")
    if mode == "nearest" and _repeats(node, inputs[0].shape, place):
        return torch.nn.functional.interpolate(inputs[0], size=_size(node), mode="nearest")
    if mode == "linear" and _interpolates(node, inputs[0].shape, place):
        aligned = place == "align_corners"
        return torch.nn.functional.interpolate(inputs[0], size=_size(node), mode="bilinear", align_corners=aligned)
    if _is_map(node, inputs[0].shape) and place in PLACES:
        return _resized_by_axis(node, inputs[0], mode, place)
    raise ModelError(
        f"Resize {node.name!r}: mode {mode!r} with {place!r} from {list(inputs[0].shape)} to {node.output_shape} "
        "cannot be converted to TFLite"
    )


def _resized_by_axis(node: OnnxNode, x: Tensor, mode: str, place: str) -> Tensor:
    """Returns a map whose rows, then columns, are those at other positions, or weighted sums of them."""
    import torch

    scales = (node.numbers(2) or [])[-2:] or [
        size / length for size, length in zip(_size(node), x.shape[2:], strict=True)
    ]
    kernel = Interpolation(
        mode,
        place,
        node.get("cubic_coeff_a", -0.75),
        bool(node.get("exclude_outside", 0)),
        bool(node.get("antialias", 0)),
    )
    for axis, size, scale in zip((2, 3), _size(node), scales, strict=True):
        length = int(x.shape[axis])
        if mode == "nearest":
            points = nearest(place, node.get("nearest_mode", "round_prefer_floor"), length, size, scale)
            x = torch.index_select(x, axis, torch.from_numpy(points))
        elif (size, scale) != (length, 1.0):
            weights = torch.from_numpy(kernel.matrix(length, size, scale).astype(np.float32))
            x = weights @ x if axis == 2 else x @ weights.T
    return x


def _size(node: OnnxNode) -> list[int]:
    return list((node.output_shape or ())[2:])


def _is_map(node: OnnxNode, given: Sequence[int]) -> bool:
    """Returns whether a Resize changes height and width only."""
    made = node.output_shape
    return made is not None and len(made) == 4 and tuple(made[:2]) == tuple(given[:2])


def _repeats(node: OnnxNode, given: Sequence[int], place: str) -> bool:
    """Returns whether a nearest Resize repeats every row and column the same number of times."""
    rounding = node.get("nearest_mode", "round_prefer_floor")
    if not _is_map(node, given) or any(now % before for now, before in zip(_size(node), given[2:], strict=True)):
        return False
    if place == "asymmetric":
        twice = all(now <= 2 * before for now, before in zip(_size(node), given[2:], strict=True))
        return rounding == "floor" or (rounding == "round_prefer_floor" and twice)
    return place in ("half_pixel", "pytorch_half_pixel") and rounding.startswith("round")


def _interpolates(node: OnnxNode, given: Sequence[int], place: str) -> bool:
    """Returns whether a linear Resize places its points as torch does, by the ratio of the sizes."""
    if not _is_map(node, given) or node.get("antialias", 0):
        return False
    if place == "align_corners":
        return True
    scales = (node.numbers(2) or [])[-2:]
    whole = all(
        abs(scale * before - now) < _WHOLE for scale, before, now in zip(scales, given[2:], _size(node), strict=False)
    )
    return whole and (place == "half_pixel" or (place == "pytorch_half_pixel" and min(_size(node)) > 1))
