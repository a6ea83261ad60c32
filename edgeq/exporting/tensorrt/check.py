"""Checks a Q/DQ graph, ours or another tool's, against what TensorRT reads and what it runs fast.

Rules, by number. An error is what TensorRT refuses, or computes otherwise than the file says; advice is what costs
speed or accuracy. Sources: the ONNX parser of TensorRT 8.6 and 10.1, its operator list of 10.15, and NVIDIA's guide to
placing Q/DQ layers.

- T1 (error): the opset is one that the version reads.
- T2 (error): every operator is one that TensorRT has.
- T3 (error): zero points are there (advice from TensorRT 10 on), int8 and all zero.
- T4 (error): scales are constant, finite and above zero.
- T5 (error): only weights have a scale for each channel: the output channels, one scale for each.
- T6 (error): biases are float; a DequantizeLinear takes no int32.
- T7 (error): a weighted layer has a pair on both inputs, or on none.
- T8 (advice): no pair stands between a layer and its ReLU.
- T9 (advice): of the inputs of a residual Add, the identity has a pair and the layer that is fused with the Add none.
- T10 (advice): the inputs of a Concat share one scale, that of its output.
- T11 (error): a QuantizeLinear and its DequantizeLinear have one scale, and nothing else reads the integers; (advice) a
  tensor that is computed has one pair; what engines fold, a weight of several layers, may have one for each.
- T12 (error): ConvTranspose has one scale for the weight; engines and exporters disagree about the channel's axis.
- T13 (advice): no input of a Concat is quantized on a grid that is many times coarser than its own.
- T14 (error): under strong typing scales are FP16; FP32 ones make every layer between them FP32.
- T15 (advice): normalisations and Softmax read floats.
- T16 (advice): an attention in INT8 has all the pairs, the shape and the scale that the fused kernel wants, or none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgeq.errors import InputError
from edgeq.exporting.graphs.graph import WEIGHTED_OPS, constant, infer_shapes, opset_of
from edgeq.exporting.graphs.moves import moves_values
from edgeq.exporting.planning.plan import MAX_RANGE_RATIO
from edgeq.exporting.tensorrt.check_attention import attention, normalization

if TYPE_CHECKING:
    import onnx_ir as ir

Version = tuple[int, int]
"""Major and minor version of TensorRT."""

STRONG_TYPING_ONLY = 11
"""First major version that has no weak typing."""

_MAX_OPSETS: tuple[tuple[Version, int], ...] = (
    ((11, 0), 25),
    ((10, 13), 24),
    ((10, 9), 22),
    ((10, 0), 20),
    ((0, 0), 17),
)
_UNSUPPORTED = frozenset(
    {
        "AffineGrid", "Bernoulli", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "CenterCropPad",
        "Col2Im", "Compress", "ConcatFromSequence", "ConvInteger", "DFT", "Det", "DynamicQuantizeLinear",
        "ImageDecoder", "MatMulInteger", "MaxRoiPool", "MaxUnpool", "MelWeightMatrix", "Multinomial",
        "NegativeLogLikelihoodLoss", "Optional", "OptionalGetElement", "OptionalHasElement", "QLinearConv",
        "QLinearMatMul", "RegexFullMatch", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase",
        "SequenceInsert", "SequenceLength", "SequenceMap", "SoftmaxCrossEntropyLoss", "SplitToSequence",
        "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer", "Unique",
    }
)  # fmt: skip
_ACTIVATIONS = ("Relu", "Clip")
_Q, _DQ = "QuantizeLinear", "DequantizeLinear"


@dataclass(frozen=True)
class Finding:
    """A rule that a graph breaks.

    Attributes:
        rule: Its number, `T1` to `T16`.
        severity: `error` or `advice`.
        node: Name of the node; empty for the whole graph.
        sentence: What was found and what is wanted.
    """

    rule: str
    severity: Literal["error", "advice"]
    node: str
    sentence: str


@dataclass(frozen=True)
class Checked:
    """What a check found.

    Attributes:
        findings: In the order of the rules.
        int8_layers: Names of the weighted layers with a pair on both inputs.
        float_layers: Names of the others.
    """

    findings: tuple[Finding, ...]
    int8_layers: tuple[str, ...]
    float_layers: tuple[str, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that are more than advice."""
        return tuple(finding for finding in self.findings if finding.severity == "error")


def parse_version(text: str) -> Version:
    """Returns major and minor of a TensorRT version such as `10.3` or `8.6.1`.

    Raises:
        InputError: it is none.
    """
    found = re.fullmatch(r"([0-9]+)\.([0-9]+)(?:\.[0-9]+){0,2}", text)
    if found is None:
        raise InputError(f"`tensorrt` {text}: wanted a version such as 10.3 or 8.6.1")
    return int(found[1]), int(found[2])


