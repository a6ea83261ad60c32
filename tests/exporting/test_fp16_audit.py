"""The FP16 audit: graphs that FP16 breaks, and what keeps them whole."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from edgeq.calibrators import Histogram
from edgeq.calibrators.ranges import Provenance, Ranges
from edgeq.cli.export_console import describe_layers
from edgeq.errors import MismatchError
from edgeq.exporting.artifact import Artifact, Preprocessing
from edgeq.exporting.graphs.graph import constant, data_inputs, infer_shapes, read_onnx
from edgeq.exporting.onnx.writer import FloatModel, write_fp16, write_int8
from edgeq.exporting.planning.fp16_audit import audit_fp16, audited_tensors, thinned
from edgeq.exporting.tensorrt.check import check_graph
from edgeq.exporting.tensorrt.strong_typing import to_fp16
from edgeq.runtimes.observer import ActivationObserver
from edgeq.targets import get_target
from tests.exporting import nets
from tests.fuzz.noise import session

NORM = {"g": nets.positive(3, 16), "n": nets.normal(4, 16)}


def observe(model: ir.Model, *inputs: np.ndarray) -> Ranges:
    """Returns the ranges of what the audit wants to see, of the input, and of what feeds linear layers."""
    name = str(model.graph.inputs[0].name)
    fed = [str(data_inputs(node)[0].name) for node in model.graph if node.op_type == "MatMul"]
    observer = ActivationObserver(model, list(dict.fromkeys([name, *audited_tensors(model), *fed])), 1)
    seen = [observer.observe({name: x}) for x in inputs]
    histograms = {key: Histogram.of(*(each[key] for each in seen)) for key in seen[0]}
    provenance = Provenance.of(model_digest="", preprocessing_digest="", image_digests=(), tool_version="")
    return Ranges.from_histograms(histograms, provenance, "minmax")


def compute_in_fp16(model: ir.Model, x: np.ndarray) -> np.ndarray:
    """Returns the output by onnx's reference evaluator, which computes FP16 tensors in FP16 alone."""
    with np.errstate(all="ignore"):
        (result, *_) = ReferenceEvaluator(ir.to_proto(model)).run(None, {str(model.graph.inputs[0].name): x})
    return np.asarray(result)


def check_islands(model: ir.Model, x: np.ndarray, tolerance: float = 0.02) -> dict[str, str]:
    """Returns the islands of a graph that FP16 alone breaks, having compared the FP16 graph with and without them.

    ONNX Runtime has no FP16 kernels for CPUs: it computes in FP32 and leaves out Casts to FP16 and back between two
    nodes. What breaks is therefore seen in onnx's reference evaluator.
    """
    want = nets.run(model, x)[0]
    islands = audit_fp16(model, observe(model, x))
    plain, kept = nets.copy(model), nets.copy(model)
    to_fp16(plain)
    to_fp16(kept, islands)
    onnx.checker.check_model(ir.to_proto(kept), full_check=True)
    scale = tolerance * np.abs(want).max()
    np.testing.assert_allclose(nets.run(kept, x)[0], want, atol=scale)
    np.testing.assert_allclose(compute_in_fp16(kept, x), want, atol=scale)
    with np.errstate(invalid="ignore"):
        assert not np.abs(compute_in_fp16(plain, x) - want).max() < scale
    return islands


def test_a_linear_layer_beyond_fp16_and_its_normalisation_stay_fp32():
    model = nets.graph(
        """g (float[1,8,16] x) => (float[1,8,4] y) { r = Relu(x) m = MatMul(r, big) a = Add(m, n)
        l = LayerNormalization(a, g, n) y = MatMul(l, w) }""",
        NORM | {"big": 1.5e4 * nets.normal(1, 16, 16), "w": nets.normal(2, 16, 4)},
    )
    names = [str(node.name) for node in model.graph]
    islands = check_islands(model, nets.normal(9, 1, 8, 16))
    assert list(islands) == names[1:4]  # neither the ReLU before nor the linear layer behind
    assert "m may reach" in islands[names[1]]  # by its weights
    assert islands[names[3]].startswith("a reaches") and islands[names[3]].endswith("FP16 ends at 65504")


