"""`Kernel`: the shape of a layer, which decides its time in an engine."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeq.errors import InputError
from edgeq.exporting.graphs.graph import data_inputs, multiplies_activations, weight_of

if TYPE_CHECKING:
    import onnx_ir as ir

ACTIVATIONS = ("Relu", "LeakyRelu", "HardSwish", "Silu")
"""Functions behind a layer that engines compute together with it; a Clip counts as a Relu."""

WEIGHTED = ("Conv", "ConvTranspose", "Gemm")
"""Operators of kernels that have weights; a MatMul by a constant is a Gemm."""

MOVING = ("MaxPool", "Concat", "Resize")
"""Operators of kernels that only move values, in either precision."""

OPERATORS = (*WEIGHTED, *MOVING, "Add")

_TEXT = re.compile(
    r"(?P<operator>\w+) (?P<inputs>\d+)>(?P<outputs>\d+) (?P<height>\d+)x(?P<width>\d+) k(?P<kh>\d+)x(?P<kw>\d+) "
    r"s(?P<sh>\d+)x(?P<sw>\d+) d(?P<dilation>\d+) g(?P<groups>\d+)(?: (?P<activation>\w+))?"
)


_IMAGE_CHANNELS = 4


@dataclass(frozen=True, order=True)
class Tensor:
    """The shape of an activation, batch 1.

    Attributes:
        channels: Channels; of rows their length.
        height: In pixels; the number of rows.
        width: In pixels; 1 for rows.
        is_rows: Whether it is a matrix of rows, as linear layers take it.
    """

    channels: int
    height: int
    width: int
    is_rows: bool = False

    @property
    def size(self) -> int:
        """Number of its elements."""
        return self.channels * self.height * self.width


@dataclass(frozen=True, order=True)
class Kernel:
    """The shape of a layer.

    Attributes:
        operator: One of `OPERATORS`.
        inputs: Channels of the input; of a Gemm the length of its sums; of a Concat those of each input, if equal.
        outputs: Channels of the output.
        height: Of the input, in pixels; of a Gemm its rows.
        width: Of the input, in pixels; 1 for a Gemm.
        kernel: Height and width of the window; of a Resize the factors.
        stride: Steps of the window.
        dilation: Distance of the window's points.
        groups: Groups of the channels; of a Concat the number of its inputs.
        activation: One of `ACTIVATIONS`, or an empty string.
    """

    operator: str
    inputs: int
    outputs: int
    height: int
    width: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: int = 1
    groups: int = 1
    activation: str = ""

    def __str__(self) -> str:
        window = f"k{self.kernel[0]}x{self.kernel[1]} s{self.stride[0]}x{self.stride[1]} d{self.dilation}"
        text = f"{self.operator} {self.inputs}>{self.outputs} {self.height}x{self.width} {window} g{self.groups}"
        return f"{text} {self.activation}".rstrip()

    @classmethod
    def parse(cls, text: str) -> Kernel:
        """Returns the kernel that `str` wrote.

        Raises:
            InputError: the text describes none.
        """
        found = _TEXT.fullmatch(text)
        if found is None or found["operator"] not in OPERATORS or found["activation"] not in (None, *ACTIVATIONS):
            raise InputError(f"kernel {text!r}: expected text such as 'Conv 16>32 40x40 k3x3 s2x2 d1 g1 Relu'")
        numbers = {
            name: int(text) for name, text in found.groupdict().items() if name not in ("operator", "activation")
        }
        return cls(
            found["operator"], numbers["inputs"], numbers["outputs"], numbers["height"], numbers["width"],
            (numbers["kh"], numbers["kw"]), (numbers["sh"], numbers["sw"]), numbers["dilation"], numbers["groups"],
            found["activation"] or "",
        )  # fmt: skip

    @property
    def is_stem(self) -> bool:
        """Whether it is a convolution of an image: the engine converts the image for it, whatever it computes in."""
        return self.operator == "Conv" and self.inputs <= _IMAGE_CHANNELS

    @property
    def source(self) -> Tensor:
        """The tensor that it reads; of a Concat or an Add the first."""
        return Tensor(self.inputs, self.height, self.width, self.operator == "Gemm")

    @property
    def result(self) -> Tensor:
        """The tensor that it writes."""
        height, width = self.height, self.width
        if self.operator in ("Conv", "MaxPool"):
            height, width = -(-height // self.stride[0]), -(-width // self.stride[1])
        elif self.operator in ("ConvTranspose", "Resize"):
            factors = self.stride if self.operator == "ConvTranspose" else self.kernel
            height, width = height * factors[0], width * factors[1]
        return Tensor(self.outputs, height, width, self.operator == "Gemm")

    @property
    def is_depthwise(self) -> bool:
        """Whether it is a convolution of one channel each."""
        return self.operator == "Conv" and self.groups == self.inputs > 1

    @property
    def kind(self) -> str:
        """What a table groups it by: `1x1`, `dense`, `depthwise`, `grouped`, `stem`, or its operator."""
        if self.operator != "Conv":
            return self.operator
        if self.groups > 1:
            return "depthwise" if self.is_depthwise else "grouped"
        if self.is_stem:
            return "stem"
        return "1x1" if self.kernel == (1, 1) else "dense"

    @property
    def macs(self) -> int:
        """Multiplications of one run; 0 for kernels without weights."""
        if self.operator not in WEIGHTED:
            return 0
        if self.operator == "Gemm":
            return self.height * self.inputs * self.outputs
        taps = self.kernel[0] * self.kernel[1] * self.inputs * self.outputs // self.groups
        strides = self.stride[0] * self.stride[1] if self.operator == "Conv" else 1
        return self.height * self.width * taps // strides


def kernel_of(node: ir.Node) -> Kernel | None:
    """Returns the kernel of a node of a float graph with known shapes; `None` if edgeq times none like it."""
    if node.op_type in ("Conv", "ConvTranspose"):
        return _convolution(node)
    if node.op_type in ("Gemm", "MatMul"):
        return _linear(node)
    if node.op_type in (*MOVING, "Add"):
        return _joining(node)
    return None


def product_kernel(node: ir.Node) -> Kernel | None:
    """Returns the Gemm of as many multiplications as a product of activations; `None` if that or its shape is not so.

    DeiT-tiny in OpenVINO on AVX-512 VNNI: its products in INT8 save 0.18 ms of a block, and by such Gemms 0.19.
    """
    if not multiplies_activations(node):
        return None
    first, second = map(_lengths, node.inputs)
    if first is None or second is None or min(len(first), len(second)) < 2:
        return None
    return Kernel("Gemm", first[-1], second[-1], math.prod(first[:-1]), 1)


def activation_nodes(node: ir.Node) -> tuple[str, tuple[ir.Node, ...]]:
    """Returns which of `ACTIVATIONS` engines compute with a layer, and its nodes; an empty string without one."""
    output = node.outputs[0]
    if output.is_graph_output():
        return "", ()
    readers = sorted((use.node for use in output.uses()), key=lambda reader: reader.op_type)
    types = [reader.op_type for reader in readers]
    if types in (["Relu"], ["Clip"], ["LeakyRelu"], ["HardSwish"]):
        return ("Relu" if types == ["Clip"] else types[0]), tuple(readers)
    for function, name in (("Sigmoid", "Silu"), ("HardSigmoid", "HardSwish")):
        if types == sorted([function, "Mul"]):
            inner = next(reader for reader in readers if reader.op_type == function)
            product = next(reader for reader in readers if reader.op_type == "Mul")
            if [use.node for use in inner.outputs[0].uses()] == [product]:
                return name, (inner, product)
    return "", ()


def _lengths(value: ir.Value | None) -> list[int] | None:
    """Returns the lengths of a tensor, a free batch taken as 1; `None` if others are not known."""
    if value is None or value.shape is None:
        return None
    lengths = [each if isinstance(each, int) else None for each in value.shape]
    if lengths and lengths[0] is None:
        lengths[0] = 1
    return None if None in lengths else [int(each or 0) for each in lengths]


def _ints(node: ir.Node, name: str, default: Sequence[int]) -> list[int]:
    return list(node.attributes[name].as_ints()) if name in node.attributes else list(default)


def _int(node: ir.Node, name: str, default: int) -> int:
    return node.attributes[name].as_int() if name in node.attributes else default


def _convolution(node: ir.Node) -> Kernel | None:
    weight, lengths, made = weight_of(node), _lengths(node.inputs[0]), _lengths(node.outputs[0])
    if weight is None or lengths is None or made is None or len(lengths) != 4:
        return None
    window = (weight.shape[2], weight.shape[3])
    stride, dilations = _ints(node, "strides", (1, 1)), _ints(node, "dilations", (1, 1))
    return Kernel(
        node.op_type, lengths[1], made[1], lengths[2], lengths[3], window, (stride[0], stride[1]), max(dilations),
        _int(node, "group", 1), activation_nodes(node)[0],
    )  # fmt: skip


def _linear(node: ir.Node) -> Kernel | None:
    weight, lengths = weight_of(node), _lengths(node.inputs[0])
    if weight is None or weight.ndim != 2 or lengths is None:
        return None
    inputs = lengths[-1]
    rows = 1
    for length in lengths[:-1]:
        rows *= length
    return Kernel("Gemm", inputs, weight.size // inputs, rows, 1)


def _joining(node: ir.Node) -> Kernel | None:
    sources = data_inputs(node)
    lengths, made = [_lengths(value) for value in sources], _lengths(node.outputs[0])
    first = lengths[0] if lengths else None
    if first is None or made is None or len(first) != 4 or len(made) != 4 or None in lengths:
        return None
    if node.op_type == "MaxPool":
        window, stride = _ints(node, "kernel_shape", (1, 1)), _ints(node, "strides", (1, 1))
        return Kernel("MaxPool", first[1], made[1], first[2], first[3], (window[0], window[1]), (stride[0], stride[1]))
    if node.op_type == "Concat":
        if _int(node, "axis", 1) % 4 != 1 or len(sources) < 2:
            return None
        parts = len(sources)
        return Kernel("Concat", made[1] // parts, made[1] // parts * parts, made[2], made[3], groups=parts)
    if node.op_type == "Add":
        same = len(sources) == 2 and lengths[0] == lengths[1]
        function = activation_nodes(node)[0]
        return Kernel("Add", made[1], made[1], made[2], made[3], activation=function) if same else None
    factors = (made[2] // first[2], made[3] // first[3])
    is_nearest = "mode" not in node.attributes or node.attributes["mode"].as_string() == "nearest"
    grows = is_nearest and min(factors) >= 1 and [first[2] * factors[0], first[3] * factors[1]] == made[2:]
    return Kernel("Resize", first[1], made[1], first[2], first[3], factors) if grows else None
