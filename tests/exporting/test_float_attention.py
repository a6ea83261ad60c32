"""Attentions as TensorRT computes them in few kernels: one pair for a packed projection, FP16 where they stay float."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.exporting.graphs.attentions import find_attentions
from edgeq.exporting.graphs.graph import constant, save_onnx
from edgeq.exporting.graphs.transformer import find_transformer
from edgeq.exporting.onnx.float_attention import write_float_attention
from edgeq.exporting.onnx.qdq import insert_qdq
from edgeq.exporting.planning.keep import VitPlan, resolve_keep
from edgeq.exporting.planning.plan import make_plan
from edgeq.exporting.planning.selection import select_layers
from edgeq.exporting.tensorrt.check import check_graph
from edgeq.runtimes.tensorrt.compile import Compiler
from edgeq.runtimes.tensorrt.library import TENSORRT_RTX
from edgeq.targets import Rules, get_target
from edgeq.verbs.check_compile import compile_file
from tests.exporting import nets
from tests.exporting.test_qdq import ranges_for

ORIN = get_target("jetson-orin").rules
APART = dataclasses.replace(ORIN, whole_projections=False)

# Two heads of 16, a mask on the logits, a residual around it.
BLOCK = """g (float[1,%TOKENS%,32] x) => (float[1,%TOKENS%,32] y) {
    m = MatMul(x, wqkv) b = Add(m, bqkv) q, k, v = Split<axis=2, num_outputs=3>(b)
    qr = Reshape(q, heads) qt = Transpose<perm=[0,2,1,3]>(qr)
    kr = Reshape(k, heads) kt = Transpose<perm=[0,2,3,1]>(kr)
    vr = Reshape(v, heads) vt = Transpose<perm=[0,2,1,3]>(vr)
    s = MatMul(qt, kt) a = Add(s, mask) w = Softmax<axis=-1>(a) c = MatMul(w, vt)
    ct = Transpose<perm=[0,2,1,3]>(c) cr = Reshape(ct, tokens) p = MatMul(cr, wo) o = Add(p, bo) y = Add(o, x) }"""
WEIGHTS = {
    "wqkv": nets.normal(1, 32, 96) / 4, "bqkv": nets.normal(2, 96), "wo": nets.normal(3, 32, 32) / 4,
    "bo": nets.normal(4, 32), "mask": nets.normal(5, 1, 1, 6, 6), "heads": np.array([1, -1, 2, 16]),
    "tokens": np.array([1, -1, 32]),
}  # fmt: skip
X = nets.normal(9, 1, 6, 32)


PACKED = "m = MatMul(x, wqkv) b = Add(m, bqkv) q, k, v = Split<axis=2, num_outputs=3>(b)"
# Keys without a bias, as in CLIP and BEiT.
APART_LAYERS = "mq = MatMul(x, wq) q = Add(bq, mq) k = MatMul(x, wk) mv = MatMul(x, wv) v = Add(mv, bv)"
OWN = {
    "wq": nets.normal(11, 32, 32) / 4, "wk": nets.normal(12, 32, 32) / 9, "wv": nets.normal(13, 32, 32),
    "bq": nets.normal(14, 32), "bv": nets.normal(15, 32),
}  # fmt: skip


def block(tokens: int = 6) -> ir.Model:
    mask = {"mask": WEIGHTS["mask"][..., :tokens, :tokens]}
    return nets.graph(BLOCK.replace("%TOKENS%", str(tokens)), WEIGHTS | mask)


def apart() -> ir.Model:
    """Returns the block with a layer for each of queries, keys and values."""
    text = BLOCK.replace("%TOKENS%", "6").replace(PACKED, APART_LAYERS)
    weights = {name: array for name, array in WEIGHTS.items() if not name.endswith("qkv")}
    return nets.graph(text, weights | OWN)


def written(
    rules: Rules,
    vit_plan: VitPlan,
    islands: tuple[str, ...] = (),
    keep: tuple[str, ...] = (),
    make: Callable[[], ir.Model] = block,
) -> ir.Model:
    """Returns the block as the writer of INT8 files makes it."""
    model = make()
    selection = select_layers(model, rules, resolve_keep(model, keep, vit_plan), vit_plan)
    plan = make_plan(model, selection, ranges_for(model, X, selection.tensors), rules)
    transformer = find_transformer(model)
    insert_qdq(model, plan, rules)
    if rules.whole_projections:
        write_float_attention(model, transformer, plan.in_float, islands, in_fp16=rules.fp16_attention)
    return model


def given(node: ir.Node) -> list[ir.Value]:
    """Returns the inputs of a node."""
    return [value for value in node.inputs if value is not None]


def test_queries_keys_and_values_share_one_pair_behind_their_layer():
    whole, apart = written(ORIN, "fast"), written(APART, "fast")
    pairs = Counter(given(node)[0].name for node in whole.graph if node.op_type == "QuantizeLinear")
    assert pairs["b"] == 1 and not pairs.keys() & {"qt", "kt", "vt"}
    before = Counter(given(node)[0].name for node in apart.graph if node.op_type == "QuantizeLinear")
    assert "b" not in before and before.keys() >= {"qt", "kt", "vt"}
    # The same grid, the same rounding.
    np.testing.assert_array_equal(nets.run(whole, X)[0], nets.run(apart, X)[0])
    assert check_graph(whole, (10, 3)).findings == ()


def test_each_keeps_its_pair_where_another_layer_reads_the_projection():
    model = block()
    (attention,) = find_attentions(model, find_transformer(model))
    assert attention.packed is not None and attention.packed.name == "b"
    split = next(node for node in model.graph if node.op_type == "Split")
    model.graph.append(ir.node("Relu", [split.outputs[2]], name="other"))
    assert attention.packed is None


@pytest.mark.parametrize("fp16", [False, True])
def test_three_int8_layers_of_one_tensor_become_one(fp16: bool):
    rules = dataclasses.replace(ORIN, fp16_attention=fp16)
    joined, plain = written(rules, "balanced", make=apart), written(APART, "balanced", make=apart)
    products = [node for node in joined.graph if node.op_type == "MatMul"]
    assert len(products) == 4 and [str(value.shape) for value in products[0].outputs] == ["[1,6,96]"]
    pairs = [node for node in joined.graph if node.op_type == "QuantizeLinear"]
    assert [96] in [list(scale.shape) for node in pairs if (scale := constant(node.inputs[1])) is not None]
    assert not {"wq", "wk", "wv", "bq", "bv"} & joined.graph.initializers.keys()
    wanted = nets.run(plain, X)[0]
    tolerance = 4e-3 if fp16 else 1e-6
    np.testing.assert_allclose(nets.run(joined, X)[0], wanted, atol=tolerance * np.abs(wanted).max())


def test_layers_of_which_one_is_kept_are_not_joined():
    name = next(str(node.name) for node in apart().graph if node.outputs[0].name == "k")
    model = written(ORIN, "balanced", keep=(name,), make=apart)
    assert sum(node.op_type == "MatMul" for node in model.graph) == 6
    assert not any(node.op_type in ("Split", "Clip") for node in model.graph)


def test_an_attention_that_stays_float_is_fp16_between_casts_in_an_fp32_file():
    model, plain = written(ORIN, "balanced"), written(dataclasses.replace(APART, fp16_attention=False), "balanced")
    (attention,) = find_attentions(model, find_transformer(block()))
    for node in (attention.logits, *attention.between, attention.context):
        assert all(value.dtype == ir.DataType.FLOAT16 for value in (*given(node), *node.outputs))
    casts = [node for node in model.graph if node.op_type == "Cast"]
    assert [(given(cast)[0].name, cast.outputs[0].dtype) for cast in casts] == [
        ("b_limited", ir.DataType.FLOAT16), ("cr", ir.DataType.FLOAT)
    ]  # fmt: skip
    rounded = [given(node)[0].dtype for node in model.graph if node.op_type == "QuantizeLinear"]
    assert set(rounded) == {ir.DataType.FLOAT}  # opset 17 rounds nothing else
    wanted = nets.run(plain, X)[0]
    np.testing.assert_allclose(nets.run(model, X)[0], wanted, atol=4e-3 * np.abs(wanted).max())


def test_a_float_projection_behind_it_is_fp16_too():
    model = written(ORIN, "balanced", keep=("vit.projection",))
    projection = next(node for node in model.graph if node.outputs[0].name == "p")
    assert [value.dtype for value in given(projection)] == [ir.DataType.FLOAT16] * 2
    residual = next(node for node in model.graph if node.outputs[0].name == "y")
    assert "o_fp32" in [value.name for value in given(residual)] and residual.outputs[0].dtype == ir.DataType.FLOAT


def test_a_projection_that_fp16_cannot_compute_stays_fp32():
    names = {node.outputs[0].name: str(node.name) for node in block().graph}
    model = written(ORIN, "balanced", (names["p"],), keep=("vit.projection",))
    projection = next(node for node in model.graph if node.outputs[0].name == "p")
    assert [value.dtype for value in given(projection)] == [ir.DataType.FLOAT] * 2


def test_what_is_too_large_for_fp16_is_limited_before_the_cast():
    """Not infinite, which would make every weight of the attention NaN."""
    model = written(ORIN, "balanced")
    large = nets.run(model, X * np.float32(1e6))[0]
    assert np.isfinite(large).all()


@pytest.mark.parametrize("island", ["s", "a", "w", "c"])
def test_an_attention_that_fp16_cannot_compute_stays_as_it_is(island: str):
    names = {node.outputs[0].name: str(node.name) for node in block().graph}
    model, plain = written(ORIN, "balanced", (names[island],)), written(APART, "balanced")
    assert [node.op_type for node in model.graph] == [node.op_type for node in plain.graph]


def test_the_attention_of_one_query_stays_float():
    selection = select_layers(block(tokens=1), ORIN, vit_plan="fast")
    reasons = [each.reason for each in selection.decisions if each.is_float and each.op_type == "MatMul"]
    assert reasons.count("it has one query, and TensorRT fuses that in float alone") == 2
    several = select_layers(block(tokens=2), ORIN, vit_plan="fast")
    assert not any(each.is_float for each in several.decisions if each.op_type == "MatMul")


@pytest.mark.skipif(find_spec(TENSORRT_RTX.module) is None, reason=f"{TENSORRT_RTX.title} is not installed")
def test_nvidias_compiler_fuses_every_attention(tmp_path: Path) -> None:
    """Seen with TensorRT for RTX 1.7.1, which is not the TensorRT of a Jetson."""
    graphs = {"whole": written(ORIN, "fast"), "apart": written(APART, "fast"), "float": written(ORIN, "balanced")}
    found = {}
    with Compiler() as compiler:
        for name, graph in graphs.items():
            save_onnx(graph, tmp_path / f"{name}.onnx")
            found[name] = compile_file(tmp_path / f"{name}.onnx", compiler)
    assert dict(found["whole"].fused_attention) == {"int8 to int8": 1}
    assert dict(found["float"].fused_attention) == {"fp16 to int8": 1}
    # One kernel writes queries, keys and values.
    assert found["whole"].kernels <= found["apart"].kernels - 2
    assert not any(each.disagreements for each in found.values())
