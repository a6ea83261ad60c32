"""Rules T15 and T16 of `edgeq check`: what TensorRT's fused INT8 attention wants."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeq.exporting.tensorrt.check import Checked, check_graph

PAIRS = {
    "q": "qq = QuantizeLinear(q, s, z) q8 = DequantizeLinear(qq, s, z)",
    "k": "kq = QuantizeLinear(k, s, z) k8 = DequantizeLinear(kq, s, z)",
    "p": "pq = QuantizeLinear(p, s, z) p8 = DequantizeLinear(pq, s, z)",
    "v": "vq = QuantizeLinear(v, s, z) v8 = DequantizeLinear(vq, s, z)",
    "o": "oq = QuantizeLinear(o, s, z) y = DequantizeLinear(oq, s, z)",
}


def check(body: str, tokens: int = 8, head: int = 16) -> Checked:
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[2,{tokens},{head}] q, float[2,{head},{tokens}] k, float[2,{tokens},{head}] v)
        => (float[2,{tokens},{head}] y) {{ {body} }}"""
    proto = onnx.parser.parse_model(text)
    arrays: dict[str, np.ndarray] = {
        "s": np.array(0.1, np.float32),
        "z": np.array(0, np.int8),
        "d": np.array(4, np.float32),
        "w": np.ones(head, np.float32),
    }
    used = {name for node in proto.graph.node for name in node.input}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(arrays[name], name) for name in arrays if name in used)
    return check_graph(ir.from_proto(proto), (10, 3))


def attention(paired: str, scale: str = "", **shape: int) -> list[tuple[str, str]]:
    """Returns rule and sentence of what is found in an attention with pairs at some of the five places."""
    names = {place: f"{place}8" if place in paired else place for place in "qkpv"}
    logits = f"l = MatMul({names['q']}, {names['k']}) {scale} p = Softmax({'m' if scale else 'l'})"
    end = PAIRS["o"] if "o" in paired else "y = Identity(o)"
    before = " ".join(PAIRS[place] for place in "qkv" if place in paired)
    middle = PAIRS["p"] if "p" in paired else ""
    checked = check(f"{before} {logits} {middle} o = MatMul({names['p']}, {names['v']}) {end}", **shape)
    return [(finding.rule, finding.sentence) for finding in checked.findings if finding.severity == "advice"]


@pytest.mark.parametrize("paired", ["qkpvo", ""])
def test_an_attention_wholly_in_int8_or_wholly_in_float_is_as_it_should_be(paired):
    assert attention(paired) == []


@pytest.mark.parametrize(
    ("paired", "missing"),
    [("qkpv", "behind the second product"), ("qk", "behind the Softmax, on the values, behind the second product")],
)
def test_an_attention_in_int8_in_part_is_told_what_it_lacks(paired, missing):
    ((rule, sentence),) = attention(paired)
    assert rule == "T16" and f"it has no pair {missing};" in sentence


def test_the_scale_belongs_before_the_first_product():
    ((rule, sentence),) = attention("qkpvo", "m = Div(l, d)")
    assert rule == "T16" and "scaled behind the first product" in sentence
    assert attention("", "m = Div(l, d)") == []


@pytest.mark.parametrize(
    ("shape", "said"), [({"head": 48}, "heads of size 48"), ({"tokens": 513}, "goes over 513 tokens")]
)
def test_heads_and_lengths_without_a_fused_kernel_are_named(shape, said):
    ((rule, sentence),) = attention("qkpvo", **shape)
    assert rule == "T16" and said in sentence


def test_a_normalisation_of_dequantized_integers_is_advised_against():
    checked = check(f"{PAIRS['q']} n = LayerNormalization(q8, w) l = MatMul(n, k) y = MatMul(l, v)")
    assert [(finding.rule, finding.severity) for finding in checked.findings] == [("T15", "advice")]
