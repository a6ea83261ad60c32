"""Models as float TFLite files: converted in a process of their own, or given."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeq.calibration.source import CalibrationSource
from edgeq.errors import InputError, ModelError
from edgeq.exporting.tflite.graph import read_graph, unpack
from edgeq.exporting.tflite.quantize import cast_to_float16
from edgeq.sources.model import ModelRequest, OpenedModel, open_model
from edgeq.sources.tflite import convert, open_tflite
from edgeq.verbs.export import export_model
from tests import tflite_nets
from tests.exporting import nets
from tests.small import SIZE, small_centernet

FACTORIES = """
import os

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, last):
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 3, 1), last

    def forward(self, x):
        return self.last(self.conv(x))


def nonzero():
    return Net(torch.nonzero)


def fft():
    return Net(lambda x: torch.fft.fft2(x).abs())


def killed():
    os.kill(os.getpid(), 9)


def broken():
    os._exit(3)
"""


@pytest.fixture(scope="module")
def opened(small_onnx: Path) -> OpenedModel:
    tflite_nets.require_converter()
    return open_model(ModelRequest(str(small_onnx), preset="centernet"))


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "edgeq_test_factories.py").write_text(FACTORIES)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "edgeq_test_factories"


@torch.no_grad()
def test_an_onnx_file_becomes_tflite_that_computes_the_same(opened: OpenedModel, small_onnx: Path) -> None:
    model = convert(ModelRequest(str(small_onnx), preset="centernet"), opened)
    x = nets.normal(1, 1, 3, *SIZE)
    assert (model.name, model.source_digest) == ("small", opened.model.digest)
    assert [spec.name for spec in model.outputs] == ["hm", "wh", "reg"]
    found = tflite_nets.run(model.content, model.input.encode(x))
    for got, want in zip(found, small_centernet(0)(torch.from_numpy(x)), strict=True):
        np.testing.assert_allclose(tflite_nets.channel_first(got), want.numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("nonzero", r"^small: cannot be converted to TFLite: .*aten\.nonzero"),
        ("fft", r"^small: cannot be converted to TFLite: .*aten\.fft_fft2"),
        ("killed", "^small: the TFLite converter was killed, most likely for want of memory"),
        ("broken", r"^small: the TFLite converter died \(exit code 3\)"),
    ],
)
def test_a_conversion_that_fails_is_one_line(
    opened, factories: str, factory: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    given = dataclasses.replace(opened, module=torch.nn.Identity())
    with pytest.raises(ModelError, match=message) as caught:
        convert(ModelRequest(f"{factories}:{factory}"), given)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_an_onnx_operator_without_torch_form_is_named(opened: OpenedModel, tmp_path: Path) -> None:
    graph = nets.graph("g (float[1,3,8,8] x) => (float[1,3,8,8] y) { y = Asin(x) }")
    model = dataclasses.replace(opened.model, graph=graph)
    with pytest.raises(ModelError, match="the operators Asin of the ONNX graph cannot be converted to TFLite"):
        convert(ModelRequest("net.onnx"), dataclasses.replace(opened, model=model))


def given(tmp_path: Path, content: bytes) -> ModelRequest:
    (tmp_path / "net.tflite").write_bytes(content)
    return ModelRequest(str(tmp_path / "net.tflite"), preset="centernet")


def test_a_float_file_opens_with_the_preset(tmp_path: Path) -> None:
    content = tflite_nets.centernet().content
    model = open_tflite(given(tmp_path, content))
    assert (model.preprocessing.height_px, model.preprocessing.width_px) == SIZE
    x = model.input.encode(nets.normal(1, 1, 3, *SIZE))
    for got, want in zip(tflite_nets.run(model.content, x), tflite_nets.run(content, x), strict=True):
        np.testing.assert_array_equal(got, want)


def test_every_tensor_of_a_foreign_file_has_a_name_of_its_own(tmp_path: Path, shared_data: Path) -> None:
    content = (shared_data / "weights" / "mlperftiny_resnet8_cifar10_float.tflite").read_bytes()
    names = [tensor.name for tensor in open_tflite(given(tmp_path, content)).graph.tensors]
    assert len(names) == len(set(names)) and all(names)


def test_weights_that_are_computed_are_constants(tmp_path: Path) -> None:
    halves = cast_to_float16(tflite_nets.centernet().content, "net")
    assert any(operator.kind == "DEQUANTIZE" for operator in read_graph(halves, "net").operators)
    model = open_tflite(given(tmp_path, halves))
    assert not any(operator.kind == "DEQUANTIZE" for operator in model.graph.operators)
    x = model.input.encode(nets.normal(1, 1, 3, *SIZE))
    for got, want in zip(tflite_nets.run(model.content, x), tflite_nets.run(halves, x), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_chains_of_constants_are_computed_and_what_is_an_output_is_left(tmp_path: Path) -> None:
    """`x * transpose(a + b)` and `a + a`, both outputs: the factor becomes a constant, the second sum stays."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    content = tflite_nets.by_hand(
        {"x": (1, 2, 2, 3), "a": nets.normal(2, 1, 2, 2, 3), "b": nets.normal(3, 1, 2, 2, 3), "s": (1, 2, 2, 3),
         "order": np.array([0, 2, 1, 3], np.int32), "t": (1, 2, 2, 3), "y": (1, 2, 2, 3), "c": (1, 2, 2, 3)},
        [("ADD", "a b", "s"), ("TRANSPOSE", "s order", "t"), ("MUL", "x t", "y"), ("ADD", "a a", "c")],
        ["x"],
        ["y", "c"],
        schema,
    )  # fmt: skip
    model = open_tflite(given(tmp_path, content))
    assert [operator.kind for operator in model.graph.operators] == ["MUL", "ADD"]
    x = nets.normal(1, 1, 2, 2, 3)
    for got, want in zip(tflite_nets.run(model.content, x), tflite_nets.run(content, x), strict=True):
        np.testing.assert_array_equal(got, want)


