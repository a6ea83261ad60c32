"""Every ONNX operator that can be converted computes in torch what ONNX Runtime computes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from edgeq.errors import ModelError
from edgeq.exporting.passes.cleaning import clean
from edgeq.exporting.tflite.convert import convert_module
from edgeq.exporting.tflite.onnx_module import onnx_to_torch
from edgeq.exporting.tflite.onnx_operations import OPERATIONS
from tests import tflite_nets
from tests.exporting import nets, test_shape_arithmetic

Weights = Mapping[str, np.ndarray]

MAP = (1, 4, 7, 9)


def build(line: str, shape: Sequence[int], weights: Weights, outputs: Sequence[str], opset: int) -> ir.Model:
    """Returns the graph of one line of ONNX text, whose operator may not be changed on the way."""
    dims = ",".join(map(str, shape))
    results = ", ".join(f"float {name}" for name in outputs)
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[{dims}] x) => ({results}) {{ {line} }}'
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    model = ir.from_proto(proto)
    clean(model)
    return model


def integers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


W3, B = nets.normal(3, 6, 4, 3, 3), nets.normal(4, 6)
DECONV = nets.normal(5, 4, 3, 3, 3)
C4 = [nets.positive(seed, 4) for seed in range(6, 10)]

CASES: list[tuple[str, Weights]] = [
    ("y = Relu(x)", {}),
    ("a = Cast<to=7>(x) y = Cast<to=1>(a)", {}),
    ("y = Sigmoid(x)", {}),
    ("y = Tanh(x)", {}),
    ("y = Exp(x)", {}),
    ("y = CumSum(x, axis)", {"axis": np.array(2)}),
    ("y = CumSum<exclusive=1, reverse=1>(x, axis)", {"axis": np.array([-1])}),
    ("a = Abs(x) y = Log(a)", {}),
    ("a = Abs(x) y = Sqrt(a)", {}),
    ("y = Erf(x)", {}),
    ("y = Neg(x)", {}),
    ("y = Reciprocal(x)", {}),
    ("y = Add(x, w)", {"w": nets.normal(1, 4, 1, 1)}),
    ("y = Sub(w, x)", {"w": nets.normal(1, 4, 1, 1)}),
    ("y = Mul(x, w)", {"w": nets.normal(1, 1)}),
    ("y = Div(x, w)", {"w": nets.positive(1, 9)}),
    ("y = Pow(x, w)", {"w": floats(2)}),
    ("i = Cast<to=6>(x) y = Cast<to=1>(i)", {}),
    ("y = Sin(x)", {}),
    ("y = Cos(x)", {}),
    ("y = Floor(x)", {}),
    ("y = Ceil(x)", {}),
    ("h = Mul(x, w) r = Round(h) y = Add(r, r)", {"w": floats(3.5)}),
    ("y = Sign(x)", {}),
    ("g = Greater(x, w) l = Less(x, v) a = And(g, l) y = Where(a, x, w)", {"w": floats(-0.5), "v": floats(0.5)}),
    ("g = GreaterOrEqual(x, w) l = LessOrEqual(x, v) o = Or(g, l) n = Not(o) y = Where(n, w, x)",
     {"w": floats(0.5), "v": floats(-0.5)}),
    ("f = Floor(x) e = Equal(f, w) y = Where(e, w, x)", {"w": floats(-1)}),
    ("y = Sum(x, w, x)", {"w": nets.normal(1, 4, 1, 1)}),
    ("y = Mean(x, w)", {"w": nets.normal(1, 9)}),
    ("y = MatMul(x, w)", {"w": nets.normal(1, 9, 5)}),
    ("y = Min(x, w)", {"w": nets.normal(1, 4, 1, 1)}),
    ("y = Max(x, w)", {"w": nets.normal(1, 4, 1, 1)}),
    ("y = Max(x, w, v)", {"w": nets.normal(1, 4, 1, 1), "v": nets.normal(2, 9)}),
    ("a = Neg(x) y = Min(x)", {}),
    # Windows
    ("y = Conv(x, w, b)", {"w": W3, "b": B}),
    ("y = Conv<pads=[1,2,0,1], strides=[2,1]>(x, w)", {"w": W3}),
    ("y = Conv<dilations=[2,2], pads=[2,2,2,2]>(x, w)", {"w": W3}),
    ("y = Conv<group=2, pads=[1,1,1,1]>(x, w)", {"w": nets.normal(1, 6, 2, 3, 3)}),
    ('y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w)', {"w": nets.normal(1, 6, 4, 2, 2)}),
    ('y = Conv<auto_pad="SAME_LOWER", strides=[2,2]>(x, w)', {"w": nets.normal(1, 6, 4, 2, 2)}),
    ('y = Conv<auto_pad="VALID", strides=[2,3]>(x, w)', {"w": W3}),
    ("r = Reshape(x, s) y = Conv<pads=[1,0]>(r, w, b)",
     {"s": integers(1, 4, 63), "w": nets.normal(1, 6, 4, 3), "b": B}),
    ("y = ConvTranspose<strides=[2,2]>(x, w)", {"w": DECONV}),
    ("y = ConvTranspose<strides=[2,2], pads=[1,1,0,0]>(x, w)", {"w": DECONV}),
    ("y = ConvTranspose<strides=[2,1], pads=[1,1,1,1], output_padding=[1,0]>(x, w, b)",
     {"w": DECONV, "b": nets.normal(1, 3)}),
    ("y = ConvTranspose<dilations=[2,2], group=2>(x, w)", {"w": nets.normal(1, 4, 3, 3, 3)}),
    ("y = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2]>(x)", {}),
    ("y = MaxPool<kernel_shape=[3,2], pads=[0,0,1,1], strides=[2,2]>(x)", {}),
    ("y = MaxPool<kernel_shape=[2,2], ceil_mode=1, strides=[2,2]>(x)", {}),
    ("y = MaxPool<kernel_shape=[2,2], pads=[0,1,1,0], ceil_mode=1, strides=[2,2]>(x)", {}),
    ("y = MaxPool<kernel_shape=[2,2], pads=[1,1,1,1], ceil_mode=1, strides=[2,2]>(x)", {}),
    ("y = MaxPool<kernel_shape=[3,3], dilations=[2,2]>(x)", {}),
    ("y = MaxPool<kernel_shape=[3,3], pads=[2,2,2,2]>(x)", {}),
    ('y = MaxPool<kernel_shape=[2,2], auto_pad="SAME_UPPER", strides=[2,2]>(x)', {}),
    ('y = MaxPool<kernel_shape=[2,2], auto_pad="SAME_LOWER", strides=[2,2]>(x)', {}),
    ("y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(x)", {}),
    ("y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2], count_include_pad=1>(x)", {}),
    ("y = AveragePool<kernel_shape=[2,2], pads=[0,0,1,1], strides=[2,2], count_include_pad=1>(x)", {}),
    ("y = AveragePool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>(x)", {}),
    ("y = GlobalAveragePool(x)", {}),
    ("y = GlobalMaxPool(x)", {}),
    # Resizing
    ("y = Resize(x,, s)", {"s": floats(1, 1, 2, 2)}),
    ('y = Resize<coordinate_transformation_mode="asymmetric", nearest_mode="floor">(x,, s)',
     {"s": floats(1, 1, 3, 2)}),
    ('y = Resize<coordinate_transformation_mode="asymmetric">(x,, s)', {"s": floats(1, 1, 2, 2)}),
    ('y = Resize<coordinate_transformation_mode="half_pixel", nearest_mode="round_prefer_ceil">(x,,, s)',
     {"s": integers(1, 4, 21, 18)}),
    ('y = Resize<mode="linear">(x,, s)', {"s": floats(1, 1, 2, 2)}),
    ('y = Resize<mode="linear", coordinate_transformation_mode="align_corners">(x,,, s)',
     {"s": integers(1, 4, 13, 20)}),
    ('y = Resize<mode="linear", coordinate_transformation_mode="pytorch_half_pixel">(x,,, s)',
     {"s": integers(1, 4, 5, 20)}),
    ('y = Resize<mode="cubic">(x,, s)', {"s": floats(1, 1, 2, 2)}),
    ("y = Resize(x,, s)", {"s": floats(1, 1, 1.5, 1.5)}),
    ('y = Resize<coordinate_transformation_mode="asymmetric", nearest_mode="ceil">(x,, s)',
     {"s": floats(1, 1, 2, 2)}),
    ('y = Resize<coordinate_transformation_mode="asymmetric">(x,, s)', {"s": floats(1, 1, 3, 3)}),
    ('y = Resize<nearest_mode="floor">(x,, s)', {"s": floats(1, 1, 2, 2)}),
    ('y = Resize<coordinate_transformation_mode="align_corners">(x,, s)', {"s": floats(1, 1, 2, 2)}),
    ('y = Resize<mode="linear", coordinate_transformation_mode="asymmetric">(x,, s)', {"s": floats(1, 1, 2, 2)}),
    ('y = Resize<mode="linear">(x,, s)', {"s": floats(1, 1, 1.5, 1.3)}),
    # Products
    ("r = Flatten(x) y = Gemm(r, w, b)", {"w": nets.normal(1, 252, 5), "b": nets.normal(2, 5)}),
    ("r = Flatten(x) y = Gemm<transB=1>(r, w, b)", {"w": nets.normal(1, 5, 252), "b": nets.normal(2, 5)}),
    ("r = Flatten<axis=2>(x) y = Gemm<transA=1, alpha=0.5, beta=2.0>(r, w, b)",
     {"w": nets.normal(1, 4, 5), "b": nets.normal(2, 63, 1)}),
    ("r = Flatten(x) y = Gemm<transB=1, alpha=0.5>(r, w)", {"w": nets.normal(1, 5, 252)}),
    # Normalisation and functions
    ("y = BatchNormalization<epsilon=0.01>(x, g, b, m, v)", dict(zip("gbmv", C4, strict=True))),
    ("y = LayerNormalization<epsilon=0.001>(x, g, b)", {"g": nets.normal(1, 9), "b": nets.normal(2, 9)}),
    ("y = LayerNormalization<axis=2>(x, g)", {"g": nets.normal(1, 7, 9)}),
    ("y = Clip(x, a, b)", {"a": np.array(-0.5, np.float32), "b": np.array(0.7, np.float32)}),
    ("y = Clip(x,, b)", {"b": np.array(0.7, np.float32)}),
    ("y = Clip(x, a)", {"a": np.array(0, np.float32)}),
    ("y = LeakyRelu<alpha=0.2>(x)", {}),
    ("y = LeakyRelu(x)", {}),
    ("y = PRelu(x, w)", {"w": nets.normal(1, 4, 1, 1)}),
    ("y = HardSigmoid<alpha=0.3, beta=0.4>(x)", {}),
    ("y = HardSigmoid(x)", {}),
    ("y = HardSwish(x)", {}),
    ("h = Mul(x, w) y = Softplus(h)", {"w": floats(20)}),
    ("y = Softsign(x)", {}),
    ("y = Elu<alpha=0.7>(x)", {}),
    ("y = Selu(x)", {}),
    ("y = Celu<alpha=0.5>(x)", {}),
    ("y = ThresholdedRelu<alpha=0.3>(x)", {}),
    ("y = InstanceNormalization<epsilon=0.01>(x, g, b)", {"g": nets.positive(1, 4), "b": nets.normal(2, 4)}),
    ("y = LogSoftmax<axis=1>(x)", {}),
    ("y = Softmax(x)", {}),
    ("y = Softmax<axis=1>(x)", {}),
    # Shapes
    ("y = Concat<axis=1>(x, w, x)", {"w": nets.normal(1, 1, 2, 7, 9)}),
    ("y = Concat<axis=-1>(x, w)", {"w": nets.normal(1, 1, 4, 7, 1)}),
    ('y = DepthToSpace<blocksize=2>(x)', {}),
    ('y = DepthToSpace<blocksize=2, mode="CRD">(x)', {}),
    ("e = Pad(x, p) y = SpaceToDepth<blocksize=2>(e)", {"p": integers(0, 0, 0, 0, 0, 0, 1, 1)}),
    ("y = Tile(x, s)", {"s": integers(1, 2, 1, 3)}),
    ('y = GridSample<mode="bilinear", padding_mode="border">(x, g)', {"g": nets.normal(1, 1, 3, 5, 2)}),
    ('y = GridSample<mode="nearest", align_corners=1>(x, g)', {"g": nets.normal(1, 1, 3, 5, 2)}),
    ('y = GridSample<mode="bicubic", padding_mode="reflection">(x, g)', {"g": 0.7 * nets.normal(1, 1, 3, 5, 2)}),
    ("y = Expand(x, s)", {"s": integers(3, 4, 7, 9)}),
    ("y = Expand(x, s)", {"s": integers(1, 1)}),
    ("y = Flatten<axis=-1>(x)", {}),
    ("y = Flatten<axis=0>(x)", {}),
    ("y = Gather<axis=1>(x, i)", {"i": integers(3, -1, 0)}),
    ("y = Gather<axis=-1>(x, i)", {"i": np.array(-2, np.int64)}),
    ("y = Gather<axis=2>(x, i)", {"i": np.array([[0, 1], [6, -7]], np.int64)}),
    ("y = Pad(x, p)", {"p": integers(0, 0, 1, 2, 0, 0, 3, 0)}),
    ("y = Pad(x, p, v)", {"p": integers(0, 1, 0, 0, 0, 2, 0, 0), "v": np.array(1.5, np.float32)}),
    ("y = Pad(x, p, v, a)", {"p": integers(1, 2), "v": np.array(-1, np.float32), "a": integers(-1)}),
    ("y = Pad(x, p)", {"p": integers(0, 0, -1, 0, 0, 0, 1, -2)}),
    ('y = Pad<mode="reflect">(x, p)', {"p": integers(0, 0, 1, 2, 0, 0, 3, 0)}),
    ('y = Pad<mode="reflect">(x, p)', {"p": integers(0, 0, 0, 2, 0, 0, 0, 1)}),
    ('y = Pad<mode="edge">(x, p)', {"p": integers(0, 0, 1, 2, 0, 0, 3, 0)}),
    ("y = Reshape(x, s)", {"s": integers(0, -1, 9)}),
    ("y = Slice(x, b, e)", {"b": integers(0, 1), "e": integers(1, 3)}),
    ("y = Slice(x, b, e, a)", {"b": integers(-3, 1), "e": integers(-1, 2**62), "a": integers(-1, 2)}),
    ("y = Slice(x, b, e, a, s)",
     {"b": integers(1, -8), "e": integers(99, 6), "a": integers(3, 2), "s": integers(2, 3)}),
    ("y, z = Split<axis=1>(x, s)", {"s": integers(1, 3)}),
    ("y = Squeeze(x, a)", {"a": integers(0)}),
    ("y = Squeeze(x)", {}),
    ("y = Transpose<perm=[0,2,3,1]>(x)", {}),
    ("y = Transpose(x)", {}),
    ("y = Unsqueeze(x, a)", {"a": integers(-1, 1)}),
]  # fmt: skip

OPSET_13: list[tuple[str, Weights]] = [
    ("y = ReduceMean<axes=[2,3]>(x)", {}),
    ("y = ReduceMean<axes=[-1], keepdims=0>(x)", {}),
    ("y = ReduceMax<axes=[1]>(x)", {}),
    ("y = ReduceMin<axes=[1,2], keepdims=0>(x)", {}),
    ("y = ReduceSum(x, a)", {"a": integers(2)}),
    ("y = ReduceMean(x)", {}),
    ("y = ReduceL1<axes=[1]>(x)", {}),
    ("y = ReduceL2<axes=[2,3], keepdims=0>(x)", {}),
    ("y = ReduceSumSquare(x)", {}),
    ("a = Abs(x) y = ReduceLogSum<axes=[-1]>(a)", {}),
    ("y = ReduceLogSumExp<axes=[2,3]>(x)", {}),
    ("y, z = Split<axis=1>(x)", {}),
]
OPSET_18: list[tuple[str, Weights]] = [
    ('y = Resize<mode="linear", antialias=1>(x,, s)', {"s": floats(1, 1, 0.5, 0.5)}),
    ("y = ReduceMean(x, a)", {"a": integers(2, 3)}),
    ("y = ReduceMean<keepdims=0>(x, a)", {"a": integers(-1)}),
    ("y = ReduceMax(x, a)", {"a": integers(1)}),
    ("y = ReduceMin<keepdims=0>(x, a)", {"a": integers(1, 2)}),
    ("y = ReduceSum(x, a)", {"a": integers(2)}),
    ("y = ReduceMean(x)", {}),
    ("y = ReduceSum<noop_with_empty_axes=1>(x)", {}),
    ("y, z = Split<axis=1, num_outputs=2>(x)", {}),
    ("y, z = Split<axis=3, num_outputs=2>(x)", {}),
    ("y = Resize<axes=[2,3]>(x,, s)", {"s": floats(2, 2)}),
    ("h = Mul(x, w) y = Mish(h)", {"w": floats(20)}),
]
OPSET_20: list[tuple[str, Weights]] = [("y = Gelu(x)", {}), ('y = Gelu<approximate="tanh">(x)', {})]
ALL = [
    *((17, *case) for case in CASES), *((13, *case) for case in OPSET_13), *((18, *case) for case in OPSET_18),
    *((20, *case) for case in OPSET_20),
]  # fmt: skip


def graph_of(opset: int, line: str, weights: Weights) -> ir.Model:
    outputs = ("y", "z") if line.startswith("y, z") else ("y",)
    return build(line, MAP, weights, outputs, opset if "Pad" not in line and "axes=[2,3]>(x,," not in line else 18)


@pytest.mark.parametrize(("opset", "line", "weights"), ALL, ids=lambda value: value if isinstance(value, str) else "")
def test_it_computes_what_onnx_runtime_computes(opset: int, line: str, weights: Weights) -> None:
    model, x = graph_of(opset, line, weights), nets.normal(0, *MAP)
    wanted = nets.run(model, x)
    with torch.no_grad():
        found = onnx_to_torch(model).eval()(torch.from_numpy(x))
    for got, want in zip(found, wanted, strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=2e-5)


def test_every_operation_has_a_case() -> None:
    named = {node.op_type for opset, line, weights in ALL for node in graph_of(opset, line, weights).graph}
    # `clean` removes these two.
    assert named | {"Identity", "Dropout"} == {*OPERATIONS}


def test_unknown_operators_are_all_named_at_once() -> None:
    model = build("a = Asin(x) b = Relu(a) c = Trilu(b) y = Asin(c)", MAP, {}, ["y"], 18)
    with pytest.raises(ModelError, match="the operators Asin, Trilu of the ONNX graph cannot be converted to TFLite"):
        onnx_to_torch(model)


def test_an_operator_of_another_domain_is_not_taken_for_its_namesake() -> None:
    model = build("y = Relu(x)", MAP, {}, ["y"], 18)
    for node in model.graph:
        node.domain = "com.example"
    with pytest.raises(ModelError, match=r"the operators com\.example\.Relu of the ONNX graph"):
        onnx_to_torch(model)


REFUSED: list[tuple[str, Weights]] = [
    ("y = NonZero(x)", {}),
    ("m = ReduceMin<keepdims=0>(x) y = Clip(x, m)", {}),
    ("y = Slice(x, b, e, a, s)", {"b": integers(-1), "e": integers(-9), "a": integers(3), "s": integers(-1)}),
    ('y = Resize<coordinate_transformation_mode="tf_crop_and_resize">(x, r, s)',
     {"s": floats(1, 1, 2, 2), "r": floats(0, 0, 0, 0, 1, 1, 1, 1)}),
    ('y = Resize<mode="linear">(x,,, s)', {"s": integers(1, 8, 14, 18)}),
    ("y = AveragePool<kernel_shape=[2,2], pads=[0,0,1,1], strides=[2,2]>(x)", {}),
    ("y = ConvTranspose<strides=[2,2], pads=[0,0,1,1]>(x, w)", {"w": DECONV}),
    ('y = ConvTranspose<strides=[2,2], auto_pad="SAME_UPPER">(x, w)', {"w": DECONV}),
    ('y = Pad<mode="wrap">(x, p)', {"p": integers(0, 0, 1, 1, 0, 0, 1, 1)}),
    ('y = Pad<mode="reflect">(x, p)', {"p": integers(0, 1, 0, 0, 0, 1, 0, 0)}),
    ("p, y = MaxPool<kernel_shape=[2,2]>(x)", {}),
    ("r = Squeeze(x, a) y = MaxPool<kernel_shape=[2]>(r)", {"a": integers(0)}),
    ("y = AveragePool<kernel_shape=[2,2], dilations=[2,2]>(x)", {}),
]  # fmt: skip


@pytest.mark.parametrize(("line", "weights"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_what_it_would_compute_otherwise_is_refused_with_the_operator_named(line: str, weights: Weights) -> None:
    """One line, and never another exception."""
    operator = re.findall(r"(\w+)(?:<[^>]*>)?\(", line)[-1]
    model = build(line, MAP, weights, ["y"], 19)
    with pytest.raises(ModelError, match=operator) as caught:
        onnx_to_torch(model)(torch.zeros(MAP))
    assert "\n" not in str(caught.value)


def test_a_refusal_survives_the_converter() -> None:
    """It happens while torch traces the module."""
    tflite_nets.require_converter()
    model = build('y = Resize<mode="linear">(x,, s)', MAP, {"s": floats(1, 2, 2, 2)}, ["y"], 18)
    with pytest.raises(
        ModelError, match=r"^Resize .*: mode .linear. with .half_pixel. .* cannot be converted to TFLite"
    ):
        convert_module(onnx_to_torch(model), torch.zeros(MAP), ["y"], "net")


# Those two have an operator that TFLite lacks, with or without shape arithmetic.
@pytest.mark.parametrize("name", sorted(set(test_shape_arithmetic.GRAPHS) - {"four thirds of the size", "groups"}))
def test_shape_arithmetic_of_a_fixed_batch_is_no_obstacle(name):
    source, model = test_shape_arithmetic.opened(name, dynamic_batch=False)
    image = nets.normal(4, 1, 3, 6, 10)
    (found,) = onnx_to_torch(model)(torch.from_numpy(image))
    np.testing.assert_allclose(found.numpy(), nets.run(source, image)[0], rtol=1e-4, atol=1e-4)
