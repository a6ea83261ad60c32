"""MODEL on the command line: what each form opens, and what it says where it cannot."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.errors import EdgeqError, InputError, ModelError
from edgeq.exporting.artifact import Postprocessing
from edgeq.exporting.onnx.writer import FloatModel
from edgeq.models.names import zoo_names
from edgeq.sources.model import ModelRequest, open_model, parse_size
from edgeq.verbs.export import export_model

SIZE = (64, 96)


@pytest.fixture
def foreign(small_onnx) -> ModelRequest:
    return ModelRequest(str(small_onnx), preset="centernet")


@pytest.mark.parametrize(
    ("text", "size"), [("320x416", (320, 416)), ("224", (224, 224)), ("64X96", (64, 96)), (" 32x32 ", (32, 32))]
)
def test_sizes_are_height_by_width(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "x", "64x", "x64", "0", "0x64", "-64", "64x64x3", "64,96", "6.4", "64 x 96", "²x²", "９６", "123456"]
)
def test_anything_else_is_no_size(text):
    with pytest.raises(InputError, match="wanted height x width in pixels, for example 320x416"):
        parse_size(text)


@pytest.mark.parametrize("reference", ["centernet", "resnet19", "model.tflite", ""])
def test_an_unknown_model_lists_what_is_known(reference):
    with pytest.raises(
        InputError, match=r"unknown model .*; .*wanted an \.onnx or \.tflite file, package\.module:factory, or"
    ) as error:
        open_model(ModelRequest(reference))
    assert all(name in str(error.value) for name in zoo_names())


def test_a_zoo_model_has_its_own_preset(small_weights):
    opened = open_model(ModelRequest("centernet_resnet18", weights=small_weights, size=SIZE))
    assert opened.model.name == "small"
    assert opened.model.postprocessing is not None
    assert opened.model.postprocessing.decoder == "centernet"
    assert (opened.model.preprocessing.height_px, opened.model.preprocessing.width_px) == SIZE
    assert opened.module is not None
    assert [value.name for value in opened.model.graph.graph.outputs] == ["hm", "wh", "reg"]
    assert opened.folded.left == {}
    assert "BatchNormalization" not in {node.op_type for node in opened.model.graph.graph}


def test_weights_can_tell_size_and_labels(small_weights, tmp_path):
    from tests.small import save_small_centernet

    weights = save_small_centernet(tmp_path / "told.safetensors", 0, {"labels": "a,b,c,d,e,f", "input_size": "32x64"})
    request = ModelRequest("centernet_resnet18", weights=weights)
    model = open_model(request).model
    assert (model.preprocessing.height_px, model.preprocessing.width_px) == (32, 64)
    assert model.labels == tuple("abcdef")
    model = open_model(dataclasses.replace(request, size=(64, 32), labels="1,2,3,4,5,6")).model
    assert (model.preprocessing.height_px, model.preprocessing.width_px) == (64, 32)
    assert model.labels == tuple("123456")
    save_small_centernet(tmp_path / "told.safetensors", 0, {"input_size": "big"})
    with pytest.raises(InputError, match="input_size of the weights 'big': wanted height x width"):
        open_model(request)


@pytest.fixture(scope="module")
def random_resnet() -> tuple[FloatModel, str]:
    """ResNet-18 without weights for images of 96x64, and what opening it warned of."""
    pytest.importorskip("torchvision")
    heard, logger = io.StringIO(), logging.getLogger("edgeq")
    handler, level = logging.StreamHandler(heard), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    try:
        return open_model(ModelRequest("resnet18", size=(96, 64))).model, heard.getvalue()
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


def test_a_classifier_of_imagenet_takes_224_pixels_unless_told(random_resnet):
    sizes = {}
    for size, model in ((None, open_model(ModelRequest("resnet18")).model), ((96, 64), random_resnet[0])):
        sizes[size] = (model.preprocessing.height_px, model.preprocessing.width_px)
        shape = model.graph.graph.inputs[0].shape
        assert shape is not None
        assert tuple(shape)[2:] == sizes[size]
    assert sizes == {None: (224, 224), (96, 64): (96, 64)}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"size": None}, InputError, "the model's input size is free; give `size` HxW"),
        ({"size": (60, 96)}, InputError, "`size` 60x96: CenterNet needs sides that are multiples of 32"),
        ({"reference": "centernet_resnet50"}, ModelError, "does not fit centernet_resnet50"),
        ({"reference": "resnet18"}, ModelError, "does not fit resnet18"),
        ({"weights": Path("none.safetensors")}, InputError, r"none\.safetensors: no such file; expected weights"),
        (
            {"preset": "none"},
            InputError,
            "unknown preset 'none'; wanted one of the ",
        ),
        ({"preset": "none.toml"}, InputError, r"none\.toml: no such file; expected a preset"),
    ],
)
def test_what_a_torch_model_cannot_be_opened_with(small_weights, changes, error, message):
    request = ModelRequest("centernet_resnet18", weights=small_weights, size=SIZE)
    with pytest.raises(error, match=message):
        open_model(dataclasses.replace(request, **changes))


def test_pickled_objects_are_not_unpickled(small_weights, tmp_path):
    import torch

    from tests.small import small_centernet

    torch.save(small_centernet(0), tmp_path / "whole.pth")
    with pytest.raises(InputError, match=r"whole\.pth: holds Python objects besides tensors"):
        open_model(ModelRequest("centernet_resnet18", weights=tmp_path / "whole.pth", size=SIZE))


FACTORIES = """
import torch

