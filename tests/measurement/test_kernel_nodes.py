"""Kernels of ONNX Runtime and the nodes of the file that they compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeq.exporting.artifact import Artifact
from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.measurement.kernel_nodes import with_nodes
from edgeq.results.measurement import LayerProfile, LayerTime
from edgeq.runtimes.onnxruntime import OnnxRuntimeSession
from edgeq.runtimes.runner import make_inputs

onnx = pytest.importorskip("onnx")

NET = """<ir_version: 8, opset_import: ["" : 17]>
net (float[1,16,8,8] image) => (float[1,64,4] scores) {
    [stem] a = Conv<pads = [1,1,1,1]>(image, w)    [act] b = Relu(a)
    [left] c = Conv<pads = [1,1,1,1]>(b, w)        [right] d = Conv<pads = [1,1,1,1]>(b, v)
    [sum] e = Add(c, d)                            [end] f = Relu(e)
    [flat] g = Reshape(f, shape)                   [matmul] h = MatMul(g, m)    [bias] scores = Add(h, n) }"""


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path: Path = tmp_path_factory.mktemp("net") / "net.onnx"
    model = onnx.parser.parse_model(NET)
    rng = np.random.default_rng(0)
    weights = {"w": (16, 16, 3, 3), "v": (16, 16, 3, 3), "m": (16, 4), "n": (4,)}
    tensors = {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in weights.items()}
    tensors["shape"] = np.array([1, 64, 16], np.int64)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in tensors.items())
    onnx.save(model, path)
    return path


def kernel(name: str, kind: str) -> LayerTime:
    return LayerTime(name, kind, "fp32", 1.0)


def test_names_of_fused_kernels_are_read(file):
    kernels = [
        kernel("b_nchwc", "Conv"),  # takes in the activation
        kernel("d_nchwc_token_3", "Conv"),
        kernel("f_nchwc", "Conv"),  # takes in sum and activation; the other summand is another kernel's
        kernel("flat", "Reshape"),
        kernel("matmul/MatMulAddFusion", "Gemm"),
        kernel("end/QuickGeluFusion/", "QuickGelu"),
        kernel("g_nchwc", "Upsample"),  # no operator of this name lies before it
        kernel("stem_token_7", "QLinearConv"),
    ]
    found = with_nodes(LayerProfile("made", 5, tuple(kernels)), file)
    assert [layer.nodes for layer in found.layers] == [
        ("stem", "act"), ("right",), ("left", "sum", "end"), (), ("matmul",), ("end",), ("flat",), ("stem",),
    ]  # fmt: skip


def test_names_that_say_nothing_of_the_file_stay_without_nodes(file):
    kernels = [kernel(name, "Any") for name in ("Gelu", "Transpose_token_9", "ReorderInput", "x_nchwc", "image_nchwc")]
    found = with_nodes(LayerProfile("made", 5, tuple(kernels)), file)
    assert [layer.nodes for layer in found.layers] == [()] * len(kernels)


def test_every_layer_of_a_float_file_is_found_among_the_kernels_of_the_engine(file):
    given, wanted = TensorSpec("image", "float32", (1, 16, 8, 8)), TensorSpec("scores", "float32", (1, 64, 4))
    artifact = Artifact(file, "onnx", "fp32", "x86", (given,), (wanted,), preprocessing=None)
    profile = OnnxRuntimeSession(artifact, 1).time_layers(make_inputs(artifact), 2)
    found = {name for layer in with_nodes(profile, file).layers for name in (layer.name, *layer.nodes)}
    assert {"stem", "left", "right", "matmul"} <= found


def test_a_file_that_cannot_be_read_leaves_the_times_as_they_are(tmp_path):
    profile = LayerProfile("made", 5, (kernel("b_nchwc", "Conv"),))
    assert with_nodes(profile, tmp_path / "gone.onnx") == profile
