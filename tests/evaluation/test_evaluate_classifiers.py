"""`edgeq eval` of classifiers: a hand-made one in every form of input, and real files of other tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.image_sets import unpack_cifar
from benchmarks.json_results import evaluate_artifacts
from edgeq.errors import InputError, ModelError
from edgeq.exporting.artifact import Artifact, Postprocessing, Preprocessing
from edgeq.exporting.tensor_spec import TensorSpec
from tests.golden import (
    CIFAR10_RESNET8_EVERY_FIFTH,
    CLASSIFICATION_TOLERANCE,
    CORAL_MOBILENET_V2_ON_IMAGENET_VAL300,
)

COLOURS = ("red", "green", "blue")
SIDE_PX = 8
FLOAT = TensorSpec("image", "float32", (1, 3, SIDE_PX, SIDE_PX))
# Red, green and blue of the pre-processing below reach from -2 to 2.
QUANTIZED = TensorSpec("image", "uint8", (1, SIDE_PX, SIDE_PX, 3), "NHWC", 4 / 255, 127)


def save_colour_finder(path: Path, spec: TensorSpec = FLOAT, background: float = -9, **changes: Any) -> Artifact:
    """Writes a classifier by hand: its scores are one of a background class, and the mean of each colour."""
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    axes = [2, 3] if spec.layout == "NCHW" else [1, 2]
    nodes = [
        helper.make_node("Cast", ["image"], ["real"], to=onnx.TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["real", "axes"], ["means"], keepdims=0),
        helper.make_node("Concat", ["background", "means"], ["scores"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "colour_finder",
        [helper.make_tensor_value_info("image", helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)), spec.shape)],
        [helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, (1, 4))],
        [
            numpy_helper.from_array(np.array(axes), "axes"),
            numpy_helper.from_array(np.array([[background]], np.float32), "background"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    fields: dict[str, Any] = {
        "path": path,
        "format": "onnx",
        "precision": "fp32",
        "target": "x86",
        "inputs": (spec,),
        "outputs": (TensorSpec("scores", "float32", (1, 4)),),
        "preprocessing": Preprocessing(SIDE_PX, SIDE_PX, "stretch", mean=(0.5,) * 3, std=(0.25,) * 3),
        "postprocessing": Postprocessing("classification", options={"offset": 1}),
        "labels": COLOURS,
    }
    return Artifact(**fields | changes).save()


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """Draws ten images of each colour in its folder; three of the blue ones lie in the folder of the green ones."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for channel, name in enumerate(COLOURS):
        for index in range(10):
            pixels = rng.integers(0, 100, (12, 12, 3), dtype=np.uint8)
            pixels[:, :, channel] += 100
            folder = tmp_path / "colours" / ("green" if name == "blue" and index < 3 else name)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{name}{index}.png")
    return tmp_path / "colours"


def check_colours(result: dict[str, Any]) -> None:
    assert (result["task"], result["images"], result["top1"], result["top5"]) == ("classification", 30, 0.9, None)
    assert result["per_class"] == [
        {"name": "red", "class_index": 0, "images": 10, "top1": 1.0},
        {"name": "green", "class_index": 1, "images": 13, "top1": 10 / 13},
        {"name": "blue", "class_index": 2, "images": 7, "top1": 1.0},
    ]
    assert "AP" not in result
    assert "evaluator" not in result


def test_float_channel_last_and_quantized_inputs_see_the_same_image(tmp_path: Path, colours: Path) -> None:
    last = TensorSpec("image", "float32", QUANTIZED.shape, "NHWC")
    artifacts = [
        save_colour_finder(tmp_path / f"{name}.onnx", spec)
        for name, spec in (("first", FLOAT), ("last", last), ("quantized", QUANTIZED))
    ]
    results = evaluate_artifacts([artifact.path for artifact in artifacts], None, colours, runtimes=["onnxruntime"])
    for result, artifact in zip(results, artifacts, strict=True):
        check_colours(result)
        assert (result["artifact"], result["annotations"], result["obtained"]) == (artifact.name, "colours", "measured")
        assert 0 < result["eval_images_per_s"] <= result["inference_images_per_s"]
        json.dumps(result, allow_nan=False)


@pytest.mark.parametrize("suffix", [".json", ".csv"])
def test_labels_of_a_file_give_the_same_scores(tmp_path: Path, colours: Path, suffix: str) -> None:
    classes = {str(path.relative_to(colours)): COLOURS.index(path.parent.name) for path in colours.rglob("*.png")}
    lines = "\n".join(f"{name},{index}" for name, index in classes.items())
    labels = tmp_path / f"labels{suffix}"
    labels.write_text(json.dumps(classes) if suffix == ".json" else lines)
    artifact = save_colour_finder(tmp_path / "net.onnx", labels=("background", *COLOURS))
    (result,) = evaluate_artifacts([artifact.path], labels, colours)
    check_colours(result)


