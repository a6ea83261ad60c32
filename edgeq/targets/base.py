"""The declaration of a target. Numbers and names only: what they mean is carried out in `edgeq.export`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Rules:
    """What a target's engines reward when a graph is quantized.

    Attributes:
        opset: ONNX opset that the files are written in.
        activation_dtype: Integer type of activations.
        symmetric_activations: Whether every activation range is symmetric around zero (zero point 0 for `int8`).
        quantize_bias: Whether biases are written as int32 with a DequantizeLinear; otherwise they stay float.
        int8_ops: Operators that the engines run in INT8 and that are worth it.
        rewrite_conv_transpose: Whether ConvTranspose 4x4, stride 2, padding 1 becomes Conv + DepthToSpace.
    """

    opset: int
    activation_dtype: Literal["uint8", "int8"]
    symmetric_activations: bool
    quantize_bias: bool
    int8_ops: frozenset[str]
    rewrite_conv_transpose: bool = False


@dataclass(frozen=True)
class Target:
    """A kind of device.

    Attributes:
        name: As written after `--target`.
        runtimes: Names of the runtimes that run its files, the preferred one first.
        formats: File formats that are written for it.
        rules: Its quantization rules.
    """

    name: str
    runtimes: tuple[str, ...]
    formats: tuple[str, ...]
    rules: Rules