def net():
    return torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.BatchNorm2d(2))

def broken():
    raise RuntimeError("no weights today")

def number():
    return 3

def two_inputs():
    class Net(torch.nn.Module):
        def forward(self, a, b):
            return a + b
    return Net()

class Returning(torch.nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.conv, self.wrap = torch.nn.Conv2d(3, 2, 1), wrap

    def forward(self, x):
        return self.wrap(self.conv(x).mean((2, 3)))

def embeds():
    return Returning(lambda x: {"last_hidden_state": x * 2, "image_embeds": x})

def text():
    return Returning(lambda x: {"text": "no tensor"})

constant = 3
"""


@pytest.fixture
def factories(tmp_path, monkeypatch) -> str:
    pytest.importorskip("torch")
    (tmp_path / "users_factories.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(tmp_path)
    return "users_factories"


def test_a_factory_makes_a_model(factories):
    request = ModelRequest(f"{factories}:net", preset="imagenet", size=(16, 24))
    opened = open_model(request)
    assert opened.model.name == "net"
    assert len(opened.folded.done) + sum(node.op_type == "BatchNormalization" for node in opened.model.graph.graph) <= 1
    assert [node.op_type for node in opened.model.graph.graph] == ["Conv"]
    assert opened.model.postprocessing == Postprocessing("classification")


def test_a_factory_whose_model_returns_a_dict_gives_the_output_that_the_preset_names(factories):
    opened = open_model(ModelRequest(f"{factories}:embeds", preset="clip", size=(16, 24)))
    assert [value.name for value in opened.model.graph.graph.outputs] == ["embedding"]


@pytest.mark.parametrize(
    ("name", "preset", "message"),
    [
        (":none", "imagenet", "users_factories has no 'none'"),
        ("_missing:net", "imagenet", "cannot import users_factories_missing .*; is its folder on PYTHONPATH"),
        (":broken", "imagenet", r"users_factories:broken\(\) failed: RuntimeError: no weights today"),
        (":number", "imagenet", r"users_factories:number\(\) returned an object of type int; wanted a torch.nn.Module"),
        (":constant", "imagenet", "users_factories:constant is an object of type int; wanted a function"),
        (":text", "imagenet", r"Returning returns an object of type dict \(text\); wanted a tensor"),
        (":two_inputs", "imagenet", "cannot be exported to ONNX for an input of shape"),
        (":", "imagenet", "wanted the form package.module:attribute"),
    ],
)
def test_what_is_no_factory_is_told(factories, name, preset, message):
    with pytest.raises(EdgeqError, match=message):
        open_model(ModelRequest(f"{factories}{name}", preset=preset, size=(16, 24)))


def test_a_factory_without_a_preset_is_told_by_its_outputs(factories, caplog):
    with pytest.raises(InputError, match=":net: a torch model does not say what its input is; give `size` HxW"):
        open_model(ModelRequest(f"{factories}:net"))
    with caplog.at_level("INFO"):
        bare = open_model(ModelRequest(f"{factories}:net", size=(16, 24))).model
    assert (bare.preprocessing.declared, bare.postprocessing) == (None, None)
    assert "net: no head that edgeq knows among its outputs" in caplog.text


@pytest.mark.parametrize("preset", [None, "auto"])
def test_an_onnx_file_without_a_preset_is_recognised(foreign, preset, caplog):
    stated = open_model(foreign).model
    with caplog.at_level("INFO"):
        recognised = open_model(dataclasses.replace(foreign, preset=preset)).model
    assert (recognised.preprocessing, recognised.postprocessing) == (stated.preprocessing, stated.postprocessing)
    assert "small.onnx: CenterNet, 6 classes without names, center 64x96, BGR 0..1, mean [0.408" in caplog.text


def test_an_onnx_file_brings_its_own_weights_and_size(foreign, small_weights):
    with pytest.raises(InputError, match="an ONNX file holds its weights already; omit `weights`"):
        open_model(dataclasses.replace(foreign, weights=small_weights))
    with pytest.raises(ModelError, match=r"the model is fixed to .*; omit `size`"):
        open_model(dataclasses.replace(foreign, size=(32, 32)))
    assert open_model(dataclasses.replace(foreign, size=SIZE)).model.digest == open_model(foreign).model.digest


@pytest.mark.parametrize(
    "damage",
    [lambda content: content[: len(content) // 2], lambda content: b"not a model", lambda content: b""],
    ids=["truncated", "foreign", "empty"],
)
def test_a_damaged_onnx_file_is_told(small_onnx, tmp_path, damage):
    path = tmp_path / "damaged.onnx"
    path.write_bytes(damage(small_onnx.read_bytes()))
    with pytest.raises(InputError, match=r"damaged\.onnx: is not a valid ONNX model") as error:
        open_model(ModelRequest(str(path), preset="centernet"))
    assert "\n" not in str(error.value)


def test_a_missing_onnx_file_is_told(tmp_path):
    with pytest.raises(InputError, match=r"none\.onnx: no such file; expected an ONNX model"):
        open_model(ModelRequest(str(tmp_path / "none.onnx"), preset="centernet"))


def save_net(path: Path, text: str, **weights: Any) -> ModelRequest:
    onnx = pytest.importorskip("onnx")
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in weights.items()
    )
    onnx.save(model, path)
    return ModelRequest(str(path), preset="imagenet")


FREE = "net (float[N,3,H,W] x) => (float[N,4,H,W] y) { y = Conv(x, w) }"
WEIGHT = np.full((4, 3, 1, 1), 0.5)


def test_free_height_and_width_are_given_by_size(tmp_path):
    request = save_net(tmp_path / "free.onnx", FREE, w=WEIGHT)
    with pytest.raises(ModelError, match=r"x \(\?, 3, \?, \?\) has free lengths; .* with `size` HxW"):
        open_model(dataclasses.replace(request, preset="centernet"))
    assert open_model(request).model.input.shape == (1, 3, 224, 224)  # as the preset says
    model = open_model(dataclasses.replace(request, size=(32, 48))).model
    assert [tuple(value.shape or ()) for value in (*model.graph.graph.inputs, *model.graph.graph.outputs)] == [
        (1, 3, 32, 48),
        (1, 4, 32, 48),
    ]
    batched = open_model(dataclasses.replace(request, size=(32, 48), dynamic_batch=True)).model
    assert batched.digest == model.digest
    assert not isinstance((batched.graph.graph.inputs[0].shape or (0,))[0], int)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("net (float[1,4,8,8] x) => (float[1,4,8,8] y) { y = Relu(x) }", "x (1, 4, 8, 8) takes no image"),
        ("net (float[1,8] x) => (float[1,8] y) { y = Relu(x) }", "x (1, 8) takes no image"),
        ("net (float[1,3,8,8] a, float[1,3,8,8] b) => (float[1,3,8,8] y) { y = Add(a, b) }", "takes 2 inputs (a (1,"),
    ],
    ids=["four channels", "no image", "two images"],
)
def test_models_of_something_else_than_one_image_are_refused(tmp_path, text, message):
    with pytest.raises(ModelError, match=re.escape(message)):
        open_model(save_net(tmp_path / "other.onnx", text))


def test_a_gray_graph_wants_a_gray_preset(tmp_path):
    request = save_net(tmp_path / "gray.onnx", "net (float[1,1,H,W] x) => (float[1,1,H,W] y) { y = Relu(x) }")
    request = dataclasses.replace(request, size=(28, 28))
    model = open_model(dataclasses.replace(request, preset="fashionmnist")).model
    assert (model.preprocessing.channels, tuple(model.graph.graph.inputs[0].shape or ())) == (1, (1, 1, 28, 28))
    with pytest.raises(InputError, match=r"^gray\.onnx: takes images of 1 channel, and preset imagenet makes 3 "):
        open_model(request)
    colour = dataclasses.replace(save_net(tmp_path / "free.onnx", FREE, w=WEIGHT), size=(28, 28), preset="fashionmnist")
    with pytest.raises(InputError, match=r"takes images of 3 channels, and preset fashionmnist makes 1 .*rgb or bgr$"):
        open_model(colour)


@pytest.mark.parametrize(
    ("reference", "changes", "message"),
    [
        ("resnet18", {"preset": "fashionmnist"}, "^resnet18: takes images of 3 channels, and preset fashionmnist"),
        ("vit_fashionmnist", {"preset": "cifar10"}, "^vit_fashionmnist: takes images of 1 channel, and preset cifar10"),
        (
            "vit_fashionmnist",
            {"size": (32, 32)},
            "^an input of 32x32 is 64 patches of 4x4 pixels, and the position table of vit_fashionmnist has 49: only "
            "28x28 fits it; omit `size`$",
        ),
        ("vit_fashionmnist", {"size": (14, 56)}, "14x56 is 42 patches .* only 28x28 fits it"),
    ],
)
def test_images_that_a_zoo_model_cannot_take_are_told(reference, changes, message):
    with pytest.raises(InputError, match=message):
        open_model(ModelRequest(reference, **changes))


def test_a_batchnorm_that_cannot_be_folded_is_named_with_the_reason(tmp_path, caplog):
    text = (
        "net (float[1,3,8,8] x) => (float[1,3,8,8] y, float[1,3,8,8] z) {"
        "a = Conv(x, w) [bn] y = BatchNormalization(a, s, b, m, v) z = Relu(a) }"
    )
    vectors = {name: [1.0, 2.0, 3.0] for name in "sbmv"}
    opened = open_model(save_net(tmp_path / "shared.onnx", text, w=np.ones((3, 3, 1, 1)), **vectors))
    left = [node.name for node in opened.model.graph.graph if node.op_type == "BatchNormalization"]
    assert list(opened.folded.left) == left != []
    for name, reason in opened.folded.left.items():
        assert f"BatchNormalization {name} could not be folded: {reason}" in caplog.text


def test_an_operator_that_nothing_runs_is_one_error(tmp_path):
    onnx = pytest.importorskip("onnx")
    text = "net (float[1,3,8,8] x) => (float[1,3,8,8] y) { y = my.domain.Magic(x) }"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17, "my.domain" : 1]> {text}')
    onnx.save(model, tmp_path / "magic.onnx")
    with pytest.raises(EdgeqError, match=r"ONNX Runtime does not know its operator my\.domain:Magic, "):
        export_model(ModelRequest(str(tmp_path / "magic.onnx"), preset="imagenet"), "x86", ["fp32"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_labels_come_from_names_a_text_file_or_a_coco_file(foreign, tmp_path):
    def labels(text: object) -> tuple[str, ...]:
        return open_model(dataclasses.replace(foreign, labels=str(text))).model.labels

    text, coco = tmp_path / "labels.txt", tmp_path / "coco.json"
    text.write_text("cat\n\n big dog \n", encoding="utf-8")
    categories = [{"id": 7, "name": "dog"}, {"id": 2, "name": "cat"}]
    coco.write_text(json.dumps({"categories": categories}))
    assert labels("cat, big dog") == labels(text) == ("cat", "big dog")
    assert labels(coco) == ("cat", "dog")
    coco.write_text("{}")
    with pytest.raises(
        InputError, match=r"coco\.json: has no 'categories'; expected a COCO annotation file for `labels`"
    ):
        labels(coco)
    with pytest.raises(InputError, match=r"none\.txt: no such file; wanted a COCO JSON, a text file, or names"):
        labels(tmp_path / "none.txt")


def test_random_weights_are_a_warning(random_resnet):
    assert "resnet18 has random weights" in random_resnet[1]
