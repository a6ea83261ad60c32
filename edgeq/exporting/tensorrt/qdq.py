"""Q/DQ pairs in a graph as TensorRT reads them: what they quantize, and which layers multiply integers by them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgeq.exporting.graphs.float4 import scale_of
from edgeq.exporting.graphs.graph import WEIGHTED_OPS, constant, kernel_positions
from edgeq.exporting.graphs.moves import moves_values
from edgeq.targets.base import LARGEST_FP8_KERNEL

if TYPE_CHECKING:
    import onnx_ir as ir

Q, DQ = "QuantizeLinear", "DequantizeLinear"

LayerKind = Literal["int8", "fp8", "weights", "float"]

FP8 = "FLOAT8E4M3FN"


class Pairs:
    """Where the pairs of a graph are seen, by one kind of typing.

    With weak typing (TensorRT 8 to 10) a pair is seen through whatever only moves values. With strong typing, as the
    builder of TensorRT for RTX 1.7 was seen to compile (tests/data/trt_rtx_graphs.json), neither through a Resize nor a
    Concat of several grids, and not where an activation has a scale for each channel or a weight those of another axis.

    Args:
        strongly_typed: Whether the network is.
    """

    def __init__(self, strongly_typed: bool) -> None:
        self._strong = strongly_typed

    def is_quantized(self, value: ir.Value | None) -> bool:
        """Returns whether a value comes from a DequantizeLinear, looking through what only moves values."""
        return any(True for _ in self._sources(value))

    def kind(self, layer: ir.Node) -> LayerKind:
        """Returns what a layer multiplies: `int8`, `fp8`, floats by a weight that is stored in integers, or floats."""
        first, second = (self.is_quantized(value) for value in layer.inputs[:2])
        if self._strong and layer.op_type == "ConvTranspose":
            return "float"
        if first and second and (not self._strong or self._has_fitting_scales(layer)):
            if not self.is_of_fp8(layer):
                return "int8"
            return "float" if kernel_positions(layer) > LARGEST_FP8_KERNEL else "fp8"
        stores = layer.op_type in ("MatMul", "Gemm") and is_constant(layer.inputs[1])
        return "weights" if self._strong and second and not first and stores else "float"

    def is_of_fp8(self, layer: ir.Node) -> bool:
        """Returns whether a layer has pairs of FP8 on both inputs."""
        sources = [list(self._sources(value)) for value in layer.inputs[:2]]
        return all(sources) and all(data_type(source) == FP8 for each in sources for source in each)

    def is_int8(self, node: ir.Node | None) -> bool:
        """Returns whether a node is a layer that multiplies integers."""
        return node is not None and node.op_type in WEIGHTED_OPS and self.kind(node) == "int8"

    def is_narrow(self, node: ir.Node | None) -> bool:
        """Returns whether a node is a layer that multiplies numbers of 8 bits."""
        return node is not None and node.op_type in WEIGHTED_OPS and self.kind(node) in ("int8", "fp8")

    def _sources(self, value: ir.Value | None) -> Iterator[ir.Node]:
        """Yields the DequantizeLinear nodes that a value comes from; none if one of its parts comes from elsewhere."""
        producer = value.producer() if value is not None else None
        if producer is None:
            return
        if producer.op_type == DQ:
            yield producer
        elif producer.op_type == "Identity":
            yield from self._sources(producer.inputs[0])
        elif moves_values(producer) and not (self._strong and producer.op_type == "Resize"):
            moved = [each for each in producer.inputs if each is not None and not is_constant(each)]
            sources = [list(self._sources(each)) for each in moved]
            scales = {str(scale_of(source)) for each in sources for source in each}
            if moved and all(sources) and not (self._strong and len(scales) > 1):
                yield from (source for each in sources for source in each)

    def _has_fitting_scales(self, layer: ir.Node) -> bool:
        """Returns whether each scale of a layer is one for the tensor, or of a weight's output channel."""
        return all(
            (scale := scale_of(source)) is None or scale.size == 1 or (is_weight and _fits(source, layer))
            for value in layer.inputs[:2]
            for is_weight in (is_constant(value),)
            for source in self._sources(value)
        )


def _fits(dequantize: ir.Node, layer: ir.Node) -> bool:
    rank = 2 if dequantize.outputs[0].shape is None else len(dequantize.outputs[0].shape)
    wanted = weight_axis(layer, rank)
    return wanted is None or axis_of(dequantize, rank) == wanted


def has_fp16_scales(model: ir.Model) -> bool:
    """Returns whether pairs of a graph have scales in FP16, as engines with strong typing want them."""
    pairs = (node for node in model.graph if node.op_type in (Q, DQ))
    return any((scale := scale_of(node)) is not None and scale.dtype == np.float16 for node in pairs)


def axis_of(node: ir.Node, rank: int) -> int:
    """Returns the axis of a Q or DQ node's scales."""
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
    return axis + rank if axis < 0 else axis


def weight_axis(layer: ir.Node, rank: int) -> int | None:
    """Returns the axis of a layer's output channels in its weight; `None` where engines disagree about it."""
    if layer.op_type == "Gemm":
        return 0 if "transB" in layer.attributes and layer.attributes["transB"].as_int() else 1
    return {"Conv": 0, "MatMul": rank - 1}.get(layer.op_type)


def data_type(node: ir.Node) -> str:
    """Returns the name of the type that a Q or DQ node rounds to."""
    value = node.outputs[0] if node.op_type == Q else node.inputs[0]
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    known = next((each.dtype for each in (zero, value) if each is not None and each.dtype is not None), None)
    return known.name if known is not None else "UINT8"


def is_constant(value: ir.Value | None) -> bool:
    """Returns whether a value is a constant, or the Q/DQ side of one."""
    if value is None:
        return False
    producer = value.producer()
    if producer is not None and producer.op_type in (Q, DQ, "Identity"):
        return is_constant(producer.inputs[0])
    return constant(value) is not None


def gives_scales(node: ir.Node) -> bool:
    """Returns whether a DequantizeLinear is of scales: those of FP4 weights are stored in FP8."""
    uses = list(node.outputs[0].uses())
    return node.op_type == DQ and bool(uses) and all(use.idx == 1 and use.node.op_type == DQ for use in uses)


def pair_scale(value: ir.Value | None) -> float | None:
    """Returns the scale of the DequantizeLinear that a value comes from, where it is one number."""
    producer = value.producer() if value is not None else None
    scale = scale_of(producer) if producer is not None and producer.op_type == DQ else None
    return float(scale.ravel()[0]) if scale is not None and scale.size == 1 else None


def quantized_value(value: ir.Value | None) -> ir.Value | None:
    """Returns the float tensor that the pair before a value quantizes."""
    dequantize = value.producer() if value is not None else None
    integers = dequantize.inputs[0] if dequantize is not None and dequantize.op_type == DQ else None
    quantize = integers.producer() if integers is not None else None
    return quantize.inputs[0] if quantize is not None and quantize.op_type == Q else None


def readers(value: ir.Value) -> list[ir.Node]:
    """Returns the nodes that read a value."""
    return [use.node for use in value.uses()]
