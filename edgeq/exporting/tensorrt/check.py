"""Checks a Q/DQ graph, ours or another tool's, against what TensorRT reads and what it runs fast.

Rules, by number. An error is what TensorRT refuses, or computes otherwise than the file says; advice is what costs
speed or accuracy. "Advice" behind an error is what strong typing, the only one from TensorRT 11 on, makes of it.
Sources: the ONNX parser of TensorRT 8.6 and 10.1, its operator list of 10.15, NVIDIA's guide to placing Q/DQ layers,
and for strong typing the parser and builder of TensorRT for RTX 1.7, whose verdict on a graph for each rule is recorded
(tests/data/trt_rtx_graphs.json).

- T1 (error): the opset is one that the version reads.
- T2 (error): every operator is one that TensorRT has.
- T3 (error): zero points are there (advice from TensorRT 10 on), int8 and all zero; uint8 zeros are advice, and so are
  FP8 and FP4 under strong typing.
- T4 (error): scales are constant, finite and above zero.
- T5 (error): only weights have a scale for each channel: the output channels, one scale for each. Strong typing makes
  advice of another axis, and of an activation's channels.
- T6 (error): biases are float; a DequantizeLinear takes no int32.
- T7 (error): a weighted layer has a pair on both inputs, or on none; strong typing also takes a MatMul or Gemm whose
  weight alone is stored in INT8, INT4 or FP4, and computes other one-sided pairs in float: advice.
- T8 (advice): no pair stands between a layer and its ReLU.
- T9 (advice): of the inputs of a residual Add, the identity has a pair and the layer that is fused with the Add none.
- T10 (advice): the inputs of a Concat share one scale, that of its output.
- T11 (error): a QuantizeLinear and its DequantizeLinear have one scale, and nothing else reads the integers; (advice) a
  tensor that is computed has one pair; what engines fold, a weight of several layers, may have one for each.
- T12 (error): ConvTranspose has one scale for the weight; engines and exporters disagree about the channel's axis.
  Under strong typing it is computed in float, whatever its pairs: advice. So is an FP8 Conv of more than 32 positions.
- T13 (advice): no input of a Concat is quantized on a grid that is many times coarser than its own.
- T14 (error): under strong typing scales are FP16; FP32 ones make every layer between them FP32. Between convolutions
  alone it is advice.
- T15 (advice): normalisations and Softmax read floats.
- T16 (advice): an attention in INT8 has all the pairs, the shape and the scale that the fused kernel wants, or none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeq.errors import InputError
from edgeq.exporting.graphs.float4 import FLOAT4
from edgeq.exporting.graphs.graph import WEIGHTED_OPS, infer_shapes, opset_of
from edgeq.exporting.tensorrt import check_layers, check_pairs
from edgeq.exporting.tensorrt.findings import Builder, Finding, Version, finding
from edgeq.exporting.tensorrt.qdq import DQ, FP8, LayerKind, Q, data_type

if TYPE_CHECKING:
    import onnx_ir as ir

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
        "AffineGrid", "Bernoulli", "BitCast", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor",
        "CenterCropPad", "Col2Im", "Compress", "ConcatFromSequence", "ConvInteger", "CumProd", "DFT", "DeformConv",
        "Det", "DynamicQuantizeLinear", "ImageDecoder", "MatMulInteger", "MaxRoiPool", "MaxUnpool", "MelWeightMatrix",
        "Multinomial",
        "NegativeLogLikelihoodLoss", "Optional", "OptionalGetElement", "OptionalHasElement", "QLinearConv",
        "QLinearMatMul", "RegexFullMatch", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase",
        "SequenceInsert", "SequenceLength", "SequenceMap", "SoftmaxCrossEntropyLoss", "SplitToSequence",
        "StringConcat", "StringNormalizer", "StringSplit", "SwiGLU", "TfIdfVectorizer", "Unique",
    }
)  # fmt: skip
# The narrowest first: what computes it computes the others too.
_FIRST_GPUS = {FLOAT4: ("FP4", "SM120"), FP8: ("FP8", "SM89")}
# The parser does not look at the domain.
_READ_AS_ONNX = frozenset({"Gelu"})


@dataclass(frozen=True)
class Checked:
    """What a check found.

    Attributes:
        findings: In the order of the rules.
        int8_layers: Names of the weighted layers that multiply integers.
        float_layers: Names of those that multiply floats.
        weight_layers: Names of those among them whose weight is stored in INT8 or INT4 (strong typing).
        fp8_layers: Names of the weighted layers that multiply FP8.
    """

    findings: tuple[Finding, ...]
    int8_layers: tuple[str, ...]
    float_layers: tuple[str, ...]
    weight_layers: tuple[str, ...] = ()
    fp8_layers: tuple[str, ...] = ()

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
    builder = Builder(version, strongly_typed or version[0] >= STRONG_TYPING_ONLY)
    kinds = {str(node.name): builder.pairs.kind(node) for node in model.graph if node.op_type in WEIGHTED_OPS}

    def of_kind(*wanted: LayerKind) -> tuple[str, ...]:
        return tuple(name for name, kind in kinds.items() if kind in wanted)

    return Checked(
        tuple(_findings(model, builder)),
        int8_layers=of_kind("int8"),
        float_layers=of_kind("float", "weights"),
        weight_layers=of_kind("weights"),
        fp8_layers=of_kind("fp8"),
    )


def _findings(model: ir.Model, builder: Builder) -> Iterator[Finding]:
    yield from _opset(model, builder)
    yield from _narrow_floats(model, builder)
    for rule in _RULES:
        for node in model.graph:
            yield from rule(node, builder)


def _opset(model: ir.Model, builder: Builder) -> Iterator[Finding]:
    found = opset_of(model)
    most = next(opset for first, opset in _MAX_OPSETS if builder.version >= first)
    if found > most:
        version = ".".join(map(str, builder.version))
        yield Finding("T1", "error", "", f"opset {found}, and TensorRT {version} reads up to {most}")


def _narrow_floats(model: ir.Model, builder: Builder) -> Iterator[Finding]:
    """Yields which GPUs compute the narrowest floats of a graph (T3)."""
    found = _narrowest_floats(model)
    if builder.strongly_typed and found is not None:
        node, name, first = found
        yield finding("T3", "advice", node, f"is in {name}, which GPUs from {first} on compute: no Jetson Orin does")


def first_gpu(model: ir.Model) -> str | None:
    """Returns the first kind of GPU that computes a graph's FP8 or FP4, `SM89` for example; `None` without them."""
    found = _narrowest_floats(model)
    return None if found is None else found[2]


