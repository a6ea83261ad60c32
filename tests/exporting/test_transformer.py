"""Finding encoder blocks, what runs in INT8 of them, and the two rewrites for it."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
import torch

from edgeq.calibrators import Histogram
from edgeq.calibrators.ranges import Provenance, Ranges
from edgeq.errors import InputError
from edgeq.exporting.artifact import Preprocessing
from edgeq.exporting.graphs.attentions import find_attentions
from edgeq.exporting.graphs.graph import weight_of
from edgeq.exporting.graphs.moves import moves_values
from edgeq.exporting.graphs.transformer import find_transformer
from edgeq.exporting.onnx.qdq import insert_qdq
from edgeq.exporting.onnx.writer import FloatModel
from edgeq.exporting.passes.attention_scale import fold_attention_scale
from edgeq.exporting.passes.gemm import rewrite_linear
from edgeq.exporting.passes.order import SIMPLIFYING, reading, run_passes
from edgeq.exporting.passes.packed_projection import split_projections
from edgeq.exporting.planning.keep import VitPlan, resolve_keep
from edgeq.exporting.planning.plan import QuantPlan, make_plan
from edgeq.exporting.planning.selection import observed_tensors, select_layers
from edgeq.exporting.tensorrt.check import check_graph
from edgeq.models.vit import VisionTransformer
from edgeq.models.vit_configs import VitConfig
from edgeq.sources.torch_export import export_torch
from edgeq.targets import Rules, get_target
from edgeq.targets.base import Isa
from edgeq.targets.x86 import for_isa
from tests.exporting import encoders, nets

X86 = get_target("x86").rules
PRODUCTS = dataclasses.replace(X86, int8_attention="any")
ORIN = get_target("jetson-orin").rules
PARTS = {"softmax": 1, "logits": 1, "context": 1, "projection": 1, "fc1": 1, "fc2": 1, "residual": 2}

TWO_HEADS = """g (float[1,4,16] x) => (float[1,4,16] y) {
    q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) kt = Transpose<perm=[0,2,1]>(k)
    %LOGITS%
    w = Softmax<axis=-1>(s) c = MatMul(w, v) y = MatMul(c, wo) }"""
WEIGHTS = {name: nets.normal(seed, 16, 16) for seed, name in enumerate(("wq", "wk", "wv", "wo"))} | {
    "half": np.array([0.5], np.float32), "mask": np.zeros((1, 4, 4), np.float32),
}  # fmt: skip


def parts(name: str, opset: int = 18) -> dict[str, int]:
    counts: dict[str, int] = {}
    for role in find_transformer(encoders.exported(name, opset)).roles.values():
        counts[role.part] = counts.get(role.part, 0) + 1
    return counts


def test_an_attention_of_one_operator_becomes_what_opset_18_has() -> None:
    """Files of opset 23 and 24 keep the roles, the folded scales and norms, and the layers of those of opset 18."""
    found = []
    for opset in (18, 23):
        model = nets.copy(encoders.exported("deit", opset))
        reports = run_passes(model, (*reading(18), *SIMPLIFYING))
        layers = Counter(op for op in nets.ops(model) if op in ("Conv", "MatMul", "Gemm", "Softmax", "Erf", "Sigmoid"))
        folded = [len(reports[each].done) for each in ("fold_attention_scale", "fold_layernorm_affine")]
        found.append((Counter(role.part for role in find_transformer(model).roles.values()), layers, folded))
    assert found[0] == found[1]
    assert found[0][0]["logits"] == 1


@pytest.mark.parametrize("opset", encoders.OPSETS)
@pytest.mark.parametrize("name", ["deit", "torchvision", "clip"])
def test_parts_of_an_encoder(name: str, opset: int) -> None:
    projections = {"q": 1, "k": 1, "v": 1} if name == "clip" else {"qkv": 1}
    assert parts(name, opset) == PARTS | projections


def test_the_operator_attention_is_both_products() -> None:
    assert parts("deit", 23) == {part: PARTS[part] for part in ("context", "projection", "fc1", "fc2", "residual")} | {
        "qkv": 1
    }


@pytest.mark.parametrize(
    "logits",
    ["p = MatMul(q, kt) m = Mul(p, half) s = Add(m, mask)", "p = MatMul(q, kt) s = Div(p, half)", "s = MatMul(q, kt)"],
)
def test_scales_and_masks_stand_between_the_products(logits: str) -> None:
    found = find_transformer(nets.graph(TWO_HEADS.replace("%LOGITS%", logits), WEIGHTS))
    assert (found.blocks, found.unknown) == (1, ())
    assert {role.part for role in found.roles.values()} >= {"q", "k", "v", "logits", "context", "projection"}


def test_an_unknown_attention_is_named_and_a_classifier_s_softmax_is_not() -> None:
    strange = nets.graph(TWO_HEADS.replace("%LOGITS%", "p = MatMul(q, kt) s = Tanh(p)"), WEIGHTS)
    found = find_transformer(strange)
    assert found.blocks == 0
    assert len(found.unknown) == 1
    classifier = nets.graph(
        "g (float[1,16] x) => (float[1,16] y) { h = MatMul(x, wq) y = Softmax<axis=-1>(h) }", {"wq": WEIGHTS["wq"]}
    )
    assert find_transformer(classifier).unknown == ()


def precisions(name: str, vit_plan: VitPlan, keep: tuple[str, ...] = (), rules: object = PRODUCTS) -> dict[str, str]:
    """Returns part (or operator type, outside the blocks) -> precision."""
    model = encoders.exported(name, 18)
    roles = find_transformer(model).roles
    chosen = select_layers(model, rules, resolve_keep(model, keep, vit_plan), vit_plan)  # type: ignore[arg-type]
    return {
        roles[decision.name].part if decision.name in roles else decision.op_type: decision.scheme.name
        for decision in chosen.decisions
    }


LINEAR = dict.fromkeys(("qkv", "projection", "fc1", "fc2"), "int8")


def test_what_each_plan_quantizes() -> None:
    balanced = precisions("deit", "balanced")
    assert balanced.items() >= (LINEAR | dict.fromkeys(("residual", "logits", "context", "Conv"), "float")).items()
    fast = precisions("deit", "fast")
    assert fast.items() >= (LINEAR | dict.fromkeys(("logits", "context", "Conv"), "int8")).items()
    assert fast["residual"] == "float"
    assert precisions("deit", "safe").items() >= {"fc2": "float", "projection": "float", "fc1": "int8"}.items()


def test_nothing_that_is_normalised_or_added_up_is_quantized() -> None:
    model = encoders.exported("deit", 18)
    pairs = set(select_layers(model, X86).tensors)
    floats = [node for node in model.graph if node.op_type in ("LayerNormalization", "Softmax", "Add")]
    names = {value.name for node in floats for value in node.inputs if value is not None}
    # The sums of layer and bias are no pairs either: a linear layer gives floats.
    assert not names & pairs
    computed = {"layer_norm", "layer_norm_1", "layer_norm_2", "scaled_dot_product_attention", "gelu"}
    assert pairs >= computed
    further = [node for node in model.graph if {value.name for value in node.outputs} & (pairs - computed)]
    assert all(moves_values(node) for node in further)


def test_tensorrt_takes_heads_of_16_32_or_64_only() -> None:
    reasons = {
        decision.name: decision.reason
        for decision in select_layers(encoders.exported("deit", 18), ORIN, vit_plan="fast").decisions
    }
    assert sum("heads are of size 8" in reason for reason in reasons.values()) == 2


def test_tensorrt_gets_the_five_pairs_of_its_fused_attention() -> None:
    config = VitConfig(32, 2, 2, 64, 4, image_px=16, outputs=5)
    graph = export_torch(VisionTransformer(config).eval(), torch.zeros(1, 3, 16, 16), ["scores"], opset=17)
    before = nets.copy(graph)
    assert len(fold_attention_scale(graph).done) > 0
    x = encoders.image()
    np.testing.assert_allclose(nets.run(graph, x)[0], nets.run(before, x)[0], atol=1e-5)
    model = FloatModel("vit", graph, Preprocessing(16, 16))
    selection = select_layers(graph, ORIN, vit_plan="fast")
    histograms = {name: Histogram.of(nets.normal(1, 4096)) for name in observed_tensors(graph, [selection])}
    provenance = Provenance.of(model_digest="", preprocessing_digest="", image_digests=(), tool_version="")
    quantized = model.copy_graph()
    ranges = Ranges.from_histograms(histograms, provenance, "minmax")
    insert_qdq(quantized, make_plan(graph, selection, ranges, ORIN), ORIN)
    assert [decision.scheme.name for decision in selection.decisions if decision.op_type == "MatMul"].count("int8") >= 4
    assert check_graph(quantized, (10, 3)).findings == ()


def test_a_target_without_kernels_for_products_leaves_them_in_float() -> None:
    assert precisions("deit", "fast", rules=X86).items() >= {"logits": "float", "context": "float"}.items()


@pytest.mark.parametrize(("isa", "expected"), [("vnni", "int8"), ("amx", "int8"), ("avx2", "float"), ("any", "float")])
def test_openvino_computes_products_in_int8_where_it_has_vnni(isa: Isa, expected: str) -> None:
    rules = for_isa(get_target("x86-openvino"), isa).rules
    found = precisions("deit", "fast", rules=rules)
    assert {found["logits"], found["context"]} == {expected}
    assert precisions("deit", "balanced", rules=rules)["logits"] == "float"


def test_openvinos_products_read_signed_integers_around_zero_and_probabilities_without_a_sign() -> None:
    """OpenVINO computes an attention with a zero point in float: DeiT-tiny took 1.04 of the time, and .82 so."""
    rules = for_isa(get_target("x86-openvino"), "vnni").rules
    model = encoders.exported("deit", 18)
    split_projections(model)
    rewrite_linear(model)
    plan, (attention,) = planned(model, rules), find_attentions(model, find_transformer(model))
    grids = {**plan.tied, **plan.tensors}
    operands = [grids[str(value.name)] for value in attention.operands]
    assert {(grid.zero_point, grid.scheme.dtype) for grid in operands} == {(0, "int8")}
    probabilities = grids[str(attention.between[-1].outputs[0].name)]
    assert (probabilities.zero_point, probabilities.scheme.dtype) == (0, "uint8")
    assert probabilities.scale == pytest.approx(1 / 255)
    assert grids[str(attention.context.outputs[0].name)].scheme.dtype == "uint8"  # the projection reads it


def test_a_slow_product_takes_the_other_one_of_its_attention_with_it() -> None:
    rules = for_isa(get_target("x86-openvino"), "vnni").rules
    model = encoders.exported("deit", 18)
    (attention,) = find_attentions(model, find_transformer(model))
    for one, other in ((attention.logits, attention.context), (attention.context, attention.logits)):
        chosen = select_layers(model, rules, vit_plan="fast", slow={str(one.name): "it is slow"})
        reasons = {each.name: each.reason for each in chosen.decisions if each.is_float}
        assert reasons[str(one.name)] == reasons[str(other.name)] == "it is slow"


def planned(model: ir.Model, rules: Rules) -> QuantPlan:
    """Returns the plan `fast`: probabilities were seen in 0..1, everything else on both sides of 0."""
    selection = select_layers(model, rules, vit_plan="fast")
    softmax = {str(node.outputs[0].name) for node in model.graph if node.op_type == "Softmax"}
    histograms = {
        name: Histogram.of(np.linspace(0 if name in softmax else -3, 1, 4096, dtype=np.float32))
        for name in observed_tensors(model, [selection])
    }
    provenance = Provenance.of(model_digest="", preprocessing_digest="", image_digests=(), tool_version="")
    return make_plan(model, selection, Ranges.from_histograms(histograms, provenance, "minmax"), rules)


@pytest.mark.parametrize(
    ("pattern", "kept"),
    [
        ("vit.fc2", {"fc2"}), ("vit.qk", {"qkv"}), ("vit.v", {"qkv"}), ("vit.end", {*PARTS, "qkv"}),
        ("vit.0.projection", {"projection"}), ("vit.0-0.fc1", {"fc1"}),
        ("vit.attention", {"logits", "context"}),
    ],
)  # fmt: skip
def test_parts_and_blocks_by_pattern(pattern: str, kept: set[str]) -> None:
    model = encoders.exported("deit", 18)
    roles = find_transformer(model).roles
    names = resolve_keep(model, [pattern]).nodes[pattern]
    assert {roles[name].part for name in names} == kept


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("vit.front.fc1", "matches no node"),
        ("vit.fc3", "unknown part 'fc3'"),
        ("vit.7", "blocks 0 to 0"),
        ("vit.2-1.fc1", "blocks 0 to 0"),
    ],
)
def test_a_pattern_that_means_nothing_is_told(pattern: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        resolve_keep(encoders.exported("deit", 18), [pattern])


def test_the_safe_plan_keeps_what_a_transformer_without_mlp_has() -> None:
    weights = {name: nets.normal(seed, 16, 16) for seed, name in enumerate(("wq", "wk", "wv", "wo"))}
    model = nets.graph(
        "g (float[1,5,16] x) => (float[1,5,16] y) { q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) "
        "t = Transpose<perm=[0,2,1]>(k) l = MatMul(q, t) p = Softmax(l) c = MatMul(p, v) o = MatMul(c, wo) "
        "y = Add(o, x) }", weights,
    )  # fmt: skip
    roles = find_transformer(model).roles
    kept = resolve_keep(model, (), "safe").nodes
    assert {pattern: [roles[name].part for name in names] for pattern, names in kept.items()} == {
        "vit.projection": ["projection"]
    }
    with pytest.raises(InputError, match=r"'vit\.fc2': matches no node"):
        resolve_keep(model, ("vit.fc2",), "safe")


def test_a_pattern_of_parts_wants_an_attention() -> None:
    model = nets.graph("g (float[1,16] x) => (float[1,16] y) { y = MatMul(x, w) }", {"w": WEIGHTS["wq"]})
    with pytest.raises(InputError, match="no attention"):
        resolve_keep(model, ["vit.fc1"])


# Rewrites -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dynamic_batch", [False, True])
@pytest.mark.parametrize("name", ["deit", "torchvision", "clip"])
def test_linear_layers_as_gemm(name: str, dynamic_batch: bool) -> None:
    model = encoders.exported(name, 18, dynamic_batch=dynamic_batch)
    before = encoders.exported(name, 18, dynamic_batch=dynamic_batch)
    weighted = {node.name for node in before.graph if find_transformer(before).roles.get(str(node.name)) is not None}
    assert rewrite_linear(model).changed
    assert {node.name for node in model.graph} >= {name for name in weighted if "residual" not in str(name)}
    assert not any(weight_of(node) is not None for node in model.graph if node.op_type == "MatMul")
    for batch in (1, 3) if dynamic_batch else (1,):
        encoders.assert_computes_the_same(model, before, batch=batch)


def test_a_bias_of_another_shape_stays_an_add() -> None:
    text = "g (float[2,3,16] x) => (float[2,3,16] y) { h = MatMul(x, w) y = Add(h, b) }"
    weights = {"w": WEIGHTS["wq"], "b": nets.normal(9, 3, 16)}
    model, before = nets.graph(text, weights), nets.graph(text, weights)
    assert len(rewrite_linear(model).done) == 1
    assert nets.ops(model) == ["Reshape", "Gemm", "Reshape", "Add"]
    x = nets.normal(10, 2, 3, 16)
    np.testing.assert_allclose(nets.run(model, x)[0], nets.run(before, x)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dynamic_batch", [False, True])
@pytest.mark.parametrize("opset", encoders.OPSETS)
def test_a_packed_projection_is_split(opset: int, dynamic_batch: bool) -> None:
    model = encoders.exported("deit", opset, dynamic_batch=dynamic_batch)
    before = encoders.exported("deit", opset, dynamic_batch=dynamic_batch)
    report = split_projections(model)
    assert (len(report.done), report.left) == (1, {})
    assert {role.part for role in find_transformer(model).roles.values()} >= {"q", "k", "v"}
    for batch in (1, 3) if dynamic_batch else (1,):
        encoders.assert_computes_the_same(model, before, batch=batch)


def test_torch_s_own_multi_head_attention_is_split_without_five_dimensions() -> None:
    model, before = encoders.exported("torchvision", 18), encoders.exported("torchvision", 18)
    assert len(split_projections(model).done) == 1
    assert max(len(value.shape) for node in before.graph for value in node.outputs if value.shape is not None) == 5
    assert max(len(value.shape) for node in model.graph for value in node.outputs if value.shape is not None) == 4
    encoders.assert_computes_the_same(model, before)


def test_a_packed_projection_with_a_batch_in_the_middle_is_left_and_named() -> None:
    model = encoders.exported("torchvision", 18, dynamic_batch=True)
    report = split_projections(model)
    assert report.done == ()
    assert list(report.left.values()) == ["only the first axis of its output may be free"]


def test_a_piece_without_all_rows_is_left() -> None:
    text = """g (float[1,4,16] x) => (float[1,1,16] y) {
        p = MatMul(x, packed) f = Slice(p, zero, one, axis) q, a, b = Split<axis=2>(f, sizes)
        c0, k, v = Split<axis=2>(p, sizes) kt = Transpose<perm=[0,2,1]>(k) s = MatMul(q, kt)
        w = Softmax<axis=-1>(s) c = MatMul(w, v) y = MatMul(c, wo) }"""
    weights = {"packed": nets.normal(3, 16, 48), "wo": WEIGHTS["wo"], "sizes": np.array([16, 16, 16]),
               "zero": np.array([0]), "one": np.array([1]), "axis": np.array([1])}  # fmt: skip
    model = nets.graph(text, weights)
    assert list(split_projections(model).left.values()) == ["what reads it (f) does not take whole columns of it"]


def test_a_packed_projection_that_is_an_output_too_is_left() -> None:
    text = """g (float[1,4,16] x) => (float[1,4,16] y, float[1,4,48] p) {
        p = MatMul(x, packed) q, k, v = Split<axis=2>(p, sizes) kt = Transpose<perm=[0,2,1]>(k) s = MatMul(q, kt)
        w = Softmax<axis=-1>(s) c = MatMul(w, v) y = MatMul(c, wo) }"""
    weights = {"packed": nets.normal(3, 16, 48), "wo": WEIGHTS["wo"], "sizes": np.array([16, 16, 16])}
    model = nets.graph(text, weights)
    assert list(split_projections(model).left.values()) == ["what reads it (p) does not take whole columns of it"]
