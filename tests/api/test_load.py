"""`edgeq.load`: what goes in, and one clear error for what does not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeq
from edgeq.errors import EdgeqError, InputError, MissingDependencyError
from edgeq.exporting.graphs.graph import specs
from edgeq.exporting.onnx.writer import FloatModel

torch = pytest.importorskip("torch")

from tests.api.nets import LABELS, Classifier  # noqa: E402 - needs torch

EXAMPLE = torch.zeros(1, 3, 32, 32)


def net() -> Classifier:
    return Classifier().eval()


def test_a_model_is_frozen_and_says_its_name(small_onnx):
    model = edgeq.load(small_onnx, preset="centernet")
    assert repr(model) == "Model(name='small', opset=None)"
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.name = "other"  # type: ignore[misc]
    assert edgeq.load("centernet_shapes").name == "centernet_shapes"
    assert edgeq.load("package.nets:make", preset="imagenet").name == "make"


def test_a_module_in_memory_is_opened_and_not_changed():
    module = net()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    opened = edgeq.load(module, torch.rand(2, 3, 32, 48), preset="imagenet", labels=LABELS).open()
    assert (opened.name, opened.labels) == ("Classifier", LABELS)
    assert (opened.preprocessing.height_px, opened.preprocessing.width_px) == (32, 48)
    assert not any(part.training for part in module.modules())
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert module.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize("dynamic", [False, True])
def test_the_example_gives_the_shape_and_not_the_batch(dynamic):
    opened = edgeq.load(net(), np.zeros((4, 3, 16, 24), np.float32), dynamic_batch=dynamic).open()
    assert isinstance(opened, FloatModel)
    (image,) = specs(opened.graph.graph.inputs)
    assert image.shape == (None if dynamic else 1, 3, 16, 24)


def test_the_graph_has_the_opset_that_is_asked_for():
    opened = edgeq.load(net(), EXAMPLE, opset=20).open()
    assert isinstance(opened, FloatModel)
    assert opened.graph.opset_imports[""] == 20


def test_a_module_that_was_trained_after_loading_is_refused():
    module = net()
    model = edgeq.load(module, EXAMPLE)
    module.dropout.train()
    with pytest.raises(EdgeqError, match=r"its part 'dropout' is in training mode; call model.eval"):
        model.open()


def half() -> Classifier:
    return net().half()


def nowhere() -> Classifier:
    with torch.device("meta"):
        return net()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Classifier, "`model` Classifier: it is in training mode; call model.eval"),
        (half, "is of torch.float16; call model.float"),
        (lambda: net().double(), "is of torch.float64; call model.float"),
        (nowhere, r"has no values \(device meta\); load the weights first"),
        (lambda: 7, "`model` is of type int; wanted a path, a zoo name"),
        (lambda: Classifier, "`model` is of type type; wanted a path"),
        (lambda: {"a": 1}, "`model` is of type dict; wanted a path"),
    ],
)
def test_a_module_that_cannot_be_used_is_refused(make, message):
    with pytest.raises(EdgeqError, match=message):
        edgeq.load(make(), EXAMPLE)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (None, "`example_input` is missing"),
        ([1, 2], "`example_input` is of type list"),
        (torch.zeros(3, 32, 32), r"has the shape \(3, 32, 32\); wanted one image \(N, 3, H, W\)"),
        (torch.zeros(1, 4, 32, 32), r"has the shape \(1, 4, 32, 32\)"),
        (torch.zeros(0, 3, 32, 32), r"has the shape \(0, 3, 32, 32\)"),
        (torch.zeros(1, 32, 32, 3), r"has the shape \(1, 32, 32, 3\)"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "is of torch.uint8; wanted .* in float32"),
        (np.zeros((1, 3, 32, 32)), "is of torch.float64; wanted .* in float32"),
        (np.array("x"), "`example_input` is an array of <U1"),
        (torch.zeros(1, 3, 32, 32, device="meta"), "is on meta; wanted .* on the CPU"),
        (torch.full((1, 3, 32, 32), torch.nan), "`example_input` holds NaN or infinite values"),
    ],
)
def test_an_example_that_cannot_be_used_is_refused(example, message):
    with pytest.raises(InputError, match=message):
        edgeq.load(net(), example)


@pytest.mark.parametrize(
    ("reference", "arguments", "message"),
    [
        ("resnet19", {}, "unknown model 'resnet19'; did you mean resnet18 or "),
        ("missing.onnx", {"preset": "yolox"}, "missing.onnx: no such file"),
        ("missing.tflite", {"preset": "yolox"}, "missing.tflite: no such file"),
        ("{onnx}", {"preset": "yolo99"}, "yolo99"),
        ("{onnx}", {"preset": "yolox", "labels": "none.txt"}, "none.txt: no such file"),
        ("{onnx}", {"preset": "yolox", "labels": [1]}, "`labels` is of type list; wanted class names"),
        ("resnet18", {"size": 32}, r"`size` is 32; wanted height and width in pixels, for example \(320, 416\)"),
        ("resnet18", {"size": (0, 32)}, r"`size` is \(0, 32\)"),
        ("resnet18", {"size": "32x32"}, "`size` is '32x32'"),
        ("resnet18", {"opset": 9}, "`opset` is 9; wanted a number from 17 to 23"),
        ("resnet18", {"weights": 5}, "`weights` is of type int; wanted a path"),
        ("resnet18", {"example_input": EXAMPLE}, "`example_input` is for a torch.nn.Module; omit it"),
        ("resnet18", {"name": "net"}, "`name` is for a torch.nn.Module; omit it"),
    ],
)
def test_what_cannot_be_used_is_told_at_once(reference: str, arguments: dict[str, Any], message: str, small_onnx: Path):
    with pytest.raises(EdgeqError, match=message.format(name=small_onnx.name)):
        edgeq.load(reference.format(onnx=small_onnx), **arguments)


def test_files_of_a_module_are_called_as_it_is_or_as_is_asked(tmp_path):
    assert edgeq.export(edgeq.load(net(), EXAMPLE), out=tmp_path).paths == [tmp_path / "Classifier.x86.fp32.onnx"]
    model = edgeq.load(net(), EXAMPLE, name="bees-2")
    assert edgeq.export(model, out=str(tmp_path)).paths == [tmp_path / "bees-2.x86.fp32.onnx"]
    for name in ("../bees", "a.tflite", "", 5):
        with pytest.raises(InputError, match=r"`name` is .*; wanted letters, digits, - and _"):
            edgeq.load(net(), EXAMPLE, name=name)  # type: ignore[arg-type]


@pytest.mark.parametrize("arguments", [{"size": (32, 32)}, {"weights": "a.safetensors"}])
def test_a_module_has_its_own_size_and_weights(arguments):
    with pytest.raises(InputError, match=f"`{next(iter(arguments))}` cannot be combined with a torch.nn.Module"):
        edgeq.load(net(), EXAMPLE, **arguments)


def test_without_torch_a_module_names_the_pip_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(MissingDependencyError, match=r"needs the package torch.*'edgeq\[export\]'"):
        edgeq.load(object(), EXAMPLE)  # type: ignore[arg-type]