def check_graph(model: ir.Model, version: Version, *, strongly_typed: bool = False) -> Checked:
    """Returns what of a graph TensorRT refuses or runs badly.

    Args:
        model: The graph, as `edgeq.exporting.graphs.graph.read_onnx` gives it.
        version: The version of TensorRT it is for.
        strongly_typed: Whether the network is built with strong typing; from version 11 on it always is.
    """
    import onnx_ir.passes.common as passes

    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.NameFixPass()(model)
    infer_shapes(model)
    checker = _Checker(model, version, strongly_typed or version[0] >= STRONG_TYPING_ONLY)
    layers = [node for node in model.graph if node.op_type in WEIGHTED_OPS]
    int8 = [str(node.name) for node in layers if all(_is_quantized(value) for value in node.inputs[:2])]
    others = [str(node.name) for node in layers if node.name not in int8]
    return Checked(tuple(checker.findings()), tuple(int8), tuple(others))


class _Checker:
    """The rules over one graph."""

    def __init__(self, model: ir.Model, version: Version, strongly_typed: bool) -> None:
        self._model = model
        self._nodes = list(model.graph)
        self._version = version
        self._strongly_typed = strongly_typed

    def findings(self) -> Iterator[Finding]:
        yield from self._opset()
        rules: tuple[Callable[[ir.Node], Iterator[Finding]], ...] = (
            _operator, self._zero_point, _scale, _axis, _bias, _both_inputs, _before_activation, _residual,
            _concat_scales, _one_pair, _conv_transpose, _mixed_ranges, self._strong_scale, _normalization, _attention,
        )  # fmt: skip
        for rule in rules:
            for node in self._nodes:
                yield from rule(node)

    def _opset(self) -> Iterator[Finding]:
        found = opset_of(self._model)
        most = next(opset for first, opset in _MAX_OPSETS if self._version >= first)
        if found > most:
            version = ".".join(map(str, self._version))
            yield Finding("T1", "error", "", f"opset {found}, and TensorRT {version} reads up to {most}")

    def _zero_point(self, node: ir.Node) -> Iterator[Finding]:
        if node.op_type not in (_Q, _DQ) or _data_type(node) == "INT32":
            return
        value = node.inputs[2] if len(node.inputs) > 2 else None
        if value is None:
            severity: Literal["error", "advice"] = "error" if self._version < (10, 0) else "advice"
            yield _finding("T3", severity, node, "has no zero point; wanted int8 zeros as third input")
        elif _data_type(node) != "INT8":
            yield _finding("T3", "error", node, f"has integers of the type {_data_type(node)}; wanted INT8")
        else:
            array = constant(value)
            if array is None:
                yield _finding("T3", "error", node, "computes its zero point; wanted constant zeros")
            elif array.any():
                found = array.ravel()[np.flatnonzero(array)[0]]
                yield _finding("T3", "error", node, f"has the zero point {found}; wanted zero, a symmetric grid")

    def _strong_scale(self, node: ir.Node) -> Iterator[Finding]:
        if not self._strongly_typed or node.op_type not in (_Q, _DQ) or node.inputs[1] is None:
            return
        kind = node.inputs[1].dtype
        if kind is not None and kind.name == "FLOAT":
            yield _finding("T14", "error", node, "has an FP32 scale, so that its layers compute in FP32; wanted FP16")


def _finding(rule: str, severity: Literal["error", "advice"], node: ir.Node, said: str) -> Finding:
    return Finding(rule, severity, str(node.name), f"{node.op_type} {node.name} {said}")


def _data_type(node: ir.Node) -> str:
    """Returns the name of the integer type of a Q or DQ node."""
    value = node.outputs[0] if node.op_type == _Q else node.inputs[0]
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    known = next((each.dtype for each in (zero, value) if each is not None and each.dtype is not None), None)
    return known.name if known is not None else "UINT8"


def _is_constant(value: ir.Value | None) -> bool:
    """Returns whether a value is a constant, or the Q/DQ side of one."""
    if value is None:
        return False
    producer = value.producer()
    if producer is not None and producer.op_type in (_Q, _DQ):
        return _is_constant(producer.inputs[0])
    return constant(value) is not None


def _is_quantized(value: ir.Value | None) -> bool:
    """Returns whether a value comes from a DequantizeLinear, looking through what only moves values."""
    producer = value.producer() if value is not None else None
    if producer is None:
        return False
    if producer.op_type == _DQ:
        return True
    moved = [each for each in producer.inputs if each is not None and not _is_constant(each)]
    return moves_values(producer) and bool(moved) and all(map(_is_quantized, moved))


