"""Small graphs, one for each rule and placement that `edgeq check` knows: the compiler's verdict on each is recorded.

`python -m tests.exporting.tensorrt.small_graphs` compiles them with TensorRT for RTX for SM86 and writes
`tests/data/trt_rtx_graphs.json`: run it when a new version of the library appears, and read the difference.

A graph leads from `x` of 32 channels to `y`, typed FP16 with FP16 scales as strong typing wants, unless it says so.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgeq.files import write_json
from edgeq.results.compilation import Compilation
from edgeq.runtimes.tensorrt.compile import DEFAULT_SM, Compiler
from edgeq.verbs.check_compile import compile_file
from tests.exporting.nets import normal

RECORDED = Path(__file__).parents[2] / "data" / "trt_rtx_graphs.json"
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")

CONSTANTS: dict[str, np.ndarray] = {
    "s": np.array(0.1),
    "t": np.array(0.3),
    "coarse": np.array(3.0),
    "zero": np.array(0.0),
    "infinite": np.array(np.inf),
    "channels": np.full(32, 0.1),
    "ws": np.full(32, 0.01),
    "few": np.full(4, 0.01),
    "w": normal(1, 32, 32, 3, 3),
    "p": normal(2, 32, 32, 1, 1),
    "depthwise": normal(3, 32, 1, 3, 3),
    "grouped": normal(4, 32, 8, 3, 3),
    "b": normal(5, 32),
    "wide": normal(6, 32, 64, 1, 1),
    "dw": normal(7, 32, 32, 2, 2),
    "deep": normal(8, 128, 32, 3, 3),
    "deep_s": np.full(128, 0.01),
    "after": normal(9, 32, 8, 1, 1),
    "m": normal(10, 32, 32),
    "many": normal(11, 32, 128, 1, 1),
    "unit": np.ones(32),
    "low": np.array(0.0),
    "high": np.array(6.0),
    "d": np.array(4.0),
    "half": np.array(0.5),
    "blocks": np.full((2, 32), 0.01),
    "deform": normal(12, 32, 32, 3, 3),
}
"""Floats, in the type of the graph."""

INTEGERS: dict[str, np.ndarray] = {
    "z": np.array(0, np.int8),
    "z5": np.array(5, np.int8),
    "u": np.array(0, np.uint8),
    "u128": np.array(128, np.uint8),
    "wz": np.zeros(32, np.int8),
    "fz": np.zeros(4, np.int8),
    "dz": np.zeros(128, np.int8),
    "wu": np.zeros(32, np.uint8),
    "w8": np.arange(32 * 32 * 9, dtype=np.int64).reshape(32, 32, 3, 3).astype(np.int8),
    "m8": np.arange(32 * 32, dtype=np.int64).reshape(32, 32).astype(np.int8),
    "b32": np.arange(32, dtype=np.int32),
    "rows": np.array([0, 0, -1]),
    "begin": np.array([0, 0]),
    "end": np.array([8, 8]),
    "axes": np.array([2, 3]),
    "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "halves": np.array([16, 16]),
    "order": np.arange(31, -1, -1),
    "twice": np.array([1, 32, 32, 32]),
    "same": np.array([1, 32, 16, 16]),
    "flat": np.array([1, 32, 256, 1]),
    "one_axis": np.array([0]),
}


@dataclass(frozen=True)
class SmallGraph:
    """A graph and where it comes from.

    Attributes:
        rule: The rule that it is about; empty where it is about what counts as INT8.
        body: Its nodes, in ONNX's text form.
        opset: Its opset.
        dtype: Its type, `float16` or `float`.
        inputs: Its inputs without their type.
        int4: Names of `INTEGERS` that are stored in INT4.
    """

    rule: str
    body: str
    opset: int = 21
    dtype: str = "float16"
    inputs: str = "[1,32,16,16] x"
    int4: tuple[str, ...] = field(default=())

    def model(self) -> onnx.ModelProto:
        """Returns the graph as a model."""
        inputs = ", ".join(f"{self.dtype}{each}" for each in self.inputs.split("; "))
        text = f"""<ir_version: 10, opset_import: ["" : {self.opset}, "com.microsoft" : 1]>
            g ({inputs}) => ({self.dtype} y) {{ {self.body} }}"""
        proto = onnx.parser.parse_model(text)
        used = {name for node in proto.graph.node for name in node.input}
        kind = np.float16 if self.dtype == "float16" else np.float32
        for name in sorted(used):
            if name in CONSTANTS:
                proto.graph.initializer.append(onnx.numpy_helper.from_array(CONSTANTS[name].astype(kind), name))
            elif name in self.int4:
                proto.graph.initializer.append(_int4(name))
            elif name in INTEGERS:
                proto.graph.initializer.append(onnx.numpy_helper.from_array(INTEGERS[name], name))
        for index, node in enumerate(proto.graph.node):
            node.name = node.name or f"{node.op_type}_{index}"
        return proto


def _int4(name: str) -> onnx.TensorProto:
    values = INTEGERS[name] % 16 - 8
    return onnx.helper.make_tensor(name, onnx.TensorProto.INT4, values.shape, values.ravel().tolist())


def pair(source: str, result: str, scale: str = "s", zero: str = "z", attributes: str = "") -> str:
    """Returns the text of a Q/DQ pair."""
    return (
        f"{result}_q = QuantizeLinear{attributes}({source}, {scale}, {zero}) "
        f"{result} = DequantizeLinear{attributes}({result}_q, {scale}, {zero})"
    )


def weight(name: str, scale: str = "ws", zero: str = "wz", axis: int = 0) -> str:
    """Returns the text of the pair of a weight, whose result has a `d` behind its name."""
    return pair(name, f"{name}d", scale, zero, f"<axis={axis}>" if scale in ("ws", "few", "deep_s") else "")


X = pair("x", "xd")
W = weight("w")
PADS = "<pads=[1,1,1,1]>"
CONV = f"y = Conv{PADS}(xd, wd, b)"


def _behind(move: str, conv: str = CONV.replace("xd", "moved")) -> str:
    return f"{X} {W} {move} {conv}"


def _attention(paired: str = "qkavo", scaled: bool = False, moved: bool = False) -> str:
    """Returns an attention with pairs at some of the five places."""
    name = {place: f"{place}8" if place in paired else place for place in "qkav"}
    parts = [pair(place, f"{place}8") for place in "qkv" if place in paired]
    parts.append(f"l = MatMul({name['q']}, {name['k']})")
    parts.append("c = Div(l, d) a = Softmax(c)" if scaled else "a = Softmax(l)")
    if "a" in paired:
        parts.append(pair("a", "a8"))
    parts.append(f"o = MatMul({name['a']}, {name['v']})")
    if moved:
        parts.append("o1 = Transpose<perm=[0,2,1,3]>(o)")
    if "o" in paired:
        parts.append(pair("o1" if moved else "o", "o8"))
    end = "o8" if "o" in paired else "o1" if moved else "o"
    return " ".join([*parts, f"y = Relu({end})"])


def _attention_inputs(tokens: int = 64, head: int = 64, queries: int | None = None) -> str:
    return f"[1,4,{queries or tokens},{head}] q; [1,4,{head},{tokens}] k; [1,4,{tokens},{head}] v"


def _refused(body: str, opset: int = 21) -> SmallGraph:
    return SmallGraph("T2", body, opset=opset, dtype="float")


def _graphs() -> dict[str, SmallGraph]:
    plain = {
        "conv": f"{X} {W} {CONV}",
        "conv, Relu": f"{X} {W} c = Conv{PADS}(xd, wd, b) y = Relu(c)",
        "conv, one weight scale": f"{X} {weight('w', 's', 'z')} {CONV}",
        "conv, int8 weight": f"{X} wd = DequantizeLinear<axis=0>(w8, ws, wz) {CONV}",
        "conv 1x1": f"{X} {weight('p')} y = Conv(xd, pd)",
        "conv, depthwise": f"{X} {weight('depthwise')} y = Conv<pads=[1,1,1,1], group=32>(xd, depthwised)",
        "conv, groups": f"{X} {weight('grouped')} y = Conv<pads=[1,1,1,1], group=4>(xd, groupedd)",
        "conv, stride 2": f"{X} {W} y = Conv<pads=[1,1,1,1], strides=[2,2]>(xd, wd)",
        "conv, dilation 2": f"{X} {W} y = Conv<pads=[2,2,2,2], dilations=[2,2]>(xd, wd)",
        "conv in float": f"y = Conv{PADS}(x, w, b)",
        "conv behind Sigmoid and Mul": (
            f"{X} {W} c = Conv{PADS}(xd, wd, b) g = Sigmoid(c) a = Mul(c, g) {pair('a', 'ad')} y = Conv{PADS}(ad, wd)"
        ),
    }
    graphs = {name: SmallGraph("", body) for name, body in plain.items()}
    flat = "[64,32] x"
    graphs |= {
        "matmul": SmallGraph("", f"{X} {weight('m', axis=1)} y = MatMul(xd, md)", inputs=flat),
        "matmul, bias": SmallGraph("", f"{X} {weight('m', axis=1)} c = MatMul(xd, md) y = Add(c, b)", inputs=flat),
        "gemm, transB": SmallGraph("", f"{X} {weight('m')} y = Gemm<transB=1>(xd, md, b)", inputs=flat),
        "gemm": SmallGraph("", f"{X} {weight('m', axis=1)} y = Gemm(xd, md, b)", inputs=flat),
        "matmul in float": SmallGraph("", "y = MatMul(x, m)", inputs=flat),
        "matmul of two activations": SmallGraph(
            "", f"{pair('q', 'q8')} {pair('k', 'k8')} y = MatMul(q8, k8)", inputs="[4,64,32] q; [4,32,64] k"
        ),
        "FP32 scales, conv": SmallGraph("T14", f"{X} {W} {CONV}", opset=17, dtype="float"),
        "FP32 scales, gemm": SmallGraph(
            "T14", f"{X} {weight('m')} y = Gemm<transB=1>(xd, md, b)", opset=17, dtype="float", inputs=flat
        ),
        "FP32 scales, matmul": SmallGraph(
            "T14", f"{X} {weight('m', axis=1)} y = MatMul(xd, md)", opset=17, dtype="float", inputs=flat
        ),
    }
    for opset in (13, 17, 19, 20, 22, 23, 24, 25, 26):
        graphs[f"opset {opset}"] = SmallGraph("T1", f"{X} {W} {CONV}", opset=opset, dtype="float")
    graphs |= {
        "QLinearConv": _refused(
            "q = QuantizeLinear(x, s, z) c = QLinearConv(q, s, z, w8, s, z, s, z) y = DequantizeLinear(c, s, z)"
        ),
        "ConvInteger": _refused("q = QuantizeLinear(x, s, z) c = ConvInteger(q, w8, z, z) y = Cast<to=1>(c)"),
        "MatMulInteger": _refused("q = QuantizeLinear(x, s, z) c = MatMulInteger(q, q, z, z) y = Cast<to=1>(c)"),
        "DynamicQuantizeLinear": _refused("q, u0, v0 = DynamicQuantizeLinear(x) y = DequantizeLinear(q, u0, v0)"),
        "com.microsoft.Gelu": _refused("y = com.microsoft.Gelu(x)"),
        "Det": _refused("y = Det(x)"),
        "DFT": _refused("t0 = Unsqueeze(x, end1) r = DFT<onesided=1>(t0) y = Relu(r)", 17),
        "BitwiseAnd": _refused("i = Cast<to=6>(x) j = BitwiseAnd(i, i) y = Cast<to=1>(j)"),
        "Compress": _refused("k0 = Cast<to=9>(one_axis) y = Compress<axis=0>(x, k0)"),
        "MaxRoiPool": _refused("y = MaxRoiPool<pooled_shape=[2,2]>(x, boxes)"),
        "Unique": _refused("y = Unique(x)"),
        "AffineGrid": _refused("y = AffineGrid(turn, turned)"),
        "DeformConv": _refused(
            "o = Conv(x, offsets) y = DeformConv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, deform, o)", 22
        ),
        "BitCast": _refused("i = BitCast<to=6>(x) j = Abs(i) y = Cast<to=1>(j)", 26),
        "CumProd": _refused("y = CumProd(x, one_axis0)", 26),
    }
    graphs |= {
        "zero point 5": SmallGraph("T3", f"{pair('x', 'xd', 's', 'z5')} {W} {CONV}"),
        "uint8, zero point 128": SmallGraph("T3", f"{pair('x', 'xd', 's', 'u128')} {W} {CONV}"),
        "uint8, zero point 0": SmallGraph("T3", f"{pair('x', 'xd', 's', 'u')} {W} {CONV}"),
        "uint8 weight, zero point 0": SmallGraph("T3", f"{X} {weight('w', 'ws', 'wu')} {CONV}"),
        "no zero point": SmallGraph(
            "T3", f"q = QuantizeLinear<output_dtype=3>(x, s) xd = DequantizeLinear(q, s) {W} {CONV}"
        ),
        "scale 0": SmallGraph("T4", f"{pair('x', 'xd', 'zero')} {W} {CONV}"),
        "scale infinite": SmallGraph("T4", f"{pair('x', 'xd', 'infinite')} {W} {CONV}"),
        "scale computed": SmallGraph(
            "T4", f"k = Relu(x) r = ReduceMax<keepdims=0>(k) {pair('x', 'xd', 'r')} {W} {CONV}"
        ),
        "activation, scale per channel": SmallGraph(
            "T5", f"{pair('x', 'xd', 'channels', 'wz', '<axis=1>')} {W} {CONV}"
        ),
        "weight scales on axis 1": SmallGraph("T5", f"{X} {weight('w', axis=1)} {CONV}"),
        "weight scales of another number": SmallGraph("T5", f"{X} {weight('w', 'few', 'fz')} {CONV}"),
        "matmul, weight scales on axis 0": SmallGraph("T5", f"{X} {weight('m')} y = MatMul(xd, md)", inputs=flat),
        "int32 bias": SmallGraph("T6", f"{X} {W} bd = DequantizeLinear<axis=0>(b32, ws) y = Conv{PADS}(xd, wd, bd)"),
        "pair on the input alone": SmallGraph("T7", f"{X} y = Conv{PADS}(xd, w, b)"),
        "pair on the weight alone": SmallGraph("T7", f"{W} y = Conv{PADS}(x, wd, b)"),
        "matmul, pair on the input alone": SmallGraph("T7", f"{X} y = MatMul(xd, m)", inputs=flat),
        "matmul of activations, pair on one": SmallGraph(
            "T7", f"{pair('q', 'q8')} y = MatMul(q8, k)", inputs="[4,64,32] q; [4,32,64] k"
        ),
        "Identity behind the pair": SmallGraph("T7", _behind("moved = Identity(xd)")),
        "Identity behind the weight's pair": SmallGraph("T7", f"{X} {W} i = Identity(wd) y = Conv{PADS}(xd, i, b)"),
        "Relu behind the pair": SmallGraph("T7", _behind("moved = Relu(xd)")),
        "Clip behind the pair": SmallGraph("T7", _behind("moved = Clip(xd, low, high)")),
        "AveragePool behind the pair": SmallGraph("T7", _behind("moved = AveragePool<kernel_shape=[2,2]>(xd)")),
        "GlobalAveragePool behind the pair": SmallGraph("T7", _behind("moved = GlobalAveragePool(xd)")),
        "matmul, int8 weight alone": SmallGraph(
            "T7", "md = DequantizeLinear<axis=1>(m8, ws) y = MatMul(x, md)", inputs=flat
        ),
        "matmul, pair on the weight alone": SmallGraph("T7", f"{weight('m', axis=1)} y = MatMul(x, md)", inputs=flat),
        "gemm, int8 weight alone": SmallGraph(
            "T7", "md = DequantizeLinear<axis=0>(m8, ws) y = Gemm<transB=1>(x, md)", inputs=flat
        ),
        "conv, int8 weight alone": SmallGraph("T7", f"wd = DequantizeLinear<axis=0>(w8, ws) y = Conv{PADS}(x, wd, b)"),
        "matmul, int4 weight alone": SmallGraph(
            "T7", "md = DequantizeLinear<axis=1>(m8, ws) y = MatMul(x, md)", inputs=flat, int4=("m8",)
        ),
        "matmul, int4 weight in blocks": SmallGraph(
            "T7",
            "md = DequantizeLinear<axis=0, block_size=16>(m8, blocks) y = MatMul(x, md)",
            inputs=flat,
            int4=("m8",),
        ),
        "gemm, int4 weight in blocks": SmallGraph(
            "T7", "md = DequantizeLinear<axis=0, block_size=16>(m8, blocks) y = Gemm(x, md)", inputs=flat, int4=("m8",)
        ),
    }
    moves = {
        "Transpose": "moved = Transpose<perm=[0,1,3,2]>(xd)",
        "Reshape": "f = Reshape(xd, flat) moved = Reshape(f, same)",
        "Flatten": "f = Flatten<axis=2>(xd) moved = Reshape(f, same)",
        "Slice": "moved = Slice(xd, begin, end, axes)",
        "Pad": "moved = Pad(xd, pads)",
        "Split": "l, r = Split<axis=1>(xd, halves) moved = Concat<axis=1>(r, l)",
        "Gather": "moved = Gather<axis=1>(xd, order)",
        "MaxPool": "moved = MaxPool<kernel_shape=[2,2], strides=[2,2]>(xd)",
        "Expand": "e = Expand(xd, twice0) moved = Identity(e)",
        "Unsqueeze": "e = Unsqueeze(xd, one_axis) moved = Squeeze(e, one_axis)",
        "Resize, nearest": 'moved = Resize<mode="nearest">(xd, , , twice)',
        "Resize, linear": 'moved = Resize<mode="linear">(xd, , , twice)',
        "Resize, nearest, pair behind": f'e = Resize<mode="nearest">(x, , , twice) {pair("e", "moved")}',
        "Resize, nearest, pairs on both sides": f'e = Resize<mode="nearest">(xd, , , twice) {pair("e", "moved")}',
    }
    graphs |= {f"move: {name}": SmallGraph("", _behind(body)) for name, body in moves.items()}
    graphs["move: DepthToSpace"] = SmallGraph(
        "", f"{X} {weight('after')} moved = DepthToSpace<blocksize=2>(xd) y = Conv(moved, afterd)"
    )
    graphs["move: SpaceToDepth"] = SmallGraph(
        "", f"{X} {weight('many')} moved = SpaceToDepth<blocksize=2>(xd) y = Conv(moved, manyd)"
    )
    graphs["move: Concat of one grid"] = SmallGraph(
        "T10", f"{X} r = Relu(x) {pair('r', 'rd')} {weight('wide')} j = Concat<axis=1>(xd, rd) y = Conv(j, wided)"
    )
    graphs["Concat of two grids"] = SmallGraph(
        "T10", f"{X} r = Relu(x) {pair('r', 'rd', 't')} {weight('wide')} j = Concat<axis=1>(xd, rd) y = Conv(j, wided)"
    )
    behind = f"j = Concat<axis=1>(xd, rd) {pair('j', 'jd', 't')} y = Conv(jd, wided)"
    graphs["Concat of two grids, pair behind"] = SmallGraph(
        "T10", f"{X} r = Relu(x) {pair('r', 'rd', 't')} {weight('wide')} {behind}"
    )
    graphs["Concat, coarse pair behind"] = SmallGraph(
        "T13", f"{X} r = Relu(x) {pair('r', 'rd', 'coarse')} {weight('wide')} {behind.replace(', t,', ', coarse,')}"
    )
    conv = f"c = Conv{PADS}(xd, wd, b)"
    graphs |= {
        "pair before the Relu": SmallGraph("T8", f"{X} {W} {conv} {pair('c', 'cd')} y = Relu(cd)"),
        "residual, pair on the identity": SmallGraph("T9", f"{X} {W} {conv} y = Add(c, xd)"),
        "residual, no pair": SmallGraph("T9", f"{X} {W} {conv} y = Add(c, x)"),
        "residual, both pairs": SmallGraph("T9", f"{X} {W} {conv} {pair('c', 'cd')} y = Add(cd, xd)"),
        "scales of Q and DQ differ": SmallGraph(
            "T11", f"q = QuantizeLinear(x, s, z) xd = DequantizeLinear(q, t, z) {W} {CONV}"
        ),
        "two pairs in a row": SmallGraph("T11", f"{X} {pair('xd', 'moved')} {W} {CONV.replace('xd', 'moved')}"),
        "one tensor, two pairs": SmallGraph(
            "T11", f"{X} {pair('x', 'x2')} {W} {weight('p')} {conv} e = Conv(x2, pd) y = Add(c, e)"
        ),
        "two equal layers": SmallGraph("T11", f"{X} {W} {conv} e = Conv{PADS}(xd, wd) y = Add(c, e)"),
        "ConvTranspose": SmallGraph("T12", f"{X} {weight('dw', 's', 'z')} y = ConvTranspose<strides=[2,2]>(xd, dwd)"),
        "ConvTranspose, scales on axis 0": SmallGraph(
            "T12", f"{X} {weight('dw')} y = ConvTranspose<strides=[2,2]>(xd, dwd)"
        ),
        "ConvTranspose, scales on axis 1": SmallGraph(
            "T12", f"{X} {weight('dw', axis=1)} y = ConvTranspose<strides=[2,2]>(xd, dwd)"
        ),
        "ConvTranspose, stride 1": SmallGraph("T12", f"{X} {weight('w', 's', 'z')} y = ConvTranspose(xd, wd)"),
        "ConvTranspose, depthwise": SmallGraph(
            "T12", f"{X} {weight('depthwise', 's', 'z')} y = ConvTranspose<group=32>(xd, depthwised)"
        ),
        "ConvTranspose in float": SmallGraph("T12", "y = ConvTranspose<strides=[2,2]>(x, dw)"),
        "Conv and DepthToSpace": SmallGraph(
            "T12",
            f"{X} {weight('deep', 'deep_s', 'dz')} c = Conv{PADS}(xd, deepd) y = DepthToSpace<blocksize=2>(c)",
        ),
        "LayerNormalization of integers": SmallGraph("T15", f"{X} y = LayerNormalization(xd, unit, b)", inputs=flat),
        "Softmax of integers": SmallGraph("T15", f"{X} y = Softmax(xd)", inputs=flat),
    }
    for head in (8, 16, 20, 32, 48, 64, 96, 128, 256):
        graphs[f"attention, heads of {head}"] = SmallGraph("T16", _attention(), inputs=_attention_inputs(head=head))
    for tokens in (512, 513):
        graphs[f"attention, {tokens} tokens"] = SmallGraph("T16", _attention(), inputs=_attention_inputs(tokens))
    for places in ("", "qk", "qkv", "qkav", "qkvo", "av"):
        name = f"attention, pairs at {places or 'no place'}"
        graphs[name] = SmallGraph("T16", _attention(places), inputs=_attention_inputs())
    graphs |= {
        "attention, scaled behind": SmallGraph("T16", _attention(scaled=True), inputs=_attention_inputs()),
        "attention, last pair behind Transpose": SmallGraph("T16", _attention(moved=True), inputs=_attention_inputs()),
        "attention of one query": SmallGraph("T16", _attention(), inputs=_attention_inputs(queries=1)),
        "attention of one query, FP32": SmallGraph(
            "T16", _attention(), dtype="float", inputs=_attention_inputs(queries=1)
        ),
        "attention, FP32": SmallGraph("T16", _attention(), dtype="float", inputs=_attention_inputs()),
        "attention in float, FP32": SmallGraph("T16", _attention(""), dtype="float", inputs=_attention_inputs()),
    }
    return graphs


INTEGERS |= {
    "turned": np.array([1, 1, 4, 4]),
    "end1": np.array([4]),
    "one_axis0": np.array(1),
    "twice0": np.array([1, 32, 16, 16]),
}
CONSTANTS["offsets"] = normal(13, 18, 32, 1, 1)
CONSTANTS["turn"] = np.ones((1, 2, 3))
CONSTANTS["boxes"] = np.zeros((1, 5))

GRAPHS = _graphs()


def compile_graphs(names: Iterable[str] = ()) -> dict[str, Compilation]:
    """Returns what the compiler makes of some graphs, or all, in one child process."""
    found = {}
    with tempfile.TemporaryDirectory() as folder, Compiler() as compiler:
        path = Path(folder) / "small.onnx"
        for name in names or GRAPHS:
            onnx.save(GRAPHS[name].model(), path)
            found[name] = compile_file(path, compiler)
    return found


def verdict(compiled: Compilation) -> dict[str, Any]:
    """Returns what is recorded of a graph: who refused it, the types of its layers, and attentions that are fused."""
    if not compiled.is_built:
        return {"stage": compiled.stage}
    layers = {each.node: each.compiled for each in compiled.nodes}
    fused = dict(compiled.fused_attention)
    return {"stage": "built", "layers": layers} | ({"fused_attention": fused} if fused else {})


def recorded() -> dict[str, Any]:
    """Returns what was recorded."""
    found: dict[str, Any] = json.loads(RECORDED.read_text())
    return found


def main() -> None:
    """Records the compiler's verdicts."""
    compiled = compile_graphs()
    libraries = {each.library for each in compiled.values() if each.is_built}
    graphs = {name: verdict(each) for name, each in compiled.items()}
    write_json(RECORDED, {"library": ", ".join(sorted(libraries)), "sm": DEFAULT_SM.lower(), "graphs": graphs})


if __name__ == "__main__":
    main()
