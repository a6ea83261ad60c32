"""A net in which the converter has to make every rewrite that leaves TFLite tensors without an ONNX tensor's values."""

from __future__ import annotations

import functools
import re
import zlib

import numpy as np
import onnx_ir as ir

from edgeq.exporting.artifact import Preprocessing
from edgeq.exporting.graphs.graph import infer_shapes
from edgeq.exporting.onnx.writer import FloatModel
from edgeq.exporting.tflite.onnx_module import onnx_to_torch
from edgeq.exporting.tflite.writer import TfliteModel
from tests import tflite_nets
from tests.exporting import nets

SIZE = 16

BRANCHES = {
    "padded": "pn = Constant<value_ints = [0,0,1,1,0,0,1,1]>() p = Pad(x, pn, three) padded = Conv(p, W3_p)",
    "pooled": "m0 = Conv<pads=[1,1,1,1]>(x, W3_m) "
    "m = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(m0) pooled = Conv(m, W8_m)",
    "clipped": "s0 = Conv<pads=[1,1,1,1]>(x, W3_s, B_s) s = Clip(s0, zero, top) clipped = Conv(s, W8_s)",
    "swish": "h0 = Conv<pads=[1,1,1,1]>(x, W3_h) h1 = Add(h0, three) h2 = Clip(h1, zero, six) h3 = Mul(h0, h2) "
    "h = Div(h3, six) swish = Conv(h, W8_h)",
    "scaled": "a0 = Conv(e, W8_a, B_a) a1 = Mul(a0, fifth) a2 = Add(a1, half) a3 = Clip(a2, zero, one) a = Mul(e, a3) "
    "scaled = Conv(a, W8_b)",
    "grouped": "g = Conv<group=2, pads=[1,1,1,1]>(e, WG_g, B_g) grouped = Conv(g, W8_g)",
    "deep": "d = Conv<group=8, pads=[1,1,1,1]>(e, WD_d) deep = Conv(d, W16_d)",
    "upscaled": "t = ConvTranspose<group=2, strides=[2,2], kernel_shape=[2,2]>(e, WT_t) upscaled = Conv(t, W8_t)",
    "last": "l0 = Conv<group=8, pads=[1,1,1,1]>(e, WD_l) l = Conv(l0, W8_l) l1 = Transpose<perm=[0,2,3,1]>(l) "
    "l2 = Constant<value_ints = [1,-1,8]>() last = Reshape(l1, l2)",
    "first": "n0 = Conv(e, W8_n) n2 = Constant<value_ints = [1,8,-1]>() first = Reshape(n0, n2)",
    "shuffled": "u0, u1 = Split<axis=1, num_outputs=2>(e) u = Concat<axis=1>(u1, u0) shuffled = Conv(u, W8_u)",
    "spread": "q0 = Conv(e, W8_q) q = DepthToSpace<blocksize=2>(q0) spread = Conv(q, W2_q)",
    "gated": "z0 = Conv(e, W8_z) z = Sigmoid(z0) gated = Conv(z, W8_y)",
}
"""Output -> the lines of ONNX text that lead to it; `x` is the image, `e` a map of 8 channels."""

_NUMBERS = {"zero": 0.0, "fifth": 0.2, "half": 0.5, "one": 1.0, "top": 1.5, "three": 3.0, "six": 6.0}
_SHAPES = {
    "W3": (8, 3, 3, 3), "W8": (8, 8, 1, 1), "B": (8,), "WG": (8, 4, 3, 3), "WD": (8, 1, 3, 3), "W16": (8, 8, 1, 1),
    "WT": (8, 4, 2, 2), "W2": (8, 2, 1, 1),
}  # fmt: skip


def graph() -> ir.Model:
    """Returns the float graph of all branches."""
    constants = [f"{name} = Constant<value_float = {number}>()" for name, number in _NUMBERS.items()]
    body = " ".join([*constants, "e0 = Conv<pads=[1,1,1,1]>(x, W3_e, B_e) e = Relu(e0)", *BRANCHES.values()])
    weights = {
        f"{kind}_{name}": nets.normal(zlib.crc32(name.encode()), *_SHAPES[kind])
        / np.float32(np.sqrt(np.prod(_SHAPES[kind][1:])))
        for kind, name in set(re.findall(r"\b([A-Z]+\d*)_(\w)\b", body))
    }
    results = ", ".join(f"float {name}" for name in BRANCHES)
    model = nets.graph(f"g (float[1,3,{SIZE},{SIZE}] x) => ({results}) {{ {body} }}", weights)
    infer_shapes(model)
    return model


@functools.cache
def pair() -> tuple[FloatModel, TfliteModel]:
    """Returns the net in both forms."""
    spec = Preprocessing(SIZE, SIZE, resize="stretch", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    model = FloatModel("rewrites", graph(), spec)
    content = tflite_nets.convert(onnx_to_torch(model.graph), (1, 3, SIZE, SIZE), tuple(BRANCHES))
    return model, TfliteModel("rewrites", content, spec)
