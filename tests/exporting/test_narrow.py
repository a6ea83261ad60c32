"""Graphs of fewer than 8 bits: the same as INT8 at 8, worse with every bit less, exact on the grid."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.json_results import bench_artifacts
from edgeq.calibrators import Grid, Histogram
from edgeq.calibrators.ranges import Provenance, Ranges
from edgeq.errors import InputError
from edgeq.exporting.artifact import Preprocessing
from edgeq.exporting.onnx.qdq import insert_qdq
from edgeq.exporting.onnx.simulated_bits import simulate
from edgeq.exporting.onnx.writer import FloatModel, write_fp32, write_int8
from edgeq.exporting.planning.plan import make_plan
from edgeq.exporting.planning.selection import select_layers
from edgeq.runtimes import choose_runtimes, open_session
from edgeq.targets import TARGETS, get_target
from tests.exporting.nets import copy, graph, normal, run

IMAGE = normal(9, 1, 3, 12, 12)


@pytest.fixture(scope="module")
def net() -> ir.Model:
    """Two convolutions and a residual, one bias far above what its weights' channel can hold, and a head in float."""
    text = """net (float[1,3,12,12] x) => (float[1,4,12,12] y) {
        c1 = Conv<pads=[1,1,1,1]>(x, w1, b1) r1 = Relu(c1)
        c2 = Conv<pads=[1,1,1,1]>(r1, w2) s = Add(c2, r1) r2 = Relu(s)
        y = Conv<pads=[1,1,1,1]>(r2, w3, b3)
    }"""
    first = normal(0, 8, 3, 3, 3)
    first[0] *= 1e-7
    weights = {"w1": first, "w2": normal(1, 8, 8, 3, 3) / 6, "w3": normal(2, 4, 8, 3, 3) / 6}
    return graph(text, weights | {"b1": 30 * normal(3, 8), "b3": normal(4, 4)})


@pytest.fixture(scope="module")
def ranges(net) -> Ranges:
    observed = copy(net)
    values = [value for node in observed.graph for value in node.outputs]
    observed.graph.outputs[:] = values
    found = dict(zip([value.name for value in values], run(observed, IMAGE), strict=True)) | {"x": IMAGE}
    return ranges_of({str(name): Histogram.of(array) for name, array in found.items()}, FloatModel("", net, SPEC))