def _scale_of(node: ir.Node) -> np.ndarray | None:
    return constant(node.inputs[1])


def _pair_scale(value: ir.Value | None) -> float | None:
    """Returns the scale of the DequantizeLinear that a value comes from, where it is one number."""
    producer = value.producer() if value is not None else None
    scale = _scale_of(producer) if producer is not None and producer.op_type == _DQ else None
    return float(scale.ravel()[0]) if scale is not None and scale.size == 1 else None


def _readers(value: ir.Value) -> list[ir.Node]:
    return [use.node for use in value.uses()]


def _operator(node: ir.Node) -> Iterator[Finding]:
    if node.domain in ("", "ai.onnx") and node.op_type in _UNSUPPORTED:
        quantized = {"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"}
        wanted = "wanted Q/DQ pairs around a float operator" if node.op_type in quantized else "replace it"
        yield _finding("T2", "error", node, f"is an operator that TensorRT has not; {wanted}")
    elif node.domain == "com.microsoft":
        yield _finding("T2", "error", node, "is an operator of ONNX Runtime alone; export without its optimizations")


def _scale(node: ir.Node) -> Iterator[Finding]:
    if node.op_type not in (_Q, _DQ):
        return
    scale = _scale_of(node)
    if scale is None:
        yield _finding("T4", "error", node, "computes its scale; wanted a constant")
    elif not (np.isfinite(scale).all() and (scale > 0).all()):
        wrong = scale.ravel()[np.flatnonzero(~(np.isfinite(scale) & (scale > 0)))[0]]
        yield _finding("T4", "error", node, f"has the scale {wrong}; wanted a finite number above zero")


def _axis(node: ir.Node) -> Iterator[Finding]:
    if node.op_type not in (_Q, _DQ):
        return
    scale, data = _scale_of(node), node.inputs[0]
    if scale is None or scale.size == 1 or data is None:
        return
    if not _is_constant(data):
        yield _finding("T5", "error", node, f"has {scale.size} scales for an activation; wanted one for the tensor")
        return
    shape = [] if data.shape is None else [dim for dim in data.shape if isinstance(dim, int)]
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
    axis += len(shape) if axis < 0 else 0
    if scale.ndim != 1 or not axis < len(shape) or shape[axis] != scale.size:
        yield _finding("T5", "error", node, f"has {scale.shape} scales on axis {axis} of a weight {tuple(shape)}")
        return
    for layer in _readers(node.outputs[0]):
        wanted = _weight_axis(layer, len(shape))
        if node.op_type == _DQ and wanted is not None and axis != wanted:
            yield _finding("T5", "error", node, f"has its scales on axis {axis}; {layer.op_type} wants axis {wanted}")


def _weight_axis(layer: ir.Node, rank: int) -> int | None:
    if layer.op_type == "Gemm":
        return 0 if "transB" in layer.attributes and layer.attributes["transB"].as_int() else 1
    return {"Conv": 0, "MatMul": rank - 1}.get(layer.op_type)


def _bias(node: ir.Node) -> Iterator[Finding]:
    if node.op_type == _DQ and _data_type(node) == "INT32":
        yield _finding("T6", "error", node, "dequantizes int32, a bias; TensorRT wants biases in float")


def _both_inputs(node: ir.Node) -> Iterator[Finding]:
    if node.op_type not in WEIGHTED_OPS:
        return
    names = ("its input", "its weight") if _is_constant(node.inputs[1]) else ("its first input", "its second input")
    having = [_is_quantized(value) for value in node.inputs[:2]]
    # Integers that were pooled or joined, and then read by a layer in float, are nothing wrong.
    if any(having) and not all(having) and (having[1] or _quantized_value(node.inputs[0]) is not None):
        has, lacks = (names[0], names[1]) if having[0] else (names[1], names[0])
        yield _finding("T7", "error", node, f"has a pair on {has} and none on {lacks}; wanted both, or none for float")


def _before_activation(node: ir.Node) -> Iterator[Finding]:
    if node.op_type not in _ACTIVATIONS or node.inputs[0] is None:
        return
    source = _quantized_value(node.inputs[0])
    layer = source.producer() if source is not None else None
    if layer is not None and layer.op_type in (*WEIGHTED_OPS, "BatchNormalization", "Add"):
        yield _finding("T8", "advice", node, f"follows a pair, so {layer.name} is not fused with it")


def _quantized_value(value: ir.Value | None) -> ir.Value | None:
    """Returns the float tensor that the pair before a value quantizes."""
    dequantize = value.producer() if value is not None else None
    integers = dequantize.inputs[0] if dequantize is not None and dequantize.op_type == _DQ else None
    quantize = integers.producer() if integers is not None else None
    return quantize.inputs[0] if quantize is not None and quantize.op_type == _Q else None


