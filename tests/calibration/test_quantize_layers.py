"""Weights quantized layer by layer: each for what it reads behind quantized layers; interrupted runs are resumed."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.calibration import quantize_layers as module
from edgeq.calibration.quantize_layers import quantize_layers
from edgeq.exporting.graphs.graph import weight_of
from edgeq.exporting.jobs import PlannedWeight
from edgeq.exporting.planning.low_bit import as_matrix
from edgeq.quantizers.error_feedback import drawn_to_mean
from edgeq.quantizers.gptq import gptq
from edgeq.quantizers.round_nearest import round_nearest
from edgeq.schemes import PerGroup, Scheme
from tests.exporting import nets

TEXT = """g (float[5,16] x) => (float[5,8] y) {
    a = MatMul(x, wa) r = Relu(a) c = Gemm<transB=1>(r, wc, bc) s = Relu(c) l = Log(s)
    z = MatMul(l, wz) y = Add(z, z) }"""
SHAPES = {"wa": (16, 32), "wc": (16, 32), "bc": (16,), "wz": (16, 8)}
SCHEME = Scheme(bits=2, signed=False, symmetric=False, granularity=PerGroup(16, 1))
FEEDS = [{"x": nets.normal(seed, 5, 16)} for seed in range(20, 60)]


@pytest.fixture
def graph():
    return nets.graph(TEXT, {name: nets.normal(seed, *shape) for seed, (name, shape) in enumerate(SHAPES.items())})


@pytest.fixture
def planned(graph):
    found = {}
    for node in graph.graph:
        weight = weight_of(node)
        if weight is not None and node.op_type in ("MatMul", "Gemm"):
            found[str(node.name)] = PlannedWeight(as_matrix(node, weight), SCHEME)
    return found


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_each_layer_is_rounded_for_what_it_reads_behind_quantized_ones(graph, planned):
    found = quantize_layers(graph, planned, method="gptq", feeds=FEEDS, threads=1)
    first, second, third = planned
    x = np.concatenate([feed["x"] for feed in FEEDS]).astype(np.float64)
    wanted = gptq(planned[first].matrix, SCHEME, {"second_moments": drawn_to_mean(x.T @ x, len(x))})
    np.testing.assert_array_equal(found.weights[first].integers, wanted.integers)
    hidden = np.maximum(x.astype(np.float32) @ wanted.dequantize().T, 0).astype(np.float64)
    wanted = gptq(planned[second].matrix, SCHEME, {"second_moments": drawn_to_mean(hidden.T @ hidden, len(hidden))})
    assert (found.weights[second].integers == wanted.integers).mean() > 0.99
    # What a ReLU cut off has no finite logarithm: that layer is rounded to nearest.
    np.testing.assert_array_equal(
        found.weights[third].integers, round_nearest(planned[third].matrix, SCHEME, {}).integers
    )


def test_an_interrupted_run_is_resumed_with_the_same_result(graph, planned, monkeypatch, cache):
    whole = quantize_layers(graph, planned, method="awq+gptq", feeds=FEEDS, threads=1)
    assert not list(cache.rglob("*.jsonl")), "a finished job leaves nothing"
    calls: list[int] = []
    quantize = module.quantize_members

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return quantize(*arguments)

    monkeypatch.setattr(module, "quantize_members", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quantize_layers(graph, planned, method="awq+gptq", feeds=FEEDS, threads=1)
    again = quantize_layers(graph, planned, method="awq+gptq", feeds=FEEDS, threads=1)
    assert len(calls) == 4, "the first layer is not quantized again"
    for name, weight in whole.weights.items():
        for part in ("integers", "scale", "zero_point"):
            np.testing.assert_array_equal(getattr(again.weights[name], part), getattr(weight, part))
    assert [each.tensor for each in again.inputs] == [each.tensor for each in whole.inputs]
    for one, other in zip(again.inputs, whole.inputs, strict=True):
        np.testing.assert_array_equal(one.scales, other.scales)


def test_methods_without_data_run_nothing(graph, planned, monkeypatch):
    monkeypatch.setattr(module, "Walk", None)
    found = quantize_layers(graph, planned, method="hqq")
    assert found.weights.keys() == planned.keys() and not found.inputs


GROUPED = "g (float[1,4,6,6] x) => (float[1,6,3,3] y) { y = Conv<group=2, strides=[2,2], pads=[1,1,1,1]>(x, w) }"


def test_convolutions_are_rounded_group_by_group_of_their_channels():
    weight = nets.normal(0, 6, 2, 3, 3)
    graph = nets.graph(GROUPED, {"w": weight})
    (node,) = (node for node in graph.graph if node.op_type == "Conv")
    scheme = Scheme(bits=3, signed=False, symmetric=False, granularity=PerGroup(9, 1))
    planned = {str(node.name): PlannedWeight(as_matrix(node, weight), scheme)}
    feeds = [{"x": nets.normal(seed, 1, 4, 6, 6)} for seed in range(20, 40)]
    found = quantize_layers(graph, planned, method="gptq", feeds=feeds, threads=1).weights[str(node.name)]
    for part in range(2):
        rows = []
        for feed in feeds:
            padded = np.pad(feed["x"][0, 2 * part : 2 * part + 2], ((0, 0), (1, 1), (1, 1))).astype(np.float64)
            rows += [padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].ravel() for i in range(3) for j in range(3)]
        x = np.stack(rows)
        wanted = gptq(weight[3 * part : 3 * part + 3].reshape(3, 18), scheme, {
            "second_moments": drawn_to_mean(x.T @ x, len(x)),
        })  # fmt: skip
        np.testing.assert_array_equal(found.integers[3 * part : 3 * part + 3], wanted.integers)
