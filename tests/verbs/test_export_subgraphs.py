"""Graphs with If, Loop, Scan, functions, other domains and detections chosen inside: kept whole, in every file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeq.calibration.source import CalibrationSource
from edgeq.errors import EngineError
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.graphs.graph import read_onnx
from edgeq.exporting.graphs.linear import linear_of
from edgeq.exporting.passes.captures import isolate_captures
from edgeq.inputs import items_of
from edgeq.sources.model import ModelRequest, open_model
from edgeq.targets import get_target
from edgeq.verbs.export import export_model
from tests.exporting import nets

PRESET = '[preprocessing]\nresize = "stretch"\n'
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 20, 24, 3), np.uint8)
BODY = "a1 = Conv<pads=[1,1,1,1]>(x, w1) a2 = Relu(a1) a3 = Conv<pads=[1,1,1,1]>(a2, w2) a4 = Relu(a3) "
WEIGHTS = {
    "w1": nets.normal(1, 6, 3, 3, 3) / 4, "w2": nets.normal(2, 6, 6, 3, 3) / 6, "w3": nets.normal(3, 6, 6, 1, 1) / 2
}  # fmt: skip
BOXES = {
    "wb": nets.normal(4, 4, 6, 1, 1), "ws": nets.normal(5, 3, 6, 1, 1), "shape_b": np.array([1, 4, 80]),
    "shape_s": np.array([1, 3, 80]), "most": np.array([4]), "iou": np.array([0.5], np.float32),
    "least": np.array([0.1], np.float32), "k": np.array([6]), "half": np.array(0.5, np.float32),
    "first": np.array([0]), "two": np.array([2]), "four": np.array([4]), "axis1": np.array([1]),
    "at_shape": np.array([1, 4, 6]),
}  # fmt: skip

# What a branch reads from outside: a ReLU and an Add there are not those of the layers here.
BRANCH = (
    "g (float[1,3,8,10] x) => (float[1,6,8,10] y) {" + BODY + "a5 = Conv(a4, w3) m = ReduceMax<keepdims=0>(x)"
    " c = Greater(m, half) y = If(c) <then_branch = t () => (float[1,6,8,10] p) { p = Relu(a5) },"
    " else_branch = e () => (float[1,6,8,10] q) { q1 = Add(a5, a2) q2 = Conv<pads=[1,1,1,1]>(q1, w2) q = Identity(q2) }"
    "> }",
    {"half": np.array(0.5, np.float32)},
)  # fmt: skip
# A branch that hands a tensor on as it is, inside a loop.
NESTED = (
    "g (float[1,3,8,10] x) => (float[1,6,8,10] y) {" + BODY + "a5 = Conv(a4, w3)"
    " y = Loop(n, , a5) <body = b (int64 i, bool go,"
    " float[1,6,8,10] s) => (bool on, float[1,6,8,10] z) { on = Identity(go) odd = Mod(i, two) c = Cast<to=9>(odd)"
    " r = If(c) <then_branch = t () => (float[1,6,8,10] p) { p = Identity(a2) },"
    " else_branch = e () => (float[1,6,8,10] q) { q = Sigmoid(s) }> z = Add(s, r) }> }",
    {"n": np.array(3), "two": np.array(2)},
)
# A state that is also scanned out.
SUM = (
    "g (float[1,3,8,10] x) => (float[6,8,10] y, float[8,10] last) {" + BODY + "rows = Squeeze(a4, first)"
    " last, y = Scan(zeros, rows) <num_scan_inputs = 1, body = b (float[8,10] s, float[8,10] v) =>"
    " (float[8,10] s2, float[8,10] o) { s2 = Add(s, v) o = Identity(s2) }> }",
    {"zeros": np.zeros((8, 10), np.float32), "first": np.array([0])},
)
WITH_SUBGRAPHS = {"branch": BRANCH, "nested": NESTED, "sum": SUM}

NMS = (
    "g (float[1,3,8,10] x) => (int64[n,3] chosen, float[1,80,4] boxes) {" + BODY + "b1 = Conv(a4, wb)"
    " s1 = Conv(a4, ws) b2 = Reshape(b1, shape_b) b3 = Transpose<perm=[0,2,1]>(b2)"
    " centre = Slice(b3, first, two, two) size = Slice(b3, two, four, two) part = Mul(size, half)"
    " low = Sub(centre, part) high = Add(centre, part) boxes = Concat<axis=2>(low, high)"
    " s2 = Reshape(s1, shape_s) s3 = Sigmoid(s2) chosen = NonMaxSuppression(boxes, s3, most, iou, least) }"
)
TOPK = (
    "g (float[1,3,8,10] x) => (float[1,6] best, int64[1,6] which, float[1,4,6] at) {" + BODY + "b1 = Conv(a4, wb)"
    " s1 = Conv(a4, ws) b2 = Reshape(b1, shape_b) s2 = Reshape(s1, shape_s) s3 = Sigmoid(s2)"
    " s4 = ReduceMax<keepdims=0>(s3, axis1) best, which = TopK(s4, k)"
    " w2d = Unsqueeze(which, axis1) w3d = Expand(w2d, at_shape) at = GatherElements<axis=2>(b2, w3d) }"
)
CHOOSING = {"nms": NMS, "topk": TOPK}


def save(
    folder: Path, text: str, weights: dict[str, np.ndarray] | None = None, functions: str = "", imports: str = ""
) -> ModelRequest:
    header = f'<ir_version: 8, opset_import: ["" : 18{imports}]>'
    proto = onnx.parser.parse_model(f"{header} {text} {functions}")
    for name, array in {**WEIGHTS, **(weights or {})}.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(proto, folder / "model.onnx")
    (folder / "preset.toml").write_text(PRESET)
    return ModelRequest(str(folder / "model.onnx"), preset=str(folder / "preset.toml"))


def export(request: ModelRequest, target: str, folder: Path) -> dict[str, Artifact]:
    request = dataclasses.replace(request, opset=get_target(target).rules.opset)
    source = CalibrationSource(list(items_of(list(IMAGES), 8)), method="minmax")
    result = export_model(request, target, ("fp32", "fp16", "int8"), folder / "out", calibration=source)
    return {each.artifact.precision: each.artifact for each in result.files}


def bodies(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yields the nodes inside the subgraphs of a graph."""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from attribute.g.node
                yield from bodies(attribute.g)


