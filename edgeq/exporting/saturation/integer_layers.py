"""The layers of a quantized file that an engine computes in sums of 16 bits on x86 CPUs without VNNI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeq.exporting.graphs.graph import constant, data_inputs
from edgeq.exporting.graphs.moves import RESHAPES, moved_from
from edgeq.exporting.planning.selection import activation_behind
from edgeq.exporting.saturation.kernels import Engine, paired_weight
from edgeq.quantizers.pair_sums import PairedWeight

if TYPE_CHECKING:
    import onnx_ir as ir

_LINEAR = ("Gemm", "MatMul")


@dataclass(frozen=True, eq=False)
class LayerGrids:
    """What the integers of a layer stand for.

    Attributes:
        input_scale: Scale of the activations.
        input_zero: The raw integer, 0 to 255, that stands for 0.
        weight_scale: Scales of the weight, `(output channels,)` or `()`.
        bias: Float `(output channels,)`; zeros where there is none.
    """

    input_scale: float
    input_zero: int
    weight_scale: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class IntegerLayer:
    """A layer between integers, as an engine's kernel reads it.

    Attributes:
        node: The node.
        weight: Its integers, int8.
        paired: Which products are added in 16 bits.
        grids: What its integers stand for; `None` for a MatMulInteger, which gives the sums themselves.
    """

    node: ir.Node
    weight: npt.NDArray[np.int8]
    paired: PairedWeight
    grids: LayerGrids | None

    @property
    def name(self) -> str:
        """Name of the node, or of its output where the file names no nodes."""
        return self.node.name or self.output

    @property
    def output(self) -> str:
        """Name of its output."""
        return str(self.node.outputs[0].name)

    def can_saturate(self, maxima: np.ndarray | int = 255) -> npt.NDArray[np.bool_]:
        """Returns which output channels have a pair beyond 16 bits, `(channels,)`.

        Args:
            maxima: Largest raw integer of each input channel, or of all.
        """
        inputs = int(self.paired.inputs.max()) + 1
        return np.asarray(self.paired.excess(self.weight, np.broadcast_to(maxima, inputs)) > 1)


def integer_layers(model: ir.Model, engine: Engine) -> list[IntegerLayer]:
    """Returns the layers of a graph of integers whose sums saturate in an engine without VNNI, in order.

    ONNX Runtime runs a convolution in INT8 if a QuantizeLinear stands behind it, and makes signed activations unsigned.
    OpenVINO runs 1x1 convolutions with a stride in float, and a ConvTranspose whose input has a zero point.

    Args:
        model: The graph of a file.
        engine: Whose kernels.
    """
    found = []
    for node in model.graph:
        layer = _layer(node, engine)
        if layer is not None:
            found.append(layer)
    return found


def _layer(node: ir.Node, engine: Engine) -> IntegerLayer | None:
    source, stored = node.inputs[0] if node.inputs else None, node.inputs[1] if len(node.inputs) > 1 else None
    if engine == "onnxruntime" and node.op_type == "MatMulInteger":
        return _dynamic_layer(node)
    if source is None or stored is None or node.op_type not in ("Conv", "ConvTranspose", *_LINEAR):
        return None
    weight, activation = _dequantized_weight(stored), moved_from(source, RESHAPES).producer()
    if weight is None or activation is None or activation.op_type != "DequantizeLinear":
        return None
    grid = _grid(activation)
    if grid is None:
        return None
    integers, scale = weight
    plain = not {"alpha", "beta", "transA", "output_shape"}.intersection(node.attributes)
    paired = paired_weight(node, integers.shape, (engine,)) if plain else None
    if paired is None or _runs_in_float(node, integers.shape, grid, engine):
        return None
    channels = len(paired.rows)
    bias = _bias(node, channels)
    if bias is None:
        return None
    return IntegerLayer(node, integers, paired, LayerGrids(grid.scale, grid.zero, scale, bias))


def _dynamic_layer(node: ir.Node) -> IntegerLayer | None:
    """Returns a MatMulInteger of unsigned activations by a constant matrix without a zero point."""
    source, weight = node.inputs[0], constant(node.inputs[1])
    zero = constant(node.inputs[3]) if len(node.inputs) > 3 else None
    if source is None or weight is None or weight.dtype != np.int8 or (zero is not None and zero.any()):
        return None
    producer = source.producer()
    if producer is None or producer.op_type != "DynamicQuantizeLinear" or len(node.inputs) < 3:
        return None
    paired = paired_weight(node, weight.shape, ("onnxruntime",))
    return None if paired is None else IntegerLayer(node, weight, paired, None)


@dataclass(frozen=True)
class _RawGrid:
    scale: float
    zero: int
    is_signed: bool


def _runs_in_float(node: ir.Node, shape: tuple[int, ...], grid: _RawGrid, engine: Engine) -> bool:
    if engine == "onnxruntime":
        readers = [use.node.op_type for use in activation_behind(node).uses()]
        return node.op_type == "Conv" and readers != ["QuantizeLinear"]
    if node.op_type == "ConvTranspose":
        return not grid.is_signed and grid.zero != 0
    strides = node.attributes["strides"].as_ints() if "strides" in node.attributes else ()
    return node.op_type == "Conv" and set(shape[2:]) == {1} and any(stride > 1 for stride in strides)


def _grid(dequantize: ir.Node) -> _RawGrid | None:
    """Returns the grid of activations of 8 bits, of one scale."""
    scale = constant(dequantize.inputs[1])
    zero = constant(dequantize.inputs[2]) if len(dequantize.inputs) > 2 else np.zeros((), np.uint8)
    source = dequantize.inputs[0]
    if scale is None or scale.size != 1 or zero is None or zero.dtype not in (np.uint8, np.int8):
        return None
    if source is None or constant(source) is not None or not data_inputs(dequantize):
        return None
    is_signed = zero.dtype == np.int8
    return _RawGrid(float(scale.reshape(())), int(zero.reshape(())) + 128 * is_signed, is_signed)


def _dequantized_weight(value: ir.Value) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]] | None:
    """Returns signed integers and scales of a weight around zero; `None` for anything else."""
    dequantize = value.producer()
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        return None
    integers, scale = constant(dequantize.inputs[0]), constant(dequantize.inputs[1])
    quantize = dequantize.inputs[0].producer() if dequantize.inputs[0] is not None else None
    if integers is None and quantize is not None and quantize.op_type == "QuantizeLinear":
        given, scale = constant(quantize.inputs[0]), constant(quantize.inputs[1])
        if given is not None and scale is not None:
            integers = _rounded(given, scale, quantize)
    zero = constant(dequantize.inputs[2]) if len(dequantize.inputs) > 2 else None
    if integers is None or scale is None or integers.dtype != np.int8 or (zero is not None and zero.any()):
        return None
    return integers, np.asarray(scale.reshape(-1) if scale.size > 1 else scale.reshape(()), np.float32)


def _rounded(weight: np.ndarray, scale: np.ndarray, quantize: ir.Node) -> np.ndarray | None:
    zero = constant(quantize.inputs[2]) if len(quantize.inputs) > 2 else None
    if zero is None or zero.dtype != np.int8:
        return None
    axis = quantize.attributes["axis"].as_int() if "axis" in quantize.attributes else 1
    shape = [-1 if each == axis % weight.ndim else 1 for each in range(weight.ndim)] if scale.size > 1 else []
    rounded: np.ndarray = np.clip(np.rint(weight / scale.reshape(shape)), -128, 127).astype(np.int8)
    return rounded


def _bias(node: ir.Node, channels: int) -> npt.NDArray[np.float32] | None:
    """Returns the float bias of a layer; `None` where it is no constant."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None:
        return np.zeros(channels, np.float32)
    plain = constant(value)
    if plain is None and (dequantize := value.producer()) is not None and dequantize.op_type == "DequantizeLinear":
        integers, scale = constant(dequantize.inputs[0]), constant(dequantize.inputs[1])
        plain = None if integers is None or scale is None else integers * scale
    return None if plain is None else np.broadcast_to(plain.astype(np.float32).reshape(-1), (channels,))
