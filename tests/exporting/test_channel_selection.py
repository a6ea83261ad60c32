from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.exporting.graphs.moves import moves_values
from edgeq.exporting.onnx.qdq import insert_qdq
from edgeq.exporting.passes.channel_selection import fold_channel_selection
from edgeq.exporting.planning.plan import make_plan
from edgeq.exporting.planning.selection import select_layers
from edgeq.targets import get_target
from tests.exporting import nets
from tests.exporting.test_qdq import ranges_for

# How torchvision's ShuffleNet V2 shuffles and halves, how FastestDet does, and an exporter's strided slices.
SHUFFLES = {
    "torchvision": """s = Reshape(j, pairs) t = Transpose<perm=[0, 2, 1, 3, 4]>(s) u = Reshape(t, whole)
        m, p = Split<axis=1, num_outputs=2>(u)""",
    "FastestDet": """s = Reshape(j, flat) t = Transpose<perm=[1, 0, 2]>(s) u = Reshape(t, halves)
        a, b = Split<axis=0, num_outputs=2>(u) m = Squeeze(a, first) p = Squeeze(b, first)""",
    "slices": "m = Slice(j, one, end, one, two) p = Slice(j, none, end, one, two)",
}
BLOCK = """g (float[1,3,8,8] x) => (float[1,2,8,8] y) { c = Conv<pads=[1,1,1,1]>(x, stem) r = Relu(c)
    d = Conv(r, first) q = Relu(d) j = Concat<axis=1>(r, q) SHUFFLE
    e = Conv(m, second, bias) n = Relu(e) k = Concat<axis=1>(p, n) f = Conv(k, third) v = Relu(f) y = Conv(v, head) }"""


def integers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


CONSTANTS = {
    "pairs": integers(1, 2, 6, 8, 8), "whole": integers(1, 12, 8, 8), "flat": integers(6, 2, 64),
    "halves": integers(2, 1, 6, 8, 8), "first": integers(0), "one": integers(1), "two": integers(2),
    "none": integers(0), "end": integers(2**31),
}  # fmt: skip
WEIGHTS = {
    "stem": nets.normal(1, 6, 3, 3, 3), "first": nets.normal(2, 6, 6, 1, 1), "second": nets.normal(3, 6, 6, 1, 1),
    "bias": nets.normal(4, 6), "third": nets.normal(5, 8, 12, 1, 1), "head": nets.normal(6, 2, 8, 1, 1),
}  # fmt: skip


def block(shuffle: str) -> ir.Model:
    text = BLOCK.replace("SHUFFLE", SHUFFLES[shuffle]).replace("Squeeze(a, first)", "Squeeze(a, zero)")
    text = text.replace("Squeeze(b, first)", "Squeeze(b, zero)")
    constants = {"zero" if name == "first" else name: array for name, array in CONSTANTS.items()}
    used = {name: array for name, array in constants.items() if f" {name})" in text or f" {name}," in text}
    return nets.graph(text, used | WEIGHTS)


@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_the_shuffle_is_gone_and_the_outputs_are_the_same(shuffle: str) -> None:
    model, x = block(shuffle), nets.normal(9, 1, 3, 8, 8)
    expected = nets.run(model, x)[0]
    assert len(fold_channel_selection(model).done) == 1
    assert sorted(nets.ops(model)) == sorted(["Conv"] * 6 + ["Relu"] * 4 + ["Concat"] * 2)
    np.testing.assert_allclose(nets.run(model, x)[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_in_int8_the_selection_is_exact(shuffle: str) -> None:
    rules = get_target("x86-openvino").rules
    x = nets.normal(9, 1, 3, 8, 8)
    results = []
    for folded in (False, True):
        model = block(shuffle)
        names = [str(value.name) for node in model.graph for value in node.outputs]
        ranges = ranges_for(model, x, ("x", *names))
        if folded:
            fold_channel_selection(model)
        selection = select_layers(model, rules)
        plan = make_plan(model, selection, ranges, rules)
        if folded:
            (select,) = (node for node in model.graph if node.op_type == "Conv" and moves_values(node))
            assert select.name in plan.quantized
            source, chosen = (str(value.name) for value in (select.inputs[0], select.outputs[0]) if value is not None)
            assert plan.tensors[source] == plan.tensors[chosen], "one grid before and behind it"
        insert_qdq(model, plan, rules)
        results.append(nets.run(model, x)[0])
    np.testing.assert_allclose(results[1], results[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("e = Conv(m, second, bias)", "e = Conv<group=2>(m, grouped, bias)", "groups read other channels"),
        ("e = Conv(m, second, bias)", "e = Conv<pads=[1,1,1,1]>(m, spatial, bias)", "nine times the work"),
        ("p = Slice(j, none, end, one, two)", "p = Slice(j, none, end, one, two) z = Add(p, m)", ""),
    ],
)
def test_other_readers_of_channels_stay(old: str, new: str, why: str) -> None:
    text = BLOCK.replace("SHUFFLE", SHUFFLES["slices"]).replace(old, new)
    if not why:
        text = text.replace("Conv(m, second, bias)", "Conv(z, second, bias)")
    further = {"grouped": nets.normal(7, 6, 3, 1, 1), "spatial": nets.normal(8, 6, 6, 3, 3)}
    arrays = CONSTANTS | WEIGHTS | further
    used = {name: array for name, array in arrays.items() if f" {name})" in text or f" {name}," in text}
    model = nets.graph(text, used | {"first": WEIGHTS["first"]})
    before = nets.ops(model)
    assert not fold_channel_selection(model).changed
    assert nets.ops(model) == before