def _narrowest_floats(model: ir.Model) -> tuple[ir.Node, str, str] | None:
    """Returns the first pair of a graph's narrowest floats, their name, and the first kind of GPU that has them."""
    pairs = {data_type(node): node for node in reversed(model.graph) if node.op_type in (Q, DQ)}
    kind = next((kind for kind in _FIRST_GPUS if kind in pairs), None)
    return None if kind is None else (pairs[kind], *_FIRST_GPUS[kind])


def _operator(node: ir.Node, builder: Builder) -> Iterator[Finding]:
    if node.domain in ("", "ai.onnx") and node.op_type in _UNSUPPORTED:
        quantized = {"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"}
        wanted = "wanted Q/DQ pairs around a float operator" if node.op_type in quantized else "replace it"
        yield finding("T2", "error", node, f"is an operator that TensorRT has not; {wanted}")
    elif node.domain == "com.microsoft" and node.op_type in _READ_AS_ONNX and builder.strongly_typed:
        yield finding("T2", "advice", node, "is an operator of ONNX Runtime, read as ONNX's; export it as that")
    elif node.domain == "com.microsoft":
        yield finding("T2", "error", node, "is an operator of ONNX Runtime alone; export without its optimizations")


_RULES: tuple[Callable[[ir.Node, Builder], Iterator[Finding]], ...] = (
    _operator, check_pairs.zero_point, check_pairs.scale, check_pairs.axis, check_pairs.bias, check_layers.both_inputs,
    check_layers.before_activation, check_layers.residual, check_layers.concat_scales, check_pairs.one_pair,
    check_layers.conv_transpose, check_layers.large_kernel, check_layers.mixed_ranges, check_pairs.strong_scale,
    check_layers.normalization, check_layers.attention,
)  # fmt: skip