def test_a_linear_layer_that_nobody_observed_is_bounded_by_its_weights():
    model = nets.graph(
        "g (float[1,8,16] x) => (float[1,8,4] y) { m = MatMul(x, up) t = Tanh(m) p = Softmax(t) y = MatMul(p, w) }",
        {"up": 3e4 * nets.positive(1, 16, 16), "w": nets.normal(2, 16, 4)},
    )
    x = nets.normal(9, 1, 8, 16)
    islands = audit_fp16(model, observe(model, x))
    assert list(islands) == [node.name for node in list(model.graph)[:2]]
    assert all("m may reach" in reason for reason in islands.values())


def test_large_logits_are_computed_in_fp32_from_the_product_on():
    model = nets.graph(
        """g (float[1,2,8,16] x) => (float[1,2,8,16] y) { k = Transpose<perm=[0,1,3,2]>(x) q = Mul(x, s)
        m = MatMul(q, k) p = Softmax<axis=-1>(m) y = MatMul(p, x) }""",
        {"s": np.array(1e4, np.float32)},
    )
    x = nets.normal(9, 1, 2, 8, 16)
    islands = check_islands(model, x)
    assert {node.op_type for node in model.graph if node.name in islands} == {"MatMul", "Softmax"}
    assert list(model.graph)[-1].name not in islands


def test_logits_that_fit_but_are_too_coarse_are_told_by_the_step():
    model = nets.graph(
        "g (float[1,8,16] x) => (float[1,8,16] y) { m = Mul(x, s) p = Softmax<axis=-1>(m) y = Relu(p) }",
        {"s": np.array(900, np.float32)},
    )
    islands = audit_fp16(model, observe(model, nets.normal(9, 1, 8, 16)))
    assert [node.op_type for node in model.graph if node.name in islands] == ["Mul", "Softmax"]
    assert all("where FP16 has steps of" in reason for reason in islands.values())
    small = nets.graph("g (float[1,8,16] x) => (float[1,8,16] y) { y = Softmax<axis=-1>(x) }")
    assert audit_fp16(small, observe(small, 50 * nets.normal(9, 1, 8, 16))) == {}


def test_the_sum_of_squares_inside_a_normalisation_is_bounded():
    """Its input fits well, and so do the squares; 768 of them do not."""
    text = "g (float[1,4,768] x) => (float[1,4,768] y) { y = LayerNormalization(x, g, n) }"
    model = nets.graph(text, {"g": nets.positive(3, 768), "n": nets.normal(4, 768)})
    (reason,) = audit_fp16(model, observe(model, 5 * nets.normal(9, 1, 4, 768))).values()
    assert reason.startswith("it adds up 768 squares of up to")
    assert audit_fp16(model, observe(model, nets.normal(9, 1, 4, 768))) == {}


def test_a_normalisation_written_as_nodes_keeps_its_squares():
    text = """g (float[1,4,16] x) => (float[1,4,16] y) { u = ReduceMean<keepdims=1>(x, axes) c = Sub(x, u)
        q = Pow(c, two) v = ReduceMean<keepdims=1>(q, axes) e = Add(v, eps) d = Sqrt(e) o = Div(c, d) y = Mul(o, g) }"""
    constants = {"axes": np.array([-1]), "two": np.array(2, np.float32), "eps": np.array(1e-8, np.float32)}
    model = nets.graph(text, NORM | constants)
    for scale in (400, 3e-4):
        islands = check_islands(model, np.float32(scale) * nets.normal(9, 1, 4, 16))
        kinds = {node.op_type for node in model.graph if node.name in islands}
        assert {"Pow", "ReduceMean"} <= kinds
    assert audit_fp16(model, observe(model, nets.normal(9, 1, 4, 16))) == {}


@pytest.mark.parametrize(("scale", "whole"), [(1e-3, False), (1e3, False), (3e4, True)])
def test_a_normalisation_written_as_nodes_loads_with_optimizations(scale, whole):
    """ONNX Runtime fuses it; half in FP16, half in FP32 it did not load."""
    text = """g (float[1,4,16] x) => (float[1,4,16] y) { a = MatMul(x, w) u = ReduceMean(a, axes) c = Sub(a, u)
        q = Pow(c, two) v = ReduceMean(q, axes) e = Add(v, eps) d = Sqrt(e) o = Div(c, d) m = Mul(o, g)
        y = Add(m, n) }"""
    constants = {"two": np.array(2, np.float32), "eps": np.array(1e-9, np.float32), "axes": np.array([-1])}
    weight = np.float32(scale) * nets.normal(5, 16, 16) / 4
    model = nets.graph(text, NORM | constants | {"w": weight})
    x = nets.normal(9, 1, 4, 16)
    want = nets.run(model, x)[0]
    islands = audit_fp16(model, observe(model, x))
    shifts = {str(node.name) for node in model.graph if node.op_type in ("Mul", "Add") and node.outputs[0].name != "e"}
    assert shifts <= islands.keys() if whole else not shifts & islands.keys()
    to_fp16(model, islands)
    (found,) = session(ir.to_proto(model), optimize=True).run(None, {"x": x})
    np.testing.assert_allclose(found, want, atol=0.01 * np.abs(want).max())