SPEC = Preprocessing(height_px=12, width_px=12, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def ranges_of(histograms: dict[str, Histogram], model: FloatModel) -> Ranges:
    provenance = Provenance.of(
        model_digest=model.digest, preprocessing_digest=SPEC.digest, image_digests=["0"], tool_version=""
    )
    return Ranges.from_histograms(histograms, provenance, "minmax")


def narrowed(net: ir.Model, ranges: Ranges, target: str, weight_bits: int, activation_bits: int) -> ir.Model:
    model, rules = copy(net), get_target(target).rules
    selection = select_layers(model, rules).with_bits(weight_bits, activation_bits)
    insert_qdq(model, make_plan(model, selection, ranges, rules), rules)
    onnx.checker.check_model(ir.to_proto(model))
    return model


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_eight_bits_are_int8_bit_for_bit(net, ranges, target):
    rules = get_target(target).rules
    int8 = copy(net)
    insert_qdq(int8, make_plan(int8, select_layers(int8, rules), ranges, rules), rules)
    found = run(narrowed(net, ranges, target, 8, 8), IMAGE)
    np.testing.assert_array_equal(found[0], run(int8, IMAGE)[0])


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_the_error_falls_with_the_bits(net, ranges, target):
    exact = run(net, IMAGE)[0]

    def error(weight_bits: int, activation_bits: int) -> float:
        return float(np.mean((run(narrowed(net, ranges, target, weight_bits, activation_bits), IMAGE)[0] - exact) ** 2))

    for found in (
        [error(bits, bits) for bits in (2, 4, 6, 8)],
        [error(8, bits) for bits in (2, 4, 6, 8)],
        [error(bits, 8) for bits in (2, 4, 6, 8)],
    ):
        assert found == sorted(found, reverse=True)
        assert found[0] > 4 * found[-1]


@settings(deadline=None, max_examples=20)
@given(
    bits=st.integers(2, 8),
    target=st.sampled_from(["x86", "arm", "jetson-orin"]),
    low=st.sampled_from([0.0, -1.0, -5.0]),
    seed=st.integers(0, 99),
)
def test_values_on_the_grid_come_back_exactly_and_others_the_nearest(bits, target, low, seed):
    """An identity as weight: what comes out is what the pair made of the input."""
    eye = np.eye(16, dtype=np.float32)
    net = graph("g (float[1,16,16] x) => (float[1,16,16] y) { m = MatMul(x, w) y = Sigmoid(m) }", {"w": eye})
    rules = get_target(target).rules
    ranges = ranges_of({"x": Histogram.of([low, 4.0]), "m": Histogram.of([low, 4.0])}, FloatModel("", net, SPEC))
    plan = make_plan(net, select_layers(net, rules).with_bits(8, bits), ranges, rules)
    plan = dataclasses.replace(plan, tensors={name: grid for name, grid in plan.tensors.items() if name == "x"})
    written = copy(net)
    insert_qdq(written, plan, rules)
    written.graph.outputs[:] = [node.outputs[0] for node in written.graph if node.op_type == "MatMul"]
    grid = plan.tensors["x"]
    x = np.random.default_rng(seed).uniform(1.5 * low, 6, (1, 16, 16)).astype(np.float32)
    (found,) = run(written, x)
    levels = np.unique(found / np.float32(grid.scale) + grid.zero_point).round(3)
    assert len(levels) <= 2**bits
    np.testing.assert_array_equal(levels, levels.round())
    np.testing.assert_allclose(run(written, found)[0], found, rtol=1e-6)
    inside = (x > found.min()) & (x < found.max())
    assert np.abs(found - x)[inside].max(initial=0) <= grid.scale * 0.5001


def test_a_narrow_grid_is_that_of_the_range(net, ranges, tmp_path):
    low, high = ranges.interval("x")
    for bits in range(2, 9):
        plans = {}
        for target in ("x86", "arm", "jetson-orin"):
            rules = get_target(target).rules
            plans[target] = make_plan(net, select_layers(net, rules).with_bits(8, bits), ranges, rules).tensors["x"]
        wanted = Grid.asymmetric(low, high, bits)
        assert (plans["x86"].scale, plans["x86"].zero_point) == (wanted.scale, wanted.zero_point)
        assert (plans["arm"].scale, plans["arm"].zero_point) == (wanted.scale, wanted.zero_point - 2 ** (bits - 1))
        assert plans["jetson-orin"].scale == Grid.symmetric(ranges.threshold("x"), bits).scale
        assert plans["jetson-orin"].zero_point == 0
    with pytest.raises(InputError, match="9 bits: wanted a whole number from 2 to 8"):
        simulate(FloatModel("net", net, SPEC), get_target("x86"), ranges, None, 9, 8, tmp_path)


def test_weights_use_no_more_integers_than_their_bits(net, ranges):
    model = narrowed(net, ranges, "x86", 4, 8)
    stored = [value.const_value.numpy() for value in model.graph.initializers.values() if value.const_value is not None]
    integers = [array for array in stored if array.dtype == np.int8 and array.ndim == 4]
    assert len(integers) == 2
    assert max(int(np.abs(array).max()) for array in integers) == 7


def test_a_simulated_file_is_called_simulated_and_never_timed(net, ranges, tmp_path):
    model = FloatModel("net", net, SPEC)
    target = get_target("x86")
    artifact = simulate(model, target, ranges, None, 6, 4, tmp_path)
    assert artifact.path.name == "net.x86.simulated-w6a4.onnx"
    assert artifact.precision == "simulated-w6a4"
    assert artifact.quantization["simulated_bits"] == {"weights": 6, "activations": 4}
    assert choose_runtimes(artifact, ["onnxruntime", "openvino"]) == choose_runtimes(artifact) == ["simulated-narrow"]
    with pytest.raises(InputError, match="a simulation has no latency; no engine has its kernels"):
        bench_artifacts([artifact.path])
    with open_session(artifact, "simulated-narrow") as session:
        found = session.run({"x": IMAGE})["y"]
        assert "without graph optimizations in place of kernels for so few bits" in session.environment()["engine"]
    np.testing.assert_array_equal(found, run(narrowed(net, ranges, "x86", 6, 4), IMAGE)[0])
    assert choose_runtimes(write_fp32(model, target, tmp_path)) != ["simulated-narrow"]
    assert "simulated_bits" not in write_int8(model, target, tmp_path, ranges).quantization
