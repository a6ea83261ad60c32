"""Barriers stand where an engine would not load a file, and nowhere else. `tests/fuzz/found` has models of each."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.exporting.graphs.graph import infer_shapes
from edgeq.exporting.passes.barriers import keep_integers_apart, keep_norms_apart
from tests.exporting import nets

WEIGHTS: dict[str, np.ndarray] = {
    "s": np.array(0.01, np.float32),
    "z": np.array(3, np.uint8),
    "w": np.ones((4, 4), np.int8),
    "kernel": np.ones((4, 8, 1, 1), np.int8),
    "b": np.ones(4, np.float32),
    "rows": np.array([-1, 4], np.int64),
    "wz": np.array(0, np.int8),
    "two": np.array(2, np.float32),
}
PAIR = "i = QuantizeLinear(x, s, z) f = DequantizeLinear(i, s, z) v = DequantizeLinear(w, s, wz)"


def barriers(body: str, ends: str) -> list[str]:
    """Returns the names of the tensors that a barrier gives."""
    model = nets.parse(f"g {ends} {{ {body} }}", WEIGHTS)
    infer_shapes(model)
    keep_norms_apart(model)
    keep_integers_apart(model)
    return [str(node.outputs[0].name) for node in model.graph if node.op_type == "Max"]


@pytest.mark.parametrize(
    ("rule", "body", "found"),
    [
        ("rows", f"{PAIR} j = Concat<axis=1>(f, f) y = MatMul(j, v)", ["j"]),
        ("rows behind others", f"{PAIR} j = Concat<axis=1>(f, f) r = Relu(j) y = MatMul(r, v)", ["j"]),
        ("rows of a Gemm", f"{PAIR} j = Concat<axis=1>(f, f) r = Reshape(j, rows) y = Gemm(r, v)", ["j"]),
        ("rows with a bias", f"{PAIR} j = Concat<axis=1>(f, f) r = Reshape(j, rows) y = Gemm(r, v, b)", []),
        ("a float layer", "j = Concat<axis=1>(x, x) u = Cast<to=1>(w) y = MatMul(j, u)", []),
        ("columns", f"{PAIR} l = Split<axis=2, num_outputs=2>(f) k = Concat<axis=2>(l, l) y = MatMul(k, v)", []),
        ("columns by a Transpose", f"{PAIR} j = Concat<axis=1>(f, f) t = Transpose<perm=[0,2,1]>(j) y = Relu(t)", []),
        ("a function between", f"{PAIR} j = Concat<axis=1>(f, f) t = Tanh(j) y = MatMul(t, v)", []),
        ("pooled channels", f"{PAIR} m = MatMul(f, v) y = MaxPool<kernel_shape=[2]>(m)", ["m"]),
        ("pooled channels of a sum", f"{PAIR} m = MatMul(f, v) a = Add(m, b) y = MaxPool<kernel_shape=[2]>(a)", []),
    ],
)
def test_joined_rows_and_pooled_channels(rule, body, found):
    assert barriers(body, "(float[1,4,4] x) => (float[1,a,c] y)") == found, rule


@pytest.mark.parametrize(("dtype", "found"), [("double", ["c"]), ("float16", []), ("uint8", [])])
def test_inputs_of_doubles_in_files_with_pairs(dtype, found):
    ends = f"({dtype}[1,4] x) => (float[1,4] y)"
    assert barriers("c = Cast<to=1>(x) i = QuantizeLinear(c, s, z) y = DequantizeLinear(i, s, z)", ends) == found
    assert barriers("c = Cast<to=1>(x) y = Relu(c)", ends) == []


@pytest.mark.parametrize(("first", "found"), [("Cast<to=1>", ["c"]), ("Relu", [])])
def test_casts_before_a_norm_written_as_nodes(first, found):
    body = f"c = {first}(x) m = ReduceMean<axes=[1]>(c) d = Sub(c, m) y = Pow(d, two)"
    kind = "float16" if found else "float"
    model = nets.parse(f"g ({kind}[1,4] x) => (float[1,4] y) {{ {body} }}", WEIGHTS, opset=17)
    keep_norms_apart(model)
    assert [str(node.outputs[0].name) for node in model.graph if node.op_type == "Max"] == found
    norm = [node for node in model.graph if node.op_type in ("ReduceMean", "Sub")]
    assert [value.name for node in norm for value in node.inputs if value is not None] == ["c", "c", "m"]