def test_a_variance_of_few_digits_is_told():
    model = nets.graph("g (float[1,4,16] x) => (float[1,4,16] y) { y = LayerNormalization(x, g, n) }", NORM)
    (reason,) = audit_fp16(model, observe(model, np.float32(1e-3) * nets.normal(9, 1, 4, 16))).values()
    assert "its variance is about" in reason and "FP16 loses digits below" in reason


def test_a_constant_beyond_fp16_makes_an_island_instead_of_a_refusal():
    model = nets.graph(
        "g (float[1,4] x) => (float[1,4] y) { a = Mul(x, big) b = Mul(a, small) y = Relu(b) }",
        {"big": np.full(4, 1e6, np.float32), "small": np.full(4, 1e-6, np.float32)},
    )
    x = nets.normal(9, 1, 4)
    islands = audit_fp16(model, observe(model, x))
    to_fp16(model, islands)
    np.testing.assert_allclose(compute_in_fp16(model, x), np.maximum(x, 0), atol=1e-3)


def test_casts_stand_once_at_the_borders():
    """A tensor with readers on both sides is cast once, and a constant of both sides exists in both types."""
    model = nets.graph(
        """g (float[1,16] x) => (float[1,16] y, float[1,16] z) { a = Add(x, n) b = Mul(a, n) c = Mul(a, n)
        d = Relu(b) y = Add(d, c) z = Sub(b, a) }""",
        NORM,
    )
    x = nets.normal(9, 1, 16)
    want = nets.run(model, x)
    names = [str(node.name) for node in model.graph]
    to_fp16(model, {names[1], names[5]})  # b and z
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    casts = [(data_inputs(node)[0].name, node.outputs[0].dtype) for node in model.graph if node.op_type == "Cast"]
    assert sorted(casts, key=str) == [
        ("a", ir.DataType.FLOAT), ("b", ir.DataType.FLOAT16), ("x", ir.DataType.FLOAT16), ("y_fp16", ir.DataType.FLOAT),
    ]  # fmt: skip
    assert {value.dtype for name, value in model.graph.initializers.items() if name.startswith("n")} == {
        ir.DataType.FLOAT, ir.DataType.FLOAT16
    }  # fmt: skip
    for got, wanted in zip(nets.run(model, x), want, strict=True):
        np.testing.assert_allclose(got, wanted, atol=0.01)


