"""GELU in all its spellings: found by what it computes, and written so that engines fuse it."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeq.exporting.passes.cleaning import clean
from edgeq.exporting.passes.gelu import fuse_gelu
from tests.exporting import nets

# The same function in the orders that exporters write; c0 to c4 are constants.
EXACT = {
    "x * (half * (1 + erf))": "d = Div(x, sqrt2) e = Erf(d) a = Add(e, one) h = Mul(half, a) y = Mul(x, h)",
    "(x * half) * (1 + erf)": "d = Div(x, sqrt2) e = Erf(d) a = Add(one, e) h = Mul(x, half) y = Mul(h, a)",
    "(x * (1 + erf)) * half": "d = Mul(x, rsqrt2) e = Erf(d) a = Add(e, one) h = Mul(x, a) y = Mul(h, half)",
    "(x * (1 + erf)) / two": "d = Mul(rsqrt2, x) e = Erf(d) a = Add(e, one) h = Mul(a, x) y = Div(h, two)",
}
TANH = {
    "pow": "p = Pow(x, three) m = Mul(cubic, p) s = Add(x, m) i = Mul(scale, s) t = Tanh(i) a = Add(t, one) "
    "h = Mul(half, a) y = Mul(x, h)",
    "products": "p = Mul(x, x) q = Mul(p, x) m = Mul(q, cubic) s = Add(m, x) i = Mul(s, scale) t = Tanh(i) "
    "a = Add(one, t) h = Mul(x, half) y = Mul(a, h)",
    "factored": "p = Mul(x, x) m = Mul(p, cubic) s = Add(m, one) r = Mul(x, scale) i = Mul(r, s) t = Tanh(i) "
    "a = Add(t, one) z = Mul(x, a) y = Mul(z, half)",
}
NUMBERS = {
    "sqrt2": 2**0.5, "rsqrt2": 0.5**0.5, "one": 1, "half": 0.5, "two": 2, "three": 3, "cubic": 0.044715,
    "scale": (2 / np.pi) ** 0.5, "almost": 0.85, "w": 1,
}  # fmt: skip


def gelu_graph(body: str, opset: int = 18, result: str = "float[2,40] out") -> ir.Model:
    text = f'<ir_version: 10, opset_import: ["" : {opset}]> g (float[2,40] in) => ({result}) {{ x = Abs(in)'
    proto = onnx.parser.parse_model(f"{text} {body} out = Neg(y) }}")
    constants = {name: np.array(number, np.float32) for name, number in NUMBERS.items()}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in constants.items())
    model = ir.from_proto(proto)
    clean(model)
    return model


@pytest.mark.parametrize("spelling", [*EXACT.values(), *TANH.values()], ids=[*EXACT, *TANH])
@pytest.mark.parametrize("opset", [14, 18, 20])
def test_every_spelling_is_fused_and_computes_the_same(spelling, opset, tmp_path):
    model = gelu_graph(spelling, opset)
    x = 3 * nets.normal(0, 2, 40)
    wanted = nets.run(model, x)[0]
    assert len(fuse_gelu(model).done) == 1
    np.testing.assert_allclose(nets.run(model, x)[0], wanted, atol=1e-6)
    if opset >= 20:
        (gelu,) = [node for node in model.graph if node.op_type == "Gelu"]
        assert gelu.attributes["approximate"].as_string() == ("tanh" if spelling in TANH.values() else "none")
        assert gelu.outputs[0].name == "y"
    else:
        fused = nets.operators_in_onnxruntime(model, tmp_path)
        assert fused["Gelu"] + fused["FastGelu"] == 1 and not fused["Erf"] + fused["Tanh"], fused


NO_GELU = {
    "another half": "d = Div(x, sqrt2) e = Erf(d) a = Add(e, one) h = Mul(almost, a) y = Mul(x, h)",
    "no root": "d = Div(x, two) e = Erf(d) a = Add(e, one) h = Mul(half, a) y = Mul(x, h)",
    "tanh alone": "y = Tanh(x)",
    "another tensor": "z = Sqrt(x) d = Div(x, sqrt2) e = Erf(d) a = Add(e, one) h = Mul(half, a) y = Mul(z, h)",
    "a reader of the root": "d = Div(x, sqrt2) e = Erf(d) a = Add(e, one) h = Mul(half, a) z = Mul(x, h) y = Add(z, d)",
    "an inner reader": "d = Div(x, sqrt2) e = Erf(d) a = Add(e, one) h = Mul(half, a) z = Mul(x, h) y = Add(z, e)",
}


@pytest.mark.parametrize("name", NO_GELU)
@pytest.mark.parametrize("opset", [18, 20])
def test_what_is_no_gelu_stays(name, opset):
    model = gelu_graph(NO_GELU[name], opset)
    before = nets.ops(model)
    assert not fuse_gelu(model).changed
    assert nets.ops(model) == before


def test_an_inner_output_of_the_graph_stays():
    body = EXACT["x * (half * (1 + erf))"]
    model = gelu_graph(body, 20, "float[2,40] out, float[2,40] h")
    assert not fuse_gelu(model).changed
    assert len(nets.run(model, nets.normal(0, 2, 40))) == 2
