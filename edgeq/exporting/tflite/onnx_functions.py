"""ONNX's functions of single elements, comparisons, norms over axes and samples of a map, in torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from edgeq.errors import ModelError
from edgeq.exporting.tflite.onnx_node import OnnxNode

if TYPE_CHECKING:
    from torch import Tensor

    Function = Callable[[OnnxNode, Sequence[Any]], Tensor]

_SELU_ALPHA, _SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875
_GRID_MODES = {
    "linear": "bilinear",
    "bilinear": "bilinear",
    "nearest": "nearest",
    "cubic": "bicubic",
    "bicubic": "bicubic",
}


def _softplus(_node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    import torch

    # Not torch's softplus, which is its input from 20 on.
    return torch.relu(inputs[0]) + torch.log(1 + torch.exp(-torch.abs(inputs[0])))


def _mish(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    import torch

    scaled: Tensor = inputs[0] * torch.tanh(_softplus(node, inputs))
    return scaled


def _softsign(_node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    import torch

    return torch.nn.functional.softsign(inputs[0])


def _elu(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    import torch

    return torch.nn.functional.elu(inputs[0], node.get("alpha", 1.0))


def _selu(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    import torch

    return node.get("gamma", _SELU_GAMMA) * torch.nn.functional.elu(  # type: ignore[no-any-return]
        inputs[0], node.get("alpha", _SELU_ALPHA)
    )


def _celu(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    import torch

    alpha = node.get("alpha", 1.0)
    return alpha * torch.nn.functional.elu(inputs[0] / alpha)  # type: ignore[no-any-return]


def _thresholded_relu(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    import torch

    return torch.where(inputs[0] > node.get("alpha", 1.0), inputs[0], 0.0)


def _log_softmax(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    import torch

    return torch.log_softmax(inputs[0], dim=node.get("axis", -1))


def _instance_norm(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    import torch

    x, weight, bias = inputs
    axes = tuple(range(2, x.ndim))
    centred = x - x.mean(dim=axes, keepdim=True)
    spread = torch.sqrt((centred * centred).mean(dim=axes, keepdim=True) + node.get("epsilon", 1e-5))
    column = (1, -1, *[1] * (x.ndim - 2))
    return centred / spread * weight.reshape(column) + bias.reshape(column)  # type: ignore[no-any-return]


def _sum(_node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    total: Tensor = sum(inputs[1:], inputs[0])
    return total


def _mean(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    return _sum(node, inputs) / len(inputs)


def _norm(before: str, behind: str | None = None) -> Function:
    """Returns a reduction by sums: what is summed up, and what is made of the sum."""

    def operation(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
        import torch

        axes = node.numbers(1, "axes")
        if not axes and node.get("noop_with_empty_axes", 0):
            axes = []
        elif not axes:
            axes = list(range(inputs[0].ndim))
        terms: Tensor = inputs[0] if not before else getattr(torch, before)(inputs[0])
        total = torch.sum(terms, dim=axes, keepdim=bool(node.get("keepdims", 1))) if axes else terms
        return total if behind is None else getattr(torch, behind)(total)

    return operation


def _log_sum_exp(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    import torch

    axes = node.numbers(1, "axes") or list(range(inputs[0].ndim))
    return torch.logsumexp(inputs[0], dim=axes, keepdim=bool(node.get("keepdims", 1)))


def _cumulative_sum(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    import torch

    (axis,) = node.numbers(1) or [0]
    x: Tensor = inputs[0].flip(axis) if node.get("reverse", 0) else inputs[0]
    total = torch.cumsum(x, axis, dtype=x.dtype)
    if node.get("exclusive", 0):
        total = total - x
    return total.flip(axis) if node.get("reverse", 0) else total


def _tile(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    found: Tensor = inputs[0].repeat(node.numbers(1) or [])
    return found


def _space_to_depth(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    block = node.get("blocksize")
    n, c, h, w = inputs[0].shape
    x: Tensor = inputs[0].reshape(n, c, h // block, block, w // block, block)
    return x.permute(0, 3, 5, 1, 2, 4).reshape(n, c * block**2, h // block, w // block)


def _grid_sample(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    import torch

    mode = _GRID_MODES.get(node.get("mode", "linear"))
    if mode is None or inputs[0].ndim != 4:
        raise ModelError(f"GridSample {node.name!r}: {inputs[0].ndim - 2}-D samples cannot be converted to TFLite")
    return torch.nn.functional.grid_sample(
        inputs[0], inputs[1], mode, node.get("padding_mode", "zeros"), bool(node.get("align_corners", 0))
    )


FUNCTIONS: dict[str, Function] = {
    "Celu": _celu, "CumSum": _cumulative_sum, "Elu": _elu, "GridSample": _grid_sample,
    "InstanceNormalization": _instance_norm,
    "LogSoftmax": _log_softmax, "Mean": _mean, "Mish": _mish, "ReduceL1": _norm("abs"),
    "ReduceL2": _norm("square", "sqrt"),
    "ReduceLogSum": _norm("", "log"), "ReduceLogSumExp": _log_sum_exp, "ReduceSumSquare": _norm("square"),
    "Selu": _selu, "Softplus": _softplus, "Softsign": _softsign, "SpaceToDepth": _space_to_depth, "Sum": _sum,
    "ThresholdedRelu": _thresholded_relu, "Tile": _tile,
}  # fmt: skip
"""Operator -> the function that computes it."""