@pytest.mark.parametrize("kind", ["pairs", "bytes"])
def test_a_quantized_file_of_another_tool_is_scored_as_it_is(tmp_path: Path, colours: Path, kind: str) -> None:
    """Its input is integers, whose scale the file tells, or the bytes of pixels whatever the preset normalises."""
    onnx = pytest.importorskip("onnx")
    text = {
        "pairs": "r = DequantizeLinear(image, s, z)",
        "bytes": "f = Cast<to=1>(image) q = QuantizeLinear(f, one, z) r = DequantizeLinear(q, one, z)",
    }[kind]
    text = f"""<ir_version: 8, opset_import: ["" : 18]>
        g (uint8[1,3,{SIDE_PX},{SIDE_PX}] image) => (int8[1,4] scores) {{
            {text}  m = ReduceMean<keepdims=0>(r, axes)  c = Concat<axis=1>(low, m)  scores = QuantizeLinear(c, t, i)
        }}"""
    model = onnx.parser.parse_model(text)
    step = 4 if kind == "bytes" else 4 / 255
    weights = {
        "s": np.float32(4 / 255),
        "z": np.uint8(0 if kind == "bytes" else 127),
        "one": np.float32(1),
        "axes": np.array([2, 3]),
        "low": np.full((1, 1), -9 if kind == "pairs" else 0, np.float32),
        "t": np.float32(step),
        "i": np.int8(0),
    }
    tensors = (onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items())
    model.graph.initializer.extend(tensors)
    onnx.save(model, tmp_path / "net.onnx")
    preset = tmp_path / "mine.toml"
    preset.write_text(
        "[preprocessing]\nresize = 'stretch'\nmean = [0.5, 0.5, 0.5]\nstd = [0.25, 0.25, 0.25]\n"
        "[postprocessing]\ndecoder = 'classification'\n[postprocessing.options]\noffset = 1\n"
    )
    (result,) = evaluate_artifacts(
        [tmp_path / "net.onnx"], None, colours, preset=str(preset), labels=",".join(COLOURS), runtimes=["onnxruntime"]
    )
    check_colours(result)


def test_a_file_without_a_manifest_is_scored_by_a_preset(tmp_path: Path, colours: Path) -> None:
    artifact = save_colour_finder(tmp_path / "net.onnx")
    artifact.manifest_path.unlink()
    preset = tmp_path / "mine.toml"
    preset.write_text(
        "[preprocessing]\nresize = 'stretch'\n[postprocessing]\ndecoder = 'classification'\n"
        "[postprocessing.options]\noffset = 1\n"
    )
    (result,) = evaluate_artifacts([artifact.path], None, colours, preset=str(preset), labels=",".join(COLOURS))
    check_colours(result)
    assert (result["target"], result["precision"], result["runtime"]) == ("", "", "onnxruntime")
    with pytest.raises(
        InputError, match=r"net\.onnx: has no manifest .*; give `preset`, one of the \d+ that `edgeq presets` lists"
    ):
        evaluate_artifacts([artifact.path], None, colours)


def test_images_that_cannot_be_read_are_named_and_left_out(tmp_path: Path, colours: Path) -> None:
    (colours / "red" / "red0.png").write_bytes(b"no image")
    artifact = save_colour_finder(tmp_path / "net.onnx")
    (result,) = evaluate_artifacts([artifact.path], None, colours, runtimes=["onnxruntime"])
    assert (result["images"], result["skipped_images"]) == (29, ["red0.png"])
    assert result["per_class"][0]["images"] == 9


