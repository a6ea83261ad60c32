"""Layers that are planned in float are float in ONNX Runtime, as it says itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from edgeq.exporting.onnx.qdq import insert_qdq
from edgeq.exporting.planning.keep import resolve_keep
from edgeq.exporting.planning.plan import make_plan
from edgeq.exporting.planning.selection import select_layers
from edgeq.targets import get_target
from edgeq.targets.x86 import X86_ORT, for_isa
from tests.exporting import nets
from tests.exporting.test_qdq import ranges_for

WEIGHTS = {
    "w0": nets.normal(1, 16, 3, 3, 3), "w1": nets.normal(2, 16, 16, 1, 1), "dw": nets.normal(3, 16, 1, 3, 3),
    "w2": nets.normal(4, 16, 16, 1, 1), "w3": nets.normal(5, 4, 16, 1, 1), "b": nets.normal(6, 16),
    "zero": np.array(0, np.float32), "six": np.array(6, np.float32),
}  # fmt: skip
BEHIND = {
    "relu": "q = Relu(e)",
    "nothing": "q = Identity(e)",
    "clip": "q = Clip(e, zero, six)",
}


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("bias", ["", ", b"])
def test_a_layer_kept_between_two_pairs_stays_in_float(behind: str, bias: str, tmp_path: Path) -> None:
    text = f"""g (float[1,3,16,16] x) => (float[1,4,16,16] y) {{ c = Conv<pads=[1,1,1,1]>(x, w0) r = Relu(c)
        d = Conv(r, w1) s = Relu(d) e = Conv<pads=[1,1,1,1], group=16>(s, dw{bias}) {BEHIND[behind]}
        f = Conv(q, w2) u = Relu(f) y = Conv(u, w3) }}"""
    if behind == "nothing":
        text = text.replace("q = Identity(e)", "").replace("Conv(q,", "Conv(e,")
    used = {name: array for name, array in WEIGHTS.items() if f"{name})" in text or f"{name}," in text}
    model, x = nets.graph(text, used), nets.normal(9, 1, 3, 16, 16)
    expected = nets.run(model, x)[0]
    (depthwise,) = (node.name for node in model.graph if "group" in node.attributes)
    rules = X86_ORT.rules
    selection = select_layers(model, rules, resolve_keep(model, [str(depthwise)]))
    plan = make_plan(model, selection, ranges_for(model, x, selection.tensors), rules)
    assert depthwise in plan.in_float
    plain = nets.copy(model)
    insert_qdq(model, plan, rules)
    found = nets.operators_in_onnxruntime(model, tmp_path)
    assert (found["QLinearConv"], found["Conv"] + found["FusedConv"]) == (3, 2), "the head, and the layer that is kept"
    # The same file without it: the engine quantizes the layer, which nothing in the file says.
    insert_qdq(plain, plan, dataclasses.replace(rules, quantizes_float=False))
    assert nets.operators_in_onnxruntime(plain, tmp_path)["QLinearConv"] == 4
    assert np.array_equal(nets.run(model, x)[0], nets.run(plain, x)[0]), "as the operators are defined they are equal"
    assert np.abs(nets.run(model, x, optimize=True)[0] - expected).max() < 0.1 * np.abs(expected).max()


def test_layers_of_few_channels_stay_in_float_without_vnni() -> None:
    text = """g (float[1,3,8,8] x) => (float[1,4,8,8] y) { a = Conv<pads=[1,1,1,1]>(x, stem) p = Relu(a)
        b = Conv(p, narrow) q = Relu(b) c = Conv(q, wide) r = Relu(c) d = Conv<pads=[1,1,1,1]>(r, large) s = Relu(d)
        e = Conv<pads=[1,1,1,1], group=128>(s, dw) t = Relu(e) y = Conv(t, head) }"""
    weights = {
        "stem": nets.normal(1, 64, 3, 3, 3), "narrow": nets.normal(2, 128, 64, 1, 1),
        "wide": nets.normal(3, 128, 128, 1, 1), "large": nets.normal(4, 128, 128, 3, 3),
        "dw": nets.normal(5, 128, 1, 3, 3), "head": nets.normal(6, 4, 128, 1, 1),
    }  # fmt: skip
    model = nets.graph(text, weights)

    def in_int8(isa: str, target: str = "x86-ort") -> list[str]:
        rules = for_isa(get_target(target), isa).rules
        int8 = select_layers(model, rules).quantized
        return [str(node.inputs[1].name) for node in model.graph if node.name in int8 and node.inputs[1] is not None]

    assert in_int8("avx2") == ["wide", "large"]
    assert in_int8("vnni") == ["stem", "narrow", "wide", "large", "dw"]
    assert in_int8("avx2", "x86-openvino") == ["stem", "narrow", "wide", "large"]
