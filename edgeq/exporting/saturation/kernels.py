"""Which two products the kernels of each engine add in 16 bits, by operator and shape of the weight.

Measured bit by bit on a CPU with AVX2 and without VNNI, ONNX Runtime 1.32.0 and OpenVINO 2026.4.1
(`tests/exporting/saturation/test_engines.py`). A kernel goes through the taps of a window, and within each through the
input channels:

- ONNX Runtime pairs neighbours of that row. With an odd number of channels a pair may reach into the next tap.
- OpenVINO pairs neighbouring channels of one tap; an odd last channel is alone. Convolutions in groups are paired as in
  ONNX Runtime.
- A convolution of one channel per group and output adds in 32 bits in both.
- In OpenVINO so does one with a single input channel.
- ONNX Runtime computes ConvTranspose in float.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from edgeq.exporting.graphs.graph import WEIGHTED_OPS
from edgeq.quantizers.pair_sums import PairedWeight, flat_pairs, tap_pairs

if TYPE_CHECKING:
    import onnx_ir as ir

Engine = Literal["onnxruntime", "openvino"]
ENGINES: tuple[Engine, ...] = get_args(Engine)
"""The engines whose kernels are known, by the names of their runtimes."""


def paired_weight(node: ir.Node, shape: tuple[int, ...], engines: tuple[Engine, ...] = ENGINES) -> PairedWeight | None:
    """Returns how kernels read the weight of a node; `None` where their sums are exact.

    Args:
        node: A node with a constant weight, in float or between integers: Conv, ConvTranspose, Gemm, MatMul,
            ConvInteger, MatMulInteger.
        shape: Of its weight.
        engines: Whose kernels.
    """
    if node.op_type == "ConvInteger" or (node.op_type not in WEIGHTED_OPS and node.op_type != "MatMulInteger"):
        return None
    groups = node.attributes["group"].as_int() if "group" in node.attributes else 1
    numbers = _in_order(node, np.arange(int(np.prod(shape))).reshape(shape), groups)  # (channels, taps, inputs)
    if numbers is None:
        return None
    channels, taps, inputs = numbers.shape
    if node.op_type == "Conv" and inputs == 1 and channels == groups:
        return None
    flat, by_tap = flat_pairs(taps * inputs), tap_pairs(taps, inputs)
    if node.op_type == "ConvTranspose":
        found = {"openvino": by_tap}
    else:
        found = {"onnxruntime": flat, "openvino": by_tap if groups == 1 else flat}
    pairings = [found[engine] for engine in engines if engine in found and len(found[engine])]
    if not pairings:
        return None
    if len(pairings) == 2 and np.array_equal(pairings[0], pairings[1]):
        pairings.pop()
    group = np.arange(channels) // (channels // groups)
    read = group[:, None] * inputs + np.tile(np.arange(inputs), taps)
    return PairedWeight(numbers.reshape(channels, -1), read, tuple(pairings))


def _in_order(node: ir.Node, weight: np.ndarray, groups: int) -> np.ndarray | None:
    """Returns a weight as `(output channels, taps, input channels of a group)`; `None` for stacks of matrices."""
    if node.op_type == "Conv":
        return np.moveaxis(weight, 1, -1).reshape(weight.shape[0], -1, weight.shape[1])
    if node.op_type == "ConvTranspose":
        inputs, outputs = weight.shape[0] // groups, weight.shape[1]
        split = weight.reshape(groups, inputs, outputs, -1).transpose(0, 2, 3, 1)
        return split.reshape(groups * outputs, -1, inputs)
    if weight.ndim != 2:
        return None
    transposed = "transB" in node.attributes and bool(node.attributes["transB"].as_int())
    return (weight if transposed else weight.T)[:, None, :]