@pytest.mark.parametrize("target", ["x86", "jetson-orin-trt11"])
@pytest.mark.parametrize("kind", WITH_SUBGRAPHS)
def test_subgraphs_stay_whole_and_in_float(tmp_path, kind, target):
    text, weights = WITH_SUBGRAPHS[kind]
    request = save(tmp_path, text, weights)
    source = sorted(node.op_type for node in bodies(onnx.load(request.reference).graph))
    artifacts = export(request, target, tmp_path)
    for precision, artifact in artifacts.items():
        proto = onnx.load(artifact.path)
        onnx.checker.check_model(proto, full_check=True)
        inside = sorted(node.op_type for node in bodies(proto.graph))
        assert [each for each in inside if each != "Identity"] == [each for each in source if each != "Identity"]
        assert [spec.name for spec in artifact.outputs] == [value.name for value in proto.graph.output]
        assert precision == "fp32" or artifact.quantization["signal"]["outputs"][0]["snr_db"] > 20
    assert artifacts["int8"].quantization["int8_nodes"] > 0


def test_a_reader_inside_a_branch_is_no_part_of_a_layer():
    text = (
        "g (float[1,4] x, float[4,6] u) => (float[1,6] y) { p = MatMul(x, w) m = ReduceMax<keepdims=0>(x)"
        " c = Greater(m, half) y = If(c) <then_branch = t () => (float[1,6] a) { a = Add(p, bias) },"
        " else_branch = e () => (float[1,6] b) { b1 = MatMul(x, u) b = Relu(b1) }> }"
    )
    weights = {"w": nets.normal(1, 4, 6), "bias": nets.normal(2, 6), "half": np.array(0.5, np.float32)}
    model = nets.graph(text, weights)
    inputs = nets.normal(3, 1, 4), nets.normal(4, 4, 6)
    expected = nets.run(model, *inputs)
    report = isolate_captures(model)
    assert len(report.done) == 1
    assert nets.ops(model).count("Identity") == 3  # p, x and u; the constants stay
    (product,) = (node for node in model.graph if node.op_type == "MatMul")
    layer = linear_of(product)
    assert layer is not None
    assert layer.add is None
    np.testing.assert_array_equal(nets.run(model, *inputs), expected)
    assert not isolate_captures(model).changed


@pytest.mark.parametrize("target", ["x86", "jetson-orin-trt11"])
@pytest.mark.parametrize("kind", CHOOSING)
def test_heads_are_recognised_before_the_choice_of_detections(tmp_path, kind, target):
    request = save(tmp_path, CHOOSING[kind], BOXES)
    artifacts = export(request, target, tmp_path)
    names = {node.output[0]: node.name for node in onnx.load(artifacts["fp32"].path).graph.node}
    floats = artifacts["int8"].quantization["float_nodes"]
    assert floats == {names["b1"]: "last convolution of a head", names["s1"]: "last convolution of a head"}
    assert artifacts["int8"].quantization["int8_nodes"] == 2


def test_a_function_is_inlined_and_its_layers_are_quantized(tmp_path):
    request = save(
        tmp_path,
        "g (float[1,3,8,10] x) => (float[1,6,8,10] y) {" + BODY + "b1 = my.block(a4, w2) y = Sigmoid(b1) }",
        None,
        '<domain: "my", opset_import: ["" : 18]> block (a, w) => (d) { b = Conv<pads=[1,1,1,1]>(a, w) c = Relu(b)'
        " d = Conv<pads=[1,1,1,1]>(c, w) }",
        ', "my" : 1',
    )
    artifact = export(request, "x86", tmp_path)["int8"]
    assert artifact.quantization["int8_nodes"] == 3
    assert {entry.domain for entry in onnx.load(artifact.path).opset_import} == {""}


def test_operators_of_other_domains_are_kept(tmp_path):
    request = save(
        tmp_path,
        "g (float[1,3,8,10] x) => (float[1,6,8,10] y) {" + BODY
        + "b = com.microsoft.QuickGelu<alpha=1.7>(a4) y = Conv(b, w3) }",
        imports=', "com.microsoft" : 1',
    )  # fmt: skip
    for artifact in export(request, "x86", tmp_path).values():
        proto = onnx.load(artifact.path)
        assert ("com.microsoft", 1) in {(entry.domain, entry.version) for entry in proto.opset_import}
        (node,) = (node for node in proto.graph.node if node.domain)
        assert (node.op_type, node.attribute[0].f) == ("QuickGelu", pytest.approx(1.7))


def test_an_operator_that_nobody_knows_is_named(tmp_path):
    text = "g (float[1,3,8,10] x) => (float[1,6,8,10] y) {" + BODY + "y = my.Thing(a4) }"
    request = save(tmp_path, text, imports=', "my" : 1')
    assert "Thing" in nets.ops(open_model(request).model.graph)
    with pytest.raises(EngineError, match=r"does not know its operator my:Thing, and a model that cannot be run can "):
        export(request, "x86", tmp_path)
    assert not list((tmp_path / "out").glob("*.onnx"))
    assert "Thing" in nets.ops(read_onnx(Path(request.reference)))