@pytest.mark.parametrize(
    ("spec", "changes", "error", "message"),
    [
        (
            TensorSpec("image", "int8", FLOAT.shape),
            {},
            InputError,
            "input 'image' is int8 without a scale, but pre-processing gives real numbers; wanted scale and",
        ),
        (FLOAT, {"labels": ("red", "green")}, InputError, "has 3 classes, but 2 labels"),
        (FLOAT, {"labels": ("red", "green", "pink")}, InputError, "a class 'blue', which the model does not know"),
        (FLOAT, {"outputs": (TensorSpec("scores", "float32", (1, None)),)}, ModelError, r"wanted \(1, classes\)"),
        (FLOAT, {"postprocessing": Postprocessing("classification", {"scores": "y"})}, ModelError, "no output 'y'"),
    ],
)
def test_a_classifier_that_cannot_be_scored_is_one_clear_line(
    tmp_path: Path, colours: Path, spec: TensorSpec, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    artifact = save_colour_finder(tmp_path / "net.onnx", spec, **changes)
    with pytest.raises(error, match=message) as caught:
        evaluate_artifacts([artifact.path], None, colours, runtimes=["onnxruntime"])
    assert "\n" not in str(caught.value)


def test_scores_that_are_no_numbers_are_told(tmp_path: Path, colours: Path) -> None:
    post = Postprocessing("classification")
    artifact = save_colour_finder(tmp_path / "net.onnx", background=np.nan, postprocessing=post, labels=("", *COLOURS))
    with pytest.raises(ModelError, match=r"net\.onnx: computed scores that are not finite numbers"):
        evaluate_artifacts([artifact.path], None, colours, runtimes=["onnxruntime"])


def test_detectors_and_classifiers_are_scored_apart(tmp_path: Path, colours: Path) -> None:
    paths = [
        save_colour_finder(tmp_path / "a.onnx").path,
        save_colour_finder(tmp_path / "b.onnx", postprocessing=Postprocessing("centernet")).path,
    ]
    with pytest.raises(InputError, match=r"a\.onnx is for classification and b\.onnx for detection; score them in two"):
        evaluate_artifacts(paths, None, colours)


@pytest.mark.parametrize(
    ("values", "warns"),
    [
        ({"scale": 1.0}, True),  # -0.5 to 254.5 into -2 to 2
        ({"scale": 1 / 255, "mean": (0.0,) * 3, "std": (50.0,) * 3}, True),  # 0 to 0.02, in steps of 0.016
        ({}, False),
    ],
)
def test_a_preset_for_another_input_is_warned_of(
    tmp_path: Path, colours: Path, caplog: pytest.LogCaptureFixture, values: dict[str, Any], warns: bool
) -> None:
    fields: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.25,) * 3} | values
    preprocessing = Preprocessing(SIDE_PX, SIDE_PX, "stretch", **fields)
    artifact = save_colour_finder(tmp_path / "net.onnx", QUANTIZED, preprocessing=preprocessing)
    evaluate_artifacts([artifact.path], None, colours, runtimes=["onnxruntime"])
    assert ("is it the right one?" in caplog.text) == warns


# -- Files of other tools


@pytest.fixture(scope="module")
def cifar10(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Every fifth of the 10,000 test images, and their labels."""
    folder = tmp_path_factory.mktemp("cifar10")
    return folder, unpack_cifar(shared_data, "cifar10_test10k_jpeg", folder, every=5)


def test_the_official_float_and_int8_pair_of_mlperf_tiny(
    shared_data: Path, tmp_path: Path, cifar10: tuple[Path, Path]
) -> None:
    pytest.importorskip("ai_edge_litert")
    preset = tmp_path / "pixels.toml"
    preset.write_text("[preprocessing]\nresize = 'stretch'\nscale = 1\n[postprocessing]\ndecoder = 'classification'\n")
    folder, labels = cifar10
    paths = [shared_data / "weights" / f"{name}.tflite" for name in CIFAR10_RESNET8_EVERY_FIFTH]
    results = evaluate_artifacts(paths, labels, folder, preset=str(preset), threads=1)
    for result, golden in zip(results, CIFAR10_RESNET8_EVERY_FIFTH.values(), strict=True):
        assert (result["images"], result["runtime"]) == (2000, "litert")
        for key, value in golden.items():
            assert result[key] == pytest.approx(value, abs=CLASSIFICATION_TOLERANCE)


def test_a_coral_classifier_with_a_background_class(shared_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    preset = tmp_path / "coral.toml"
    preset.write_text(
        "[preprocessing]\nresize = 'stretch'\nmean = [0.5, 0.5, 0.5]\nstd = [0.5, 0.5, 0.5]\n"
        "[postprocessing]\ndecoder = 'classification'\n[postprocessing.options]\noffset = 1\n"
    )
    data = shared_data / "classification"
    path = shared_data / "weights" / "coral_tf2_mobilenet_v2_1.0_224_ptq.tflite"
    (result,) = evaluate_artifacts(
        [path], data / "imagenet_val300_labels.json", data / "imagenet_val300", preset=str(preset), threads=1
    )
    assert (result["images"], len(result["per_class"])) == (300, 1000)
    for key, value in CORAL_MOBILENET_V2_ON_IMAGENET_VAL300.items():
        assert result[key] == pytest.approx(value, abs=CLASSIFICATION_TOLERANCE)