def test_a_file_with_operators_in_the_field_of_old_schemas_is_quantized(tmp_path: Path, drawn) -> None:
    old = unpack(tflite_nets.centernet().content, "net")
    for code in old.operatorCodes:
        code.deprecatedBuiltinCode, code.builtinCode = code.builtinCode, 0
    content = bytes(pytest.importorskip("ai_edge_litert.tools.flatbuffer_utils").convert_object_to_bytearray(old))
    source = CalibrationSource(drawn.annotations, drawn.folder, num=4)
    result = export_model(given(tmp_path, content), "arm", ["int8"], tmp_path / "out", calibration=source)
    assert result.files[0].artifact.quantization["int8_nodes"] > 5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mlperftiny_resnet8_cifar10_int8", r"^net\.tflite: is quantized already \(tensor .* is int8\); export takes"),
        ("coral_tf2_mobilenet_v2_1.0_224_ptq", r"^net\.tflite: is quantized already"),
    ],
)
def test_quantized_files_are_refused(tmp_path: Path, shared_data: Path, name: str, message: str) -> None:
    content = (shared_data / "weights" / f"{name}.tflite").read_bytes()
    with pytest.raises(ModelError, match=message):
        open_tflite(given(tmp_path, content))


def test_another_input_is_refused(tmp_path: Path) -> None:
    content = tflite_nets.convert(torch.nn.Conv2d(4, 2, 1), (1, 4, 6, 6))
    with pytest.raises(ModelError, match=r"takes inputs of the shapes \[\(1, 6, 6, 4\)\]; edgeq needs one image"):
        open_tflite(given(tmp_path, content))


def test_a_gray_file_wants_a_gray_preset(tmp_path: Path) -> None:
    request = given(tmp_path, tflite_nets.convert(torch.nn.Conv2d(1, 2, 1), (1, 1, 6, 8)))
    model = open_tflite(dataclasses.replace(request, preset="fashionmnist"))
    assert (model.preprocessing.channels, model.input.shape) == (1, (1, 6, 8, 1))
    with pytest.raises(InputError, match=r"takes images of 1 channel, and preset centernet makes 3 "):
        open_tflite(request)


def test_wrong_requests_are_told(tmp_path: Path) -> None:
    request = given(tmp_path, tflite_nets.centernet().content)
    with pytest.raises(InputError, match="holds its weights already"):
        open_tflite(dataclasses.replace(request, weights=tmp_path / "w.pth"))
    with pytest.raises(InputError, match=r"cannot be read \(No such file"):
        open_tflite(dataclasses.replace(request, reference=str(tmp_path / "none.tflite")))
    with pytest.raises(InputError, match=r"damaged or cut short|weights at its end are missing"):
        open_tflite(given(tmp_path, tflite_nets.centernet().content[:5000]))
