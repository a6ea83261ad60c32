"""Small networks whose times say what a kernel costs: the kernel between two neighbours, and the neighbours alone.

A kernel cannot be timed by itself: engines give a network's inputs and outputs another layout, and convert integers
there. So it stands between two 1x1 convolutions (linear layers for rows), from 16 channels to its own and back to 16.
The neighbours' time is known from networks without the kernel; the rest is the kernel's, in the layout and the types
that it has in a large network. All weights are made up: an engine takes the same time for every weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgeq.exporting.costs.kernel import Kernel, Tensor

if TYPE_CHECKING:
    import onnx

Precision = Literal["float", "int8"]

_OPSET, _IR = 18, 9
_ENDS = 16
"""Channels at both ends: the fewest that ONNX Runtime's blocked layout takes on AVX-512."""

_SCALE, _WEIGHT_SCALE = 0.02, 0.001
_MIDDLE = 128


@dataclass(frozen=True)
class ProbeNet:
    """One network to be timed.

    Attributes:
        layers: The kernels, in their order.
        precisions: What each computes in.
        branches: How many copies of the first layer feed the second one, which joins them.
        has_second_reader: Whether a layer without a stride reads the result of the first layer as well. OpenVINO would
            move the stride of a 1x1 convolution that is the only reader to the layer before it.
    """

    layers: tuple[Kernel, ...]
    precisions: tuple[Precision, ...]
    branches: int = 1
    has_second_reader: bool = False


def kernel_net(kernel: Kernel, precision: Precision) -> ProbeNet:
    """Returns a kernel between its neighbours, all in one precision; a stem reads the network's input."""
    behind = neighbour(kernel.result, to_tensor=False)
    before = neighbour(kernel.source, to_tensor=True)
    if kernel.operator == "Add":
        before = replace(before, activation="")  # engines compute a sum with the layer before it, but not behind a Relu
    layers = (kernel, behind) if kernel.is_stem else (before, kernel, behind)
    branches = {"Concat": kernel.groups, "Add": 2}.get(kernel.operator, 1)
    is_sparse = kernel.operator == "Conv" and kernel.kernel == (1, 1) and kernel.stride != (1, 1)
    return ProbeNet(layers, (precision,) * len(layers), branches, is_sparse)


def tensor_net(tensor: Tensor, before: Precision, behind: Precision) -> ProbeNet:
    """Returns the two neighbours of a tensor without a kernel between them."""
    layers = (neighbour(tensor, to_tensor=True), neighbour(tensor, to_tensor=False))
    return ProbeNet(layers, (before, behind))


def read_in_int8(kernel: Kernel) -> ProbeNet:
    """Returns a float kernel whose result an INT8 layer reads."""
    net = kernel_net(kernel, "float")
    return replace(net, precisions=(*net.precisions[:-1], "int8"))


def neighbour(tensor: Tensor, *, to_tensor: bool) -> Kernel:
    """Returns the layer that writes a tensor, or the one that reads it."""
    ends = (_ENDS, tensor.channels) if to_tensor else (tensor.channels, _ENDS)
    operator, function = ("Gemm", "") if tensor.is_rows else ("Conv", "Relu")
    return Kernel(operator, *ends, tensor.height, tensor.width, activation=function)


def write_probe(net: ProbeNet, *, pairs_behind: bool, channels_last: bool) -> onnx.ModelProto:
    """Returns a network as ONNX, with Q/DQ pairs as edgeq's files have them.

    Args:
        net: What to write.
        pairs_behind: Whether every INT8 layer has a pair behind it, also before a float one (ONNX Runtime runs it in
            float otherwise).
        channels_last: Whether inputs and outputs are `(1, H, W, C)`, which OpenVINO's kernels take as they are; an
            image stays `(1, C, H, W)`.
    """
    writer = _Writer()
    first, last = net.layers[0], net.layers[-1]
    value = source = writer.name("input")
    shape = [first.height, first.inputs] if first.operator == "Gemm" else [1, first.inputs, first.height, first.width]
    turned = channels_last and first.operator != "Gemm" and not first.is_stem
    if turned:
        shape = [shape[axis] for axis in (0, 2, 3, 1)]
        value = writer.node("Transpose", [value], perm=[0, 3, 1, 2])
    values, is_paired, zero = [value] * net.branches, False, 0
    results: list[str] = []
    for index, (layer, precision) in enumerate(zip(net.layers, net.precisions, strict=True)):
        if precision == "int8" and not is_paired:
            values = [writer.pair(each, zero) for each in values]
        if index == 1 and net.has_second_reader:
            reader = neighbour(layer.source, to_tensor=False)
            results.append(writer.layer(reader, values, precision))
        if index == 0:
            values = [writer.layer(layer, [each], precision) for each in values]
        else:
            values = [writer.layer(layer, values, precision)]
        zero = 0 if layer.activation == "Relu" else _MIDDLE
        is_last = index + 1 == len(net.layers)
        is_paired = precision == "int8" and (pairs_behind or (not is_last and net.precisions[index + 1] == "int8"))
        if is_paired:
            values = [writer.pair(each, zero) for each in values]
    results += values
    if channels_last and last.operator != "Gemm":
        results = [writer.node("Transpose", [value], perm=[0, 2, 3, 1]) for value in results]
    return writer.model(source, shape, results)