def _residual(node: ir.Node) -> Iterator[Finding]:
    if node.op_type != "Add" or any(_is_constant(value) for value in node.inputs):
        return
    if len({str(value.shape) for value in node.inputs if value is not None}) != 1:
        return
    direct = [_is_int8_layer(value.producer() if value is not None else None) for value in node.inputs]
    paired = [_is_quantized(value) for value in node.inputs]
    if any(direct) and not any(paired):
        yield _finding("T9", "advice", node, "has no pair on the identity, so that its layer writes floats; wanted one")
    behind = [_quantized_value(value) for value in node.inputs]
    wasted = [
        value for value in behind
        if value is not None and _is_int8_layer(value.producer()) and len(value.uses()) == 1
    ]  # fmt: skip
    if all(paired) and wasted:
        layer = wasted[-1].producer()
        named = layer.name if layer is not None else ""
        yield _finding("T9", "advice", node, f"has a pair behind {named}, which could be fused with it; wanted none")


def _is_int8_layer(node: ir.Node | None) -> bool:
    return node is not None and node.op_type in WEIGHTED_OPS and all(map(_is_quantized, node.inputs[:2]))


def _concat_grids(node: ir.Node) -> tuple[list[float], float | None]:
    """Returns the scales of the quantized inputs of a Concat, and that of its output, where it is quantized."""
    if node.op_type != "Concat":
        return [], None
    inputs = [scale for value in node.inputs if (scale := _pair_scale(value)) is not None]
    outputs = [_scale_of(reader) for reader in _readers(node.outputs[0]) if reader.op_type == _Q]
    found = next((float(scale.ravel()[0]) for scale in outputs if scale is not None and scale.size == 1), None)
    return inputs, found


def _concat_scales(node: ir.Node) -> Iterator[Finding]:
    inputs, output = _concat_grids(node)
    scales = {*inputs, *([] if output is None else [output])}
    if len(scales) > 1 and (output is not None or _feeds_int8(node)):
        listed = ", ".join(f"{scale:.4g}" for scale in sorted(scales))
        yield _finding("T10", "advice", node, f"joins grids of the scales {listed}; wanted one for all inputs and it")


def _feeds_int8(node: ir.Node) -> bool:
    return any(_is_int8_layer(reader) for reader in _readers(node.outputs[0]))


def _mixed_ranges(node: ir.Node) -> Iterator[Finding]:
    inputs, output = _concat_grids(node)
    if output is not None and inputs and output > MAX_RANGE_RATIO * min(inputs):
        ratio = output / min(inputs)
        yield _finding(
            "T13",
            "advice",
            node,
            f"is quantized {ratio:.0f} times coarser than an input of it; keep its reader in float",
        )


def _one_pair(node: ir.Node) -> Iterator[Finding]:
    if node.op_type == _Q and node.inputs[0] is not None:
        for reader in _readers(node.outputs[0]):
            if reader.op_type != _DQ:
                yield _finding("T11", "error", node, f"is read by {reader.op_type} {reader.name}; wanted a {_DQ}")
            elif not _same(_scale_of(node), _scale_of(reader)):
                yield _finding("T11", "error", node, f"and {reader.name} have different scales; wanted one")
        others = [each for each in _readers(node.inputs[0]) if each.op_type == _Q and each is not node]
        if others and constant(node.inputs[0]) is None and str(node.name) < min(str(each.name) for each in others):
            yield _finding("T11", "advice", node, f"and {others[0].name} quantize one tensor; wanted one pair for all")
        again = node.inputs[0].producer()
        if again is not None and again.op_type == _DQ:
            yield _finding("T11", "advice", node, f"quantizes again what {again.name} has dequantized; wanted one pair")


def _same(first: np.ndarray | None, second: np.ndarray | None) -> bool:
    return first is None or second is None or np.array_equal(first.ravel(), second.ravel())


def _normalization(node: ir.Node) -> Iterator[Finding]:
    yield from (_finding("T15", "advice", node, said) for said in normalization(node, _is_quantized))


def _attention(node: ir.Node) -> Iterator[Finding]:
    yield from (_finding("T16", "advice", node, said) for said in attention(node, _is_quantized))


def _conv_transpose(node: ir.Node) -> Iterator[Finding]:
    if node.op_type != "ConvTranspose" or node.inputs[1] is None:
        return
    producer = node.inputs[1].producer()
    scale = _scale_of(producer) if producer is not None and producer.op_type == _DQ else None
    if scale is not None and scale.size > 1:
        yield _finding("T12", "error", node, f"has {scale.size} scales for its weight; wanted one")
