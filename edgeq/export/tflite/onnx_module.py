"""A float ONNX graph as a torch module, for the TFLite converter: it takes torch programs only.

Every operator is written out as the ONNX specification defines it, for the static shapes that edgeq's graphs have.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.errors import ModelError
from edgeq.export.graph import constant

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch
    from torch import Tensor

    Operation = Callable[["_Node", Sequence[Any]], Tensor | Sequence[Tensor]]


_WHOLE = 1e-3


def onnx_to_torch(model: ir.Model) -> torch.nn.Module:
    """Returns a module that computes an ONNX graph: its inputs in order in, its outputs in order out.

    Args:
        model: A cleaned float graph with static shapes (`edgeq.export.graph.clean`, `infer_shapes`).

    Raises:
        ModelError: the graph has operators that this cannot take; the message names them.
    """
    unknown = sorted({_kind(node) for node in model.graph if _kind(node) not in _OPERATIONS})
    if unknown:
        raise ModelError(
            f"the operators {', '.join(unknown)} of the ONNX file cannot be converted to TFLite; convert from the "
            "torch model, or replace them"
        )
    for node in model.graph:
        if node.op_type != "Split" and any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
            raise ModelError(f"{node.op_type} {node.name!r}: only its first output can be converted to TFLite")
    return _module_class()(model)


def _kind(node: ir.Node) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


class _Node:
    """An ONNX node with its attributes as Python values."""

    def __init__(self, node: ir.Node) -> None:
        self.op_type = node.op_type
        self.name = str(node.name)
        self.inputs = [None if value is None else str(value.name) for value in node.inputs]
        self.outputs = [str(value.name) for value in node.outputs]
        self.output_shape = _static_shape(node.outputs[0])
        # What decides shapes (axes, pads, sizes) has to be known while tracing, as plain numbers.
        self.constants = [None if value is None else constant(value) for value in node.inputs]
        self._attributes = {name: attribute.value for name, attribute in node.attributes.items()}

    def get(self, name: str, default: Any = None) -> Any:
        """Returns an attribute, or the default where the node leaves it out."""
        value = self._attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def numbers(self, position: int, name: str | None = None) -> list[Any] | None:
        """Returns the constant at an input as a list, or the attribute that older opsets have in its place."""
        if position < len(self.inputs) and self.inputs[position] is not None:
            found = self.constants[position]
            if found is None:
                raise ModelError(
                    f"{self.op_type} {self.name!r}: takes {self.inputs[position]!r}, which is computed from the image; "
                    "TFLite files of edgeq have fixed shapes"
                )
            return list(np.asarray(found).reshape(-1).tolist())
        return None if name is None or self.get(name) is None else list(self.get(name))


def _module_class() -> type[torch.nn.Module]:
    """Returns the module's class; it is made here because its base is torch's."""
    import torch

    class OnnxModule(torch.nn.Module):
        """Runs the nodes of an ONNX graph one by one."""

        def __init__(self, model: ir.Model) -> None:
            super().__init__()
            self._nodes = [_Node(node) for node in model.graph]
            self._inputs = [str(value.name) for value in model.graph.inputs]
            self._outputs = [str(value.name) for value in model.graph.outputs]
            self._buffer_names: dict[str, str] = {}
            for index, (name, value) in enumerate(model.graph.initializers.items()):
                array = constant(value)
                if array is not None:
                    self._buffer_names[name] = f"constant_{index}"
                    self.register_buffer(f"constant_{index}", torch.from_numpy(np.array(array)))

        def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
            values: dict[str | None, Any] = {None: None}
            values.update(zip(self._inputs, inputs, strict=True))
            values.update({name: getattr(self, buffer) for name, buffer in self._buffer_names.items()})
            for node in self._nodes:
                results = _OPERATIONS[node.op_type](node, [values[name] for name in node.inputs])
                if isinstance(results, torch.Tensor):
                    results = [results]
                values.update(zip(node.outputs, results, strict=False))
            return tuple(values[name] for name in self._outputs)

    return OnnxModule


def _static_shape(value: ir.Value) -> tuple[int, ...] | None:
    lengths = [] if value.shape is None else [length for length in value.shape if isinstance(length, int)]
    return tuple(lengths) if value.shape is not None and len(lengths) == len(value.shape) else None


def _function(name: str) -> Operation:
    """Returns an operation that is one function of torch over all inputs."""

    def operation(_node: _Node, inputs: Sequence[Any]) -> Tensor:
        import torch

        found: Tensor = getattr(torch, name)(*inputs)
        return found

    return operation


def _extreme(name: str) -> Operation:
    """Returns a minimum or maximum over any number of inputs."""

    def operation(_node: _Node, inputs: Sequence[Any]) -> Tensor:
        import torch

        return functools.reduce(getattr(torch, name), inputs)  # type: ignore[no-any-return]

    return operation


def _require_axes(node: _Node, kernel: Sequence[int], known: Sequence[int] = (2,)) -> None:
    if len(kernel) not in known:
        raise ModelError(f"{node.op_type} {node.name!r}: {len(kernel)}-D windows cannot be converted to TFLite")


def _conv(node: _Node, inputs: Sequence[Any]) -> Tensor:
    import torch

    x, weight, bias = (*inputs, None)[:3]
    kernel = list(weight.shape[2:])
    _require_axes(node, kernel, (1, 2))
    stride, dilation = node.get("strides", [1] * len(kernel)), node.get("dilations", [1] * len(kernel))
    x, padding = _pad_windows(node, x, kernel, stride, dilation, 0.0)
    function = torch.nn.functional.conv1d if len(kernel) == 1 else torch.nn.functional.conv2d
    return function(x, weight, bias, stride, padding, dilation, node.get("group", 1))


def _conv_transpose(node: _Node, inputs: Sequence[Any]) -> Tensor:
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


def _max_pool(node: _Node, inputs: Sequence[Any]) -> Tensor:
    import torch

    kernel = node.get("kernel_shape")
    _require_axes(node, kernel)
    stride, dilation = node.get("strides", [1, 1]), node.get("dilations", [1, 1])
    x, padding = _pad_windows(node, inputs[0], kernel, stride, dilation, -math.inf)
    return torch.nn.functional.max_pool2d(x, kernel, stride, padding, dilation, bool(node.get("ceil_mode", 0)))


def _average_pool(node: _Node, inputs: Sequence[Any]) -> Tensor:
    import torch

    kernel, stride = node.get("kernel_shape"), node.get("strides", [1, 1])
    _require_axes(node, kernel)
    if max(node.get("dilations", [1])) > 1:
        raise ModelError(f"AveragePool {node.name!r}: dilated windows cannot be converted to TFLite")
    counts = bool(node.get("count_include_pad", 0))
    x, padding = _pad_windows(node, inputs[0], kernel, stride, [1, 1], 0.0 if counts else None)
    return torch.nn.functional.avg_pool2d(x, kernel, stride, padding, bool(node.get("ceil_mode", 0)), counts)


def _pad_windows(
    node: _Node, x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], fill: float | None
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
    node: _Node, size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
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


def _gemm(node: _Node, inputs: Sequence[Any]) -> Tensor:
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


def _clip(node: _Node, inputs: Sequence[Any]) -> Tensor:
    import torch

    low, high = (node.numbers(1, None), node.numbers(2, None))
    return torch.clamp(inputs[0], low[0] if low else node.get("min"), high[0] if high else node.get("max"))


def _pad(node: _Node, inputs: Sequence[Any]) -> Tensor:
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


def _resize(node: _Node, inputs: Sequence[Any]) -> Tensor:
    import torch

    mode, place = node.get("mode", "nearest"), node.get("coordinate_transformation_mode", "half_pixel")
    if mode == "nearest" and _repeats(node, inputs[0].shape, place):
        return torch.nn.functional.interpolate(inputs[0], size=_size(node), mode="nearest")
    if mode == "linear" and _interpolates(node, inputs[0].shape, place):
        aligned = place == "align_corners"
        return torch.nn.functional.interpolate(inputs[0], size=_size(node), mode="bilinear", align_corners=aligned)
    raise ModelError(
        f"Resize {node.name!r}: mode {mode!r} with {place!r} from {list(inputs[0].shape)} to {node.output_shape} "
        "cannot be converted to TFLite"
    )


def _size(node: _Node) -> list[int]:
    return list((node.output_shape or ())[2:])


def _is_map(node: _Node, given: Sequence[int]) -> bool:
    """Returns whether a Resize changes height and width only."""
    made = node.output_shape
    return made is not None and len(made) == 4 and tuple(made[:2]) == tuple(given[:2])


def _repeats(node: _Node, given: Sequence[int], place: str) -> bool:
    """Returns whether a nearest Resize repeats every row and column the same number of times."""
    rounding = node.get("nearest_mode", "round_prefer_floor")
    if not _is_map(node, given) or any(now % before for now, before in zip(_size(node), given[2:], strict=True)):
        return False
    if place == "asymmetric":
        twice = all(now <= 2 * before for now, before in zip(_size(node), given[2:], strict=True))
        return rounding == "floor" or (rounding == "round_prefer_floor" and twice)
    return place in ("half_pixel", "pytorch_half_pixel") and rounding.startswith("round")


def _interpolates(node: _Node, given: Sequence[int], place: str) -> bool:
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


def _slice(node: _Node, inputs: Sequence[Any]) -> Tensor:
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


def _split(node: _Node, inputs: Sequence[Any]) -> Sequence[Tensor]:
    import torch

    axis = node.get("axis", 0)
    sizes = node.numbers(1, "split")
    if sizes is None:
        sizes = [math.ceil(inputs[0].shape[axis] / len(node.outputs))]
        return torch.split(inputs[0], sizes[0], axis)
    return torch.split(inputs[0], sizes, axis)


def _reduce(name: str) -> Operation:
    def operation(node: _Node, inputs: Sequence[Any]) -> Tensor:
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
    def operation(_node: _Node, inputs: Sequence[Any]) -> Tensor:
        import torch

        found: Tensor = getattr(torch, name)(inputs[0], dim=tuple(range(2, inputs[0].ndim)), keepdim=True)
        return found

    return operation


def _reshape(node: _Node, inputs: Sequence[Any]) -> Tensor:
    shape = node.numbers(1, "shape") or []
    if not node.get("allowzero", 0):
        shape = [inputs[0].shape[axis] if length == 0 else length for axis, length in enumerate(shape)]
    found: Tensor = inputs[0].reshape(shape)
    return found


def _flatten(node: _Node, inputs: Sequence[Any]) -> Tensor:
    axis = node.get("axis", 1)
    found: Tensor = inputs[0].reshape(math.prod(inputs[0].shape[:axis]), -1)
    return found


def _squeeze(node: _Node, inputs: Sequence[Any]) -> Tensor:
    axes = node.numbers(1, "axes")
    found: Tensor = inputs[0].squeeze() if axes is None else inputs[0].squeeze(axes)
    return found


def _unsqueeze(node: _Node, inputs: Sequence[Any]) -> Tensor:
    x: Tensor = inputs[0]
    axes = node.numbers(1, "axes") or []
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _gather(node: _Node, inputs: Sequence[Any]) -> Tensor:
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


def _depth_to_space(node: _Node, inputs: Sequence[Any]) -> Tensor:
    import torch

    block = node.get("blocksize")
    n, c, h, w = inputs[0].shape
    if node.get("mode", "DCR") == "CRD":
        return torch.nn.functional.pixel_shuffle(inputs[0], block)
    x: Tensor = inputs[0].reshape(n, block, block, c // block**2, h, w)
    return x.permute(0, 3, 4, 1, 5, 2).reshape(n, c // block**2, h * block, w * block)


def _layer_norm(node: _Node, inputs: Sequence[Any]) -> Tensor:
    import torch

    axis = node.get("axis", -1)
    x, weight, bias = (*inputs, None)[:3]
    return torch.nn.functional.layer_norm(x, list(x.shape[axis:]), weight, bias, node.get("epsilon", 1e-5))


def _batch_norm(node: _Node, inputs: Sequence[Any]) -> Tensor:
    import torch

    x, weight, bias, mean, variance = inputs
    return torch.nn.functional.batch_norm(x, mean, variance, weight, bias, eps=node.get("epsilon", 1e-5))


def _gelu(node: _Node, inputs: Sequence[Any]) -> Tensor:
    import torch

    return torch.nn.functional.gelu(inputs[0], approximate=node.get("approximate", "none"))


def _prelu(_node: _Node, inputs: Sequence[Any]) -> Tensor:
    import torch

    return torch.where(inputs[0] < 0, inputs[0] * inputs[1], inputs[0])


def _leaky_relu(node: _Node, inputs: Sequence[Any]) -> Tensor:
    import torch

    return torch.nn.functional.leaky_relu(inputs[0], node.get("alpha", 0.01))


def _hard_sigmoid(node: _Node, inputs: Sequence[Any]) -> Tensor:
    import torch

    return torch.clamp(inputs[0] * node.get("alpha", 0.2) + node.get("beta", 0.5), 0.0, 1.0)


def _hard_swish(_node: _Node, inputs: Sequence[Any]) -> Tensor:
    import torch

    return torch.nn.functional.hardswish(inputs[0])


def _softmax(node: _Node, inputs: Sequence[Any]) -> Tensor:
    import torch

    return torch.softmax(inputs[0], dim=node.get("axis", -1))


def _concat(node: _Node, inputs: Sequence[Any]) -> Tensor:
    import torch

    return torch.cat(list(inputs), dim=node.get("axis"))


def _transpose(node: _Node, inputs: Sequence[Any]) -> Tensor:
    found: Tensor = inputs[0].permute(node.get("perm", list(reversed(range(inputs[0].ndim)))))
    return found


def _expand(node: _Node, inputs: Sequence[Any]) -> Tensor:
    import torch

    return inputs[0] * torch.ones(node.numbers(1) or [], dtype=inputs[0].dtype)  # type: ignore[no-any-return]


def _identity(_node: _Node, inputs: Sequence[Any]) -> Tensor:
    found: Tensor = inputs[0]
    return found


_OPERATIONS: dict[str, Operation] = {
    **{onnx: _function(torch_name) for onnx, torch_name in {
        "Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh", "Exp": "exp", "Log": "log", "Sqrt": "sqrt", "Erf": "erf",
        "Abs": "abs", "Neg": "neg", "Reciprocal": "reciprocal", "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div",
        "Pow": "pow", "MatMul": "matmul",
    }.items()},
    "AveragePool": _average_pool, "BatchNormalization": _batch_norm, "Clip": _clip, "Concat": _concat, "Conv": _conv,
    "ConvTranspose": _conv_transpose, "DepthToSpace": _depth_to_space, "Dropout": _identity, "Expand": _expand,
    "Flatten": _flatten, "Gather": _gather, "Gelu": _gelu, "Gemm": _gemm, "GlobalAveragePool": _global_pool("mean"),
    "GlobalMaxPool": _global_pool("amax"), "HardSigmoid": _hard_sigmoid, "HardSwish": _hard_swish,
    "Identity": _identity, "LayerNormalization": _layer_norm, "LeakyRelu": _leaky_relu, "Max": _extreme("maximum"),
    "MaxPool": _max_pool, "Min": _extreme("minimum"),
    "PRelu": _prelu, "Pad": _pad, "ReduceMax": _reduce("amax"), "ReduceMean": _reduce("mean"),
    "ReduceMin": _reduce("amin"), "ReduceSum": _reduce("sum"), "Reshape": _reshape, "Resize": _resize,
    "Slice": _slice, "Softmax": _softmax, "Split": _split, "Squeeze": _squeeze, "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}  # fmt: skip
