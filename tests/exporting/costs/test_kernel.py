"""Kernels of a graph: what they are called, what they read and write."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given

from edgeq.errors import InputError
from edgeq.exporting.costs.kernel import ACTIVATIONS, OPERATORS, Kernel, kernel_of
from edgeq.exporting.costs.probe_nets import kernel_net, read_in_int8, tensor_net, write_probe
from edgeq.exporting.graphs.graph import infer_shapes, specs
from edgeq.exporting.passes.cleaning import clean
from tests.exporting import nets

LENGTHS = st.integers(1, 4096)
PAIRS = st.tuples(st.integers(1, 13), st.integers(1, 13))
KERNELS = st.builds(
    Kernel, st.sampled_from(OPERATORS), LENGTHS, LENGTHS, LENGTHS, LENGTHS, PAIRS, PAIRS, st.integers(1, 6), LENGTHS,
    st.sampled_from(("", *ACTIVATIONS)),
)  # fmt: skip

NET = """
agraph (float[1, 3, 17, 32] image) => (float[1, 8, 9, 16] r1, float[1, 5] scores)
{
    c1 = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(image, w1)
    r1 = Relu(c1)
    c2 = Conv<group = 8, pads = [1, 1, 1, 1]>(r1, w2)
    s2 = Sigmoid(c2)
    m2 = Mul(s2, c2)
    c3 = Conv(m2, w3)
    sum = Add(c3, r1)
    zero = Clip(sum, low)
    both = Concat<axis = 1>(zero, m2)
    pooled = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(both)
    mean = ReduceMean<keepdims = 0>(pooled, axes)
    scores = MatMul(mean, w4)
}
"""
WEIGHTS = {
    "w1": nets.normal(0, 8, 3, 3, 3),
    "w2": nets.normal(0, 8, 1, 3, 3),
    "w3": nets.normal(0, 8, 8, 1, 1),
    "w4": nets.normal(0, 16, 5),
    "low": np.array(0, np.float32),
    "axes": np.array([2, 3]),
}


@given(KERNELS)
def test_a_kernel_is_read_back_from_its_text(kernel):
    assert Kernel.parse(str(kernel)) == kernel


@pytest.mark.parametrize("text", ["", "Conv 3>8", "Cnv 3>8 4x4 k1x1 s1x1 d1 g1", "Conv 3>8 4x4 k1x1 s1x1 d1 g1 Erf"])
def test_other_text_is_refused(text):
    with pytest.raises(InputError, match="expected text such as"):
        Kernel.parse(text)


def test_the_kernels_of_a_graph():
    model = nets.graph(NET, WEIGHTS)
    infer_shapes(model)
    found = [str(kernel) for node in model.graph if (kernel := kernel_of(node)) is not None]
    assert found == [
        "Conv 3>8 17x32 k3x3 s2x2 d1 g1 Relu",
        "Conv 8>8 9x16 k3x3 s1x1 d1 g8 Silu",
        "Conv 8>8 9x16 k1x1 s1x1 d1 g1",
        "Add 8>8 9x16 k1x1 s1x1 d1 g1 Relu",
        "Concat 8>16 9x16 k1x1 s1x1 d1 g2",
        "MaxPool 16>16 9x16 k2x2 s2x2 d1 g1",
        "Gemm 16>5 1x1 k1x1 s1x1 d1 g1",
    ]
    kinds = [Kernel.parse(text).kind for text in found]
    assert kinds == ["stem", "depthwise", "1x1", "Add", "Concat", "MaxPool", "Gemm"]
    stem, depthwise, *_, linear = map(Kernel.parse, found)
    assert (stem.result.height, stem.result.width) == (9, 16)
    assert (depthwise.macs, linear.macs) == (9 * 16 * 8 * 9, 80)


@pytest.mark.parametrize(
    "text",
    [
        "Conv 3>8 17x12 k3x3 s2x2 d1 g1 Relu",
        "Conv 8>4 9x7 k5x3 s1x2 d2 g2 HardSwish",
        "Conv 8>16 8x8 k1x1 s2x2 d1 g1",
        "ConvTranspose 8>4 6x5 k4x4 s2x2 d1 g1 Silu",
        "Gemm 24>10 7x1 k1x1 s1x1 d1 g1",
        "MaxPool 8>8 9x9 k3x3 s2x2 d1 g1",
        "Concat 6>18 5x5 k1x1 s1x1 d1 g3",
        "Resize 8>8 5x5 k2x2 s1x1 d1 g1",
        "Add 8>8 5x5 k1x1 s1x1 d1 g1 Relu",
    ],
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_probe_computes_the_kernel_between_its_neighbours(text, channels_last):
    """Every network runs, its kernel is the one that it is named after, and INT8 computes what its own grids say."""
    kernel = Kernel.parse(text)
    for net in (kernel_net(kernel, "float"), kernel_net(kernel, "int8"), read_in_int8(kernel)):
        model = ir.from_proto(write_probe(net, pairs_behind=True, channels_last=channels_last))
        clean(model)
        infer_shapes(model)
        (given,) = specs(model.graph.inputs)
        image = np.random.default_rng(0).random([size or 1 for size in given.shape], dtype=np.float32)
        outputs = nets.run(model, image)
        result = kernel.result
        expected = (result.height, 16) if result.is_rows else (1, 16, result.height, result.width)
        assert sorted(outputs[-1].shape) == sorted(expected)
        if "int8" not in net.precisions:
            assert kernel in [kernel_of(node) for node in model.graph]


def test_neighbours_alone_compute_in_the_precisions_asked_for():
    tensor = Kernel.parse("Conv 8>8 5x5 k1x1 s1x1 d1 g1").result
    pairs = {}
    for before, behind in (("float", "float"), ("float", "int8"), ("int8", "float"), ("int8", "int8")):
        proto = write_probe(tensor_net(tensor, before, behind), pairs_behind=False, channels_last=False)  # type: ignore[arg-type]
        pairs[before, behind] = sum(node.op_type == "QuantizeLinear" for node in proto.graph.node)
    assert pairs == {("float", "float"): 0, ("float", "int8"): 1, ("int8", "float"): 1, ("int8", "int8"): 2}