def test_pairs_beside_an_island_belong_to_it():
    """Otherwise a Cast would stand between a DequantizeLinear and the layer that the engine fuses it with."""
    proto = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 19]> g (float[1,8,16] x) => (float[1,8,16] y)
        <float s = {0.05}, float t = {200000.0}, int8 z = {0}> {
        q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) v = DequantizeLinear(wq, t, z) m = MatMul(d, v)
        l = LayerNormalization(m, g, n) k = QuantizeLinear(l, s, z) y = DequantizeLinear(k, s, z) }"""
    )
    weight = np.random.default_rng(0).integers(-127, 128, (16, 16)).astype(np.int8)
    weights = NORM | {"wq": weight}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    model = ir.from_proto(proto)
    for index, node in enumerate(model.graph):
        node.name = "qdvmlkp"[index]
    infer_shapes(model)
    x = nets.normal(9, 1, 8, 16)
    want = nets.run(model, x)[0]
    to_fp16(model, {"m", "l"})
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert [node.op_type for node in model.graph].count("Cast") == 2  # the graph's ends
    np.testing.assert_allclose(nets.run(model, x)[0], want, atol=0.06)
    # A pair of two types has one scale, and check refuses neither it nor the type of its QuantizeLinear.
    scales = [scale for node in model.graph if node.name in ("q", "d", "k", "p") if (scale := node.inputs[1])]
    half, whole = ir.DataType.FLOAT16, ir.DataType.FLOAT
    assert [scale.dtype for scale in scales] == [half, whole, whole, half]
    assert len({float(array) for scale in scales if (array := constant(scale)) is not None}) == 1
    found = check_graph(model, (11, 0)).findings
    assert not [each for each in found if each.rule == "T11" or (each.rule, each.node) == ("T14", "k")]


@given(st.integers(1, 400), st.integers(0, 2**32 - 1))
def test_a_thinned_tensor_keeps_its_extremes_and_about_its_mean_square(size, seed):
    array = nets.normal(seed, 3, size)
    few = thinned(array)
    assert (few.min(), few.max(), few.dtype) == (array.min(), array.max(), array.dtype)
    assert len(few) == 2 + -(-array.size // 17)
    wide = thinned(nets.normal(seed, 500, 192) * np.linspace(0, 2, 192, dtype=np.float32))
    assert (wide**2).mean() == pytest.approx(4 / 3, rel=0.2)


def test_without_ranges_nothing_is_audited_which_the_log_says(caplog):
    caplog.set_level(logging.INFO, "edgeq")
    model = nets.graph("g (float[1,4,16] x) => (float[1,4,16] y) { y = LayerNormalization(x, g, n) }", NORM)
    assert audit_fp16(model, None) == {}
    (record,) = caplog.records
    assert "1 tensors of normalisations, softmaxes and sums were not observed; give `calib`" in record.getMessage()


def test_a_plain_cnn_is_neither_observed_more_nor_mentioned(caplog):
    caplog.set_level(logging.INFO, "edgeq")
    model = nets.graph(
        "g (float[1,3,8,8] x) => (float[1,4,6,6] y) { a = Conv(x, w) y = Relu(a) }", {"w": nets.normal(1, 4, 3, 3, 3)}
    )
    assert audited_tensors(model) == []
    assert audit_fp16(model, None) == audit_fp16(model, observe(model, nets.normal(9, 1, 3, 8, 8))) == {}
    assert not caplog.records


def test_a_real_detector_has_no_islands(shared_data):
    pytest.importorskip("torch")
    from edgeq.calibration.calibrate import calibrate
    from edgeq.inputs.images import list_images
    from edgeq.sources.model import ModelRequest, open_model

    request = ModelRequest(
        "centernet_resnet18", shared_data / "weights" / "centernet_r18_bccd.safetensors", size=(320, 416)
    )
    model = open_model(request).model
    images = list_images(shared_data / "bccd" / "images")[:2]
    assert audit_fp16(model.graph, calibrate(model, images, threads=1).ranges) == {}


OVERFLOWING = """g (float[1,8,16] x) => (float[1,8,4] y) { m = MatMul(x, big)
    l = LayerNormalization(m, g, n) y = MatMul(l, w) }"""


@pytest.mark.parametrize("target_name", ["jetson-orin", "jetson-orin-trt11"])
def test_both_kinds_of_fp16_files_name_their_islands(tmp_path, target_name):
    """TensorRT 11 finds them in the file; for earlier versions the file is FP32, and the manifest tells the builder."""
    target = get_target(target_name)
    weights = NORM | {"big": 1e4 * nets.normal(1, 16, 16), "w": nets.normal(2, 16, 4)}
    graph = nets.in_opset(nets.graph(OVERFLOWING, weights), target.rules.opset)
    model, x = FloatModel("net", graph, Preprocessing(8, 16)), nets.normal(9, 1, 8, 16)
    names = [str(node.name) for node in graph.graph]
    seen = observe(graph, x)
    provenance = dataclasses.replace(
        seen.provenance, model_digest=model.digest, preprocessing_digest=model.preprocessing.digest
    )
    ranges = dataclasses.replace(seen, provenance=provenance)
    want = nets.run(graph, x)[0]
    for artifact in (write_fp16(model, target, tmp_path, ranges), write_int8(model, target, tmp_path, ranges)):
        assert list(Artifact.load(artifact.path).quantization["fp16_islands"]) == names[:2]
        assert describe_layers(artifact.quantization_facts)[-1].startswith(
            "2 layers kept in FP32 because FP16 would overflow or lose digits: "
        )
        got = nets.run(read_onnx(artifact.path), x)[0]
        np.testing.assert_allclose(got, want, atol=0.1 * np.abs(want).max())
    strange = dataclasses.replace(provenance, model_digest="2:" + "0" * 64)
    other = dataclasses.replace(ranges, provenance=strange)
    with pytest.raises(MismatchError, match="another model"):
        write_fp16(model, target, tmp_path, other)
