"""ONNX operators as functions of torch, as the ONNX specification defines them, for static shapes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.errors import ModelError
from edgeq.exporting.tflite.onnx_functions import FUNCTIONS
from edgeq.exporting.tflite.onnx_node import OnnxNode
from edgeq.exporting.tflite.onnx_windows import average_pool, conv, conv_transpose, max_pool, resize

if TYPE_CHECKING:
    from torch import Tensor

    Operation = Callable[[OnnxNode, Sequence[Any]], Tensor | Sequence[Tensor]]


def _function(name: str) -> Operation:
    """Returns an operation that is one function of torch over all inputs."""

    def operation(_node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
        import torch

        found: Tensor = getattr(torch, name)(*inputs)
        return found

    return operation


def _extreme(name: str) -> Operation:
    """Returns a minimum or maximum over any number of inputs."""

    def operation(_node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
        import torch

        return functools.reduce(getattr(torch, name), inputs)  # type: ignore[no-any-return]

    return operation


def _gemm(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    a, b, c = (*inputs, None)[:3]
    a = a.transpose(0, 1) if node.get("transA", 0) else a
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    if node.get("transB", 0) and alpha == 1.0 and beta == 1.0 and (c is None or c.ndim == 1):
        import torch

        return torch.nn.functional.linear(a, b, c)
    product = a @ (b.transpose(0, 1) if node.get("transB", 0) else b)
    product = product if alpha == 1.0 else product * alpha
    found: Tensor = product if c is None else product + (c if beta == 1.0 else c * beta)
    return found


def _clip(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    import torch

    low, high = (node.numbers(1, None), node.numbers(2, None))
    return torch.clamp(inputs[0], low[0] if low else node.get("min"), high[0] if high else node.get("max"))


def _pad(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    import torch

    pads = node.numbers(1, "pads") or []
    axes = node.numbers(3) or list(range(len(pads) // 2))
    fill = node.numbers(2) or [node.get("value", 0.0)]
    by_axis = {axis % inputs[0].ndim: (pads[i], pads[i + len(axes)]) for i, axis in enumerate(axes)}
    pairs = [length for axis in reversed(range(inputs[0].ndim)) for length in by_axis.get(axis, (0, 0))]
    # Reflecting, torch pads the last axes but two, all of them.
    axes_kept = max(1, inputs[0].ndim - 2)
    while len(pairs) > 2 * axes_kept and pairs[-2:] == [0, 0]:
        pairs = pairs[:-2]
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}.get(node.get("mode", "constant"))
    if mode is None or (mode != "constant" and len(pairs) > 2 * axes_kept):
        raise ModelError(f"Pad {node.name!r}: mode {node.get('mode')!r} by {pads} cannot be converted to TFLite")
    value = fill[0] if mode == "constant" else None
    return torch.nn.functional.pad(inputs[0], pairs, mode, value)


def _slice(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    starts, ends = node.numbers(1, "starts") or [], node.numbers(2, "ends") or []
    axes = node.numbers(3, "axes") or list(range(len(starts)))
    steps = node.numbers(4) or [1] * len(starts)
    x: Tensor = inputs[0]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 1:
            raise ModelError(f"Slice {node.name!r}: its step {step} cannot be converted to TFLite")
        begin, stop, _ = slice(start, end).indices(x.shape[axis])
        x = x[(slice(None),) * (axis % x.ndim) + (slice(begin, stop, step),)]
    return x


def _split(node: OnnxNode, inputs: Sequence[Any]) -> Sequence[Tensor]:
    import torch

    axis = node.get("axis", 0)
    sizes = node.numbers(1, "split")
    if sizes is None:
        sizes = [math.ceil(inputs[0].shape[axis] / len(node.outputs))]
        return torch.split(inputs[0], sizes[0], axis)
    return torch.split(inputs[0], sizes, axis)


def _reduce(name: str) -> Operation:
    def operation(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
        import torch

        axes = node.numbers(1, "axes")
        if not axes:
            if node.get("noop_with_empty_axes", 0):
                return inputs[0]  # type: ignore[no-any-return]
            axes = list(range(inputs[0].ndim))
        found: Tensor = getattr(torch, name)(inputs[0], dim=axes, keepdim=bool(node.get("keepdims", 1)))
        return found

    return operation


def _global_pool(name: str) -> Operation:
    def operation(_node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
        import torch

        found: Tensor = getattr(torch, name)(inputs[0], dim=tuple(range(2, inputs[0].ndim)), keepdim=True)
        return found

    return operation


def _reshape(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    shape = node.numbers(1, "shape") or []
    if not node.get("allowzero", 0):
        shape = [inputs[0].shape[axis] if length == 0 else length for axis, length in enumerate(shape)]
    found: Tensor = inputs[0].reshape(shape)
    return found


def _flatten(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    axis = node.get("axis", 1)
    found: Tensor = inputs[0].reshape(math.prod(inputs[0].shape[:axis]), -1)
    return found


def _squeeze(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    axes = node.numbers(1, "axes")
    found: Tensor = inputs[0].squeeze() if axes is None else inputs[0].squeeze(axes)
    return found


def _unsqueeze(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    x: Tensor = inputs[0]
    axes = node.numbers(1, "axes") or []
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _gather(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    import torch

    axis = node.get("axis", 0) % inputs[0].ndim
    indices = node.constants[1]
    if indices is None:
        raise ModelError(f"Gather {node.name!r}: its indices are computed; that cannot be converted to TFLite")
    indices = np.asarray(indices)
    if indices.ndim == 0:
        found: Tensor = inputs[0].select(axis, int(indices))
        return found
    positions = torch.from_numpy(indices.reshape(-1) % inputs[0].shape[axis])
    taken = torch.index_select(inputs[0], axis, positions)
    return taken.reshape(*inputs[0].shape[:axis], *indices.shape, *inputs[0].shape[axis + 1 :])


def _depth_to_space(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    import torch

    block = node.get("blocksize")
    n, c, h, w = inputs[0].shape
    if node.get("mode", "DCR") == "CRD":
        return torch.nn.functional.pixel_shuffle(inputs[0], block)
    x: Tensor = inputs[0].reshape(n, block, block, c // block**2, h, w)
    return x.permute(0, 3, 4, 1, 5, 2).reshape(n, c // block**2, h * block, w * block)


def _layer_norm(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    import torch

    axis = node.get("axis", -1)
    x, weight, bias = (*inputs, None)[:3]
    return torch.nn.functional.layer_norm(x, list(x.shape[axis:]), weight, bias, node.get("epsilon", 1e-5))


def _batch_norm(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    import torch

    x, weight, bias, mean, variance = inputs
    return torch.nn.functional.batch_norm(x, mean, variance, weight, bias, eps=node.get("epsilon", 1e-5))


def _gelu(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    import torch

    return torch.nn.functional.gelu(inputs[0], approximate=node.get("approximate", "none"))


def _prelu(_node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    import torch

    return torch.where(inputs[0] < 0, inputs[0] * inputs[1], inputs[0])


def _leaky_relu(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    import torch

    return torch.nn.functional.leaky_relu(inputs[0], node.get("alpha", 0.01))


def _hard_sigmoid(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    import torch

    return torch.clamp(inputs[0] * node.get("alpha", 0.2) + node.get("beta", 0.5), 0.0, 1.0)


def _hard_swish(_node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    import torch

    return torch.nn.functional.hardswish(inputs[0])


def _softmax(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    import torch

    return torch.softmax(inputs[0], dim=node.get("axis", -1))


def _concat(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    import torch

    return torch.cat(list(inputs), dim=node.get("axis"))


def _transpose(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    found: Tensor = inputs[0].permute(node.get("perm", list(reversed(range(inputs[0].ndim)))))
    return found


def _expand(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    import torch

    return inputs[0] * torch.ones(node.numbers(1) or [], dtype=inputs[0].dtype)  # type: ignore[no-any-return]


def _cast(node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    import onnx_ir as ir
    import torch

    # TFLite's kernels compute with real numbers in float32 alone.
    kind = ir.DataType(node.get("to"))
    found: Tensor = inputs[0].to(torch.float32 if kind.is_floating_point() else getattr(torch, kind.name.lower()))
    return found


def _identity(_node: OnnxNode, inputs: Sequence[Any]) -> Tensor:
    found: Tensor = inputs[0]
    return found


OPERATIONS: dict[str, Operation] = {
    **{onnx: _function(torch_name) for onnx, torch_name in {
        "Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh", "Exp": "exp", "Log": "log", "Sqrt": "sqrt", "Erf": "erf",
        "Abs": "abs", "Neg": "neg", "Reciprocal": "reciprocal", "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div",
        "Pow": "pow", "MatMul": "matmul", "Sin": "sin", "Cos": "cos", "Floor": "floor", "Ceil": "ceil",
        "Round": "round", "Sign": "sign", "Not": "logical_not", "And": "logical_and", "Or": "logical_or", "Equal": "eq",
        "Greater": "gt", "GreaterOrEqual": "ge", "Less": "lt", "LessOrEqual": "le", "Where": "where",
    }.items()},
    **FUNCTIONS,
    "AveragePool": average_pool, "BatchNormalization": _batch_norm, "Cast": _cast, "Clip": _clip, "Concat": _concat,
    "Conv": conv,
    "ConvTranspose": conv_transpose, "DepthToSpace": _depth_to_space, "Dropout": _identity, "Expand": _expand,
    "Flatten": _flatten, "Gather": _gather, "Gelu": _gelu, "Gemm": _gemm, "GlobalAveragePool": _global_pool("mean"),
    "GlobalMaxPool": _global_pool("amax"), "HardSigmoid": _hard_sigmoid, "HardSwish": _hard_swish,
    "Identity": _identity, "LayerNormalization": _layer_norm, "LeakyRelu": _leaky_relu, "Max": _extreme("maximum"),
    "MaxPool": max_pool, "Min": _extreme("minimum"),
    "PRelu": _prelu, "Pad": _pad, "ReduceMax": _reduce("amax"), "ReduceMean": _reduce("mean"),
    "ReduceMin": _reduce("amin"), "ReduceSum": _reduce("sum"), "Reshape": _reshape, "Resize": resize,
    "Slice": _slice, "Softmax": _softmax, "Split": _split, "Squeeze": _squeeze, "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}  # fmt: skip
"""Operator -> the function that computes it."""