class _Writer:
    """Collects the nodes and constants of one network."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._count = 0

    def name(self, kind: str) -> str:
        """Returns a name that nothing else has."""
        self._count += 1
        return f"{kind}{self._count}"

    def constant(self, array: np.ndarray) -> str:
        """Returns the name of a new constant."""
        from onnx import numpy_helper

        name = self.name("constant")
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return name

    def node(self, operator: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Returns the output of a new node."""
        from onnx import helper

        output = self.name("value")
        self._nodes.append(helper.make_node(operator, list(inputs), [output], name=self.name(operator), **attributes))
        return output

    def pair(self, value: str, zero: int) -> str:
        """Returns the dequantized side of a Q/DQ pair behind a value."""
        scale, zero_point = self.constant(np.array(_SCALE, np.float32)), self.constant(np.array(zero, np.uint8))
        return self.node(
            "DequantizeLinear", [self.node("QuantizeLinear", [value, scale, zero_point]), scale, zero_point]
        )

    def layer(self, kernel: Kernel, values: Sequence[str], precision: Precision) -> str:
        """Returns the output of a kernel, its activation included."""
        window = {"kernel_shape": list(kernel.kernel), "strides": list(kernel.stride), "pads": _pads(kernel)}
        if kernel.operator == "Conv":
            weights = self._weights((kernel.outputs, kernel.inputs // kernel.groups, *kernel.kernel), 0, precision)
            dilations = [kernel.dilation] * 2
            output = self.node("Conv", [values[0], *weights], **window, dilations=dilations, group=kernel.groups)
        elif kernel.operator == "ConvTranspose":
            weights = self._weights((kernel.inputs, kernel.outputs // kernel.groups, *kernel.kernel), 1, precision)
            output = self.node("ConvTranspose", [values[0], *weights], **window, group=kernel.groups)
        elif kernel.operator == "Gemm":
            output = self.node(
                "Gemm", [values[0], *self._weights((kernel.outputs, kernel.inputs), 0, precision)], transB=1
            )
        elif kernel.operator == "MaxPool":
            output = self.node("MaxPool", [values[0]], **window)
        elif kernel.operator == "Concat":
            output = self.node("Concat", values, axis=1)
        elif kernel.operator == "Resize":
            scales = self.constant(np.array([1, 1, *kernel.kernel], np.float32))
            mode = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            output = self.node("Resize", [values[0], "", scales], **mode)
        else:
            output = self.node("Add", values)
        if kernel.activation == "Silu":
            return self.node("Mul", [output, self.node("Sigmoid", [output])])
        return self.node(kernel.activation, [output]) if kernel.activation else output

    def model(self, source: str, shape: Sequence[int], results: Sequence[str]) -> onnx.ModelProto:
        """Returns the whole network."""
        from onnx import TensorProto, helper

        inputs = [helper.make_tensor_value_info(source, TensorProto.FLOAT, shape)]
        outputs = [helper.make_tensor_value_info(result, TensorProto.FLOAT, None) for result in results]
        graph = helper.make_graph(self._nodes, "probe", inputs, outputs, self._constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)

    def _weights(self, shape: tuple[int, ...], axis: int, precision: Precision) -> list[str]:
        """Returns a weight and a bias that no other layer has: engines merge equal ones; `axis` is the outputs'."""
        outputs = shape[axis]
        if precision == "float":
            pattern = np.roll(np.linspace(-0.1, 0.1, 4099, dtype=np.float32), self._count)
            return [self.constant(np.resize(pattern, shape)), self.constant(np.resize(pattern, outputs))]
        integers = np.resize(np.roll(np.arange(-127, 128, dtype=np.int8), self._count), shape)
        scales = np.full(outputs, _WEIGHT_SCALE, np.float32)
        weight = self._dequantized(integers, scales, axis)
        bias = np.resize(np.arange(-999, 1000, dtype=np.int32), outputs)
        return [weight, self._dequantized(bias, scales * np.float32(_SCALE), 0)]

    def _dequantized(self, integers: np.ndarray, scales: np.ndarray, axis: int) -> str:
        zeros = np.zeros(scales.shape, integers.dtype)
        constants = [self.constant(array) for array in (integers, scales, zeros)]
        return self.node("DequantizeLinear", constants, axis=axis)


def _pads(kernel: Kernel) -> list[int]:
    """Returns pads that make the output as large as `Kernel.result` says: ceil(length / stride), or stride * length."""
    begins, ends = [], []
    for length, window, stride in zip((kernel.height, kernel.width), kernel.kernel, kernel.stride, strict=True):
        reach = kernel.dilation * (window - 1) + 1
        if kernel.operator == "ConvTranspose":
            total = max(0, reach - stride)
        else:
            total = max(0, (-(-length // stride) - 1) * stride + reach - length)
        begins.append(total // 2)
        ends.append(total - total // 2)
    return begins + ends
