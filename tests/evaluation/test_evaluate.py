"""`edgeq eval` with real engines: a small model that finds bright squares, and the real detectors."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeq.evaluation.inference
import edgeq.inputs.images
import edgeq.inputs.items
import edgeq.tasks.detection.coco
from benchmarks.json_results import evaluate_artifacts
from edgeq.errors import InputError, MismatchError, ModelError
from edgeq.evaluation.dataset import load_dataset
from edgeq.evaluation.evaluate import evaluate
from edgeq.exporting.artifact import Artifact, Postprocessing, Preprocessing
from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.inputs.images import read_image
from edgeq.inputs.presets import load_preset
from edgeq.machine import read_machine
from edgeq.tasks.detection import Detections
from edgeq.tasks.detection.coco import SCORE_NAMES
from tests.golden import (
    CENTERNET_R18_BCCD,
    CENTERNET_R18_BCCD_TOLERANCE,
    FP32_ON_COCO_VAL88,
    FP32_TOLERANCE,
)

RUNTIMES = [
    name
    for name, package in (("onnxruntime", "onnxruntime"), ("openvino", "openvino"))
    if importlib.util.find_spec(package) is not None
]
SIDE_PX = 24
LABELS = ("red", "green", "blue")


def save_square_finder(path: Path, **changes: Any) -> Artifact:
    """Writes a CenterNet by hand: its heatmap is each colour's mean over 12x12 pixels, its boxes are 12x12 pixels.

    It sees images of 128x128 pixels at half their size, where a bright square of 24x24 fills the window exactly once.
    """
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    means = np.zeros((3, 3, 12, 12), np.float32)
    for channel in range(3):
        means[channel, channel] = 20 / 144
    constant = {"size": np.full(2, 3, np.float32), "offset": np.full(2, 0.5, np.float32)}
    weights = [numpy_helper.from_array(means, "means"), numpy_helper.from_array(np.full(3, -10, np.float32), "bias")]
    weights.append(numpy_helper.from_array(np.zeros((2, 3, 4, 4), np.float32), "zeros"))
    weights += [numpy_helper.from_array(value, name) for name, value in constant.items()]
    nodes = [
        helper.make_node("Conv", ["image", "means", "bias"], ["hm"], strides=[4, 4], pads=[4, 4, 4, 4]),
        helper.make_node("Conv", ["image", "zeros", "size"], ["wh"], strides=[4, 4]),
        helper.make_node("Conv", ["image", "zeros", "offset"], ["reg"], strides=[4, 4]),
    ]
    shapes = {"hm": (1, 3, 16, 16), "wh": (1, 2, 16, 16), "reg": (1, 2, 16, 16)}
    graph = helper.make_graph(
        nodes,
        "square_finder",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, (1, 3, 64, 64))],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    fields: dict[str, Any] = {
        "path": path,
        "format": "onnx",
        "precision": "fp32",
        "target": "x86",
        "inputs": (TensorSpec("image", "float32", (1, 3, 64, 64)),),
        "outputs": tuple(TensorSpec(name, "float32", shape) for name, shape in shapes.items()),
        "preprocessing": Preprocessing(64, 64, resize="center"),
        "postprocessing": Postprocessing("centernet", options={"score_threshold": 0.3}),
        "labels": LABELS,
    }
    return Artifact(**fields | changes).save()


@pytest.fixture
def squares(tmp_path: Path) -> Path:
    """Draws 30 images with a square each of the three colours; categories are in another order than the labels."""
    from PIL import Image

    rng = np.random.default_rng(0)
    folder = tmp_path / "squares"
    folder.mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(30):
        pixels = np.zeros((128, 128, 3), np.uint8)
        for channel, column in enumerate(rng.permutation(3)):
            # On the map's grid, so that one window holds the whole square.
            x, y = 8 * int(5 * column + rng.integers(0, 2)), 8 * int(rng.integers(0, 13))
            pixels[y : y + SIDE_PX, x : x + SIDE_PX, channel] = 255
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": index,
                    "category_id": (30, 20, 10)[channel],
                    "bbox": [x, y, SIDE_PX, SIDE_PX],
                    "area": SIDE_PX**2,
                    "iscrowd": 0,
                }
            )
        Image.fromarray(pixels).save(folder / f"{index:02}.png")
        images.append({"id": index, "file_name": f"{index:02}.png", "width": 128, "height": 128})
    categories = [{"id": number, "name": name} for number, name in ((10, "blue"), (20, "green"), (30, "red"))]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(document))
    return folder


def score(squares: Path, *artifacts: Artifact, **options: Any) -> list[dict[str, Any]]:
    paths = [artifact.path for artifact in artifacts]
    return evaluate_artifacts(paths, squares / "annotations.json", squares, **options)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_model_that_finds_everything_scores_full_marks(tmp_path: Path, squares: Path, runtime: str) -> None:
    (result,) = score(squares, save_square_finder(tmp_path / "finder.onnx"), runtimes=[runtime], threads=1)
    assert result["AP50"] == pytest.approx(1) and result["AP"] > 0.8
    assert result["AP_large"] is None
    assert [(entry["name"], entry["boxes"]) for entry in result["per_class"]] == [
        ("blue", 30), ("green", 30), ("red", 30),
    ]  # fmt: skip
    assert {"artifact", "runtime", "precision", "images", *SCORE_NAMES, "per_class"} <= result.keys()
    assert (result["artifact"], result["runtime"], result["precision"]) == ("finder.onnx", runtime, "fp32")
    assert (result["images"], result["skipped_images"], result["obtained"]) == (30, [], "measured")
    assert result["environment"]["engine"].startswith(runtime)
    assert 0 < result["eval_images_per_s"] <= result["inference_images_per_s"]
    json.dumps(result, allow_nan=False)


def test_an_emulated_cpu_gives_scores_and_no_speeds(
    tmp_path: Path, squares: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulated = dataclasses.replace(read_machine(), emulated=True)
    monkeypatch.setattr("edgeq.runtimes.base.read_machine", lambda: emulated)
    (result,) = score(squares, save_square_finder(tmp_path / "finder.onnx"), runtimes=["onnxruntime"], threads=1)
    assert result["AP50"] == pytest.approx(1)
    assert (result["obtained"], result["eval_images_per_s"], result["inference_images_per_s"]) == (
        "emulated", None, None,
    )  # fmt: skip


def test_artifacts_of_one_preprocessing_share_the_reading_and_keep_their_order(
    tmp_path: Path, squares: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def count(path: Path, stated_px: tuple[int, int] | None) -> np.ndarray:
        read.append(path)
        return read_image(path, stated_px)

    monkeypatch.setattr(edgeq.inputs.items, "read_image", count)
    turned = Preprocessing(64, 64, resize="center", channel_order="bgr")
    artifacts = [
        save_square_finder(tmp_path / "a.onnx"),
        save_square_finder(tmp_path / "b.onnx", preprocessing=turned, labels=LABELS[::-1]),
        save_square_finder(tmp_path / "c.onnx", precision="int8"),
    ]
    results = score(squares, *artifacts, runtimes=RUNTIMES)
    assert [(result["artifact"], result["runtime"]) for result in results] == [
        (artifact.name, runtime) for artifact in artifacts for runtime in RUNTIMES
    ]
    assert len(read) == 2 * 30
    for result in results:
        assert result["AP"] == pytest.approx(results[0]["AP"], abs=1e-6)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The images and JSON files that are read, one entry for each time."""
    read: list[Path] = []
    documents = edgeq.tasks.detection.coco.read_json  # type: ignore[attr-defined]

    def note_image(path: Path, stated_px: tuple[int, int] | None) -> np.ndarray:
        read.append(path)
        return read_image(path, stated_px)

    def note_document(path: Path, *arguments: Any, **how: Any) -> Any:
        read.append(path)
        return documents(path, *arguments, **how)

    monkeypatch.setattr(edgeq.inputs.items, "read_image", note_image)
    for module in (edgeq.tasks.detection.coco, edgeq.inputs.images):
        monkeypatch.setattr(module, "read_json", note_document)
    return read


def test_a_data_set_is_read_once_for_any_number_of_scorings(tmp_path: Path, squares: Path, reads: list[Path]) -> None:
    annotations = squares / "annotations.json"
    artifacts = [
        save_square_finder(tmp_path / "a.onnx"),
        save_square_finder(tmp_path / "b.onnx", labels=LABELS[::-1]),
    ]
    dataset = load_dataset("detection", annotations, squares)
    assert reads == [annotations]
    first = [evaluate([artifact], dataset, runtimes=["onnxruntime"]) for artifact in artifacts]
    again = [evaluate([artifact], dataset, runtimes=["onnxruntime"]) for artifact in artifacts]
    assert len(reads) == len(set(reads)) == 1 + 30
    alone = score(squares, *artifacts, runtimes=["onnxruntime"])
    for results in ([result for (result,) in first], [result for (result,) in again]):
        assert [result.predictions for result in results] == [result["predictions"] for result in alone]
        assert [result.score.main_value for result in results] == [result["AP"] for result in alone]


def test_what_does_not_fit_into_the_cache_is_read_again(tmp_path: Path, squares: Path, reads: list[Path]) -> None:
    artifact = save_square_finder(tmp_path / "finder.onnx")
    size_bytes = 64 * 64 * 3 * 4
    dataset = load_dataset("detection", squares / "annotations.json", squares, cache_bytes=10 * size_bytes + 1)
    (first,) = evaluate([artifact], dataset, runtimes=["onnxruntime"])
    assert dataset.inputs.size_bytes == 10 * size_bytes
    reads.clear()
    (second,) = evaluate([artifact], dataset, runtimes=["onnxruntime"])
    assert len(reads) == 20
    assert second.predictions == first.predictions


def test_artifacts_are_scored_on_data_of_their_task(tmp_path: Path, squares: Path) -> None:
    artifact = save_square_finder(tmp_path / "finder.onnx")
    dataset = load_dataset("embedding", None, squares)
    with pytest.raises(InputError, match=r"finder\.onnx is for detection and the data set for embedding"):
        evaluate([artifact], dataset)
    with pytest.raises(InputError, match="unknown task 'poses'; known: captioning, classification, "):
        load_dataset("poses", None, squares)


@pytest.mark.skipif("openvino" not in RUNTIMES, reason="the extra `openvino` is not installed")
def test_one_file_is_scored_in_several_compute_precisions(tmp_path: Path, squares: Path) -> None:
    artifact = save_square_finder(tmp_path / "finder.onnx")
    results = score(squares, artifact, runtimes=["openvino"], compute_precisions=["f32", "bf16"])
    assert results[0]["environment"]["compute_precision"] == "f32"
    assert [result["AP50"] for result in results] == pytest.approx([1, 1])


def test_a_file_that_is_replaced_while_images_run_through_it_is_refused(
    tmp_path: Path, squares: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = save_square_finder(tmp_path / "finder.onnx")

    def replaced(path: Path, stated_px: tuple[int, int] | None) -> np.ndarray:
        if path.name == "03.png":
            artifact.path.write_bytes(artifact.path.read_bytes() + b"more")
        return read_image(path, stated_px)

    monkeypatch.setattr(edgeq.inputs.items, "read_image", replaced)
    with pytest.raises(MismatchError, match=r"finder\.onnx: was changed while it was read; run the command again"):
        score(squares, artifact, runtimes=["onnxruntime"])


def test_a_few_unreadable_images_are_named_and_skipped(
    tmp_path: Path, squares: Path, caplog: pytest.LogCaptureFixture
) -> None:
    artifact = save_square_finder(tmp_path / "finder.onnx")
    broken = squares / "07.png"
    broken.write_bytes(broken.read_bytes()[:60])
    (result,) = score(squares, artifact, runtimes=["onnxruntime"])
    assert (result["images"], result["skipped_images"]) == (29, ["07.png"])
    assert result["AP50"] == pytest.approx(1)
    assert "07.png" in caplog.text
    (squares / "08.png").unlink()
    with pytest.raises(InputError, match=r"2 of 30 images cannot be read, more than 5%"):
        score(squares, artifact, runtimes=["onnxruntime"])


def test_images_of_another_size_than_annotated_are_refused(tmp_path: Path, squares: Path) -> None:
    from PIL import Image

    Image.new("RGB", (64, 128)).save(squares / "03.png")
    with pytest.raises(InputError, match=r"03\.png: has 64x128 pixels, its annotations were made on 128x128"):
        score(squares, save_square_finder(tmp_path / "finder.onnx"), runtimes=["onnxruntime"])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"labels": ("pink", "cyan", "gold")}, InputError, "no categories named 'pink'"),
        ({"postprocessing": None}, InputError, "names no decoder"),
        ({"postprocessing": Postprocessing("ssd99")}, InputError, r"unknown decoder 'ssd99'; .*known: "),
        ({"postprocessing": Postprocessing("yolox")}, ModelError, "no output 'output' .* found hm"),
        ({"postprocessing": Postprocessing("yolox", {"predictions": "hm"})}, ModelError, "wanted predictions"),
        (
            {"postprocessing": Postprocessing("broken_decoder:fail")},
            ModelError,
            "broken_decoder:fail failed .*KeyError",
        ),
        ({"postprocessing": Postprocessing("broken_decoder:nothing")}, ModelError, "returned NoneType, wanted"),
        ({"postprocessing": Postprocessing("broken_decoder:nan")}, ModelError, "finder.onnx: .* not finite numbers"),
        ({"preprocessing": Preprocessing(32, 64)}, InputError, r"has shape \(1, 3, 32, 64\), wanted"),
    ],
)
def test_a_model_that_cannot_be_scored_is_one_clear_line(
    tmp_path: Path,
    squares: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    (tmp_path / "broken_decoder.py").write_text(
        "import numpy as np\nfrom edgeq.tasks.detection import Detections\n"
        "def fail(outputs, post, placement):\n    return outputs['missing']\n"
        "def nothing(outputs, post, placement):\n    pass\n"
        "def nan(outputs, post, placement):\n"
        "    return Detections(np.full((1, 4), np.nan, np.float32), np.ones(1, np.float32), np.zeros(1, np.int64))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("EDGEQ_DECODERS", "broken_decoder:fail,broken_decoder:nothing,broken_decoder:nan")
    artifact = save_square_finder(tmp_path / "finder.onnx", **changes)
    with pytest.raises(error, match=message) as caught:
        score(squares, artifact, runtimes=["onnxruntime"])
    assert "\n" not in str(caught.value)


def test_wrong_arguments_are_told_before_an_image_is_read(
    tmp_path: Path, squares: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, _stated_px: tuple[int, int] | None) -> np.ndarray:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(edgeq.inputs.items, "read_image", refuse)
    artifact = save_square_finder(tmp_path / "finder.onnx")
    with pytest.raises(InputError, match="unknown COCO evaluator"):
        score(squares, artifact, engine="fast")
    with pytest.raises(InputError, match="unknown runtime"):
        score(squares, artifact, runtimes=["abacus"])
    with pytest.raises(InputError, match="no artifact to score"):
        score(squares)
    with pytest.raises(InputError, match="none of its 30 images is in"):
        evaluate_artifacts([artifact.path], squares / "annotations.json", tmp_path)


def test_a_decoder_of_ones_own_is_used(tmp_path: Path, squares: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "halving_decoder.py").write_text(
        "import dataclasses\nfrom edgeq.tasks.detection.decoders.centernet import decode as inner\n"
        "def decode(outputs, post, placement):\n"
        "    found = inner(outputs, post, placement)\n"
        "    return dataclasses.replace(found, boxes=found.boxes / 2)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("EDGEQ_DECODERS", "halving_decoder:decode")
    post = Postprocessing("halving_decoder:decode")
    (result,) = score(squares, save_square_finder(tmp_path / "finder.onnx", postprocessing=post))
    assert result["AP50"] < 0.2


def real_artifact(shared_data: Path, folder: Path, name: str, preset_name: str) -> Artifact:
    onnxruntime = pytest.importorskip("onnxruntime")
    path = folder / f"{name}.onnx"
    path.write_bytes((shared_data / "weights" / path.name).read_bytes())
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs, outputs = (
        tuple(TensorSpec(node.name, "float32", tuple(node.shape)) for node in nodes)
        for nodes in (session.get_inputs(), session.get_outputs())
    )
    _, _, height, width = session.get_inputs()[0].shape
    preset = load_preset(preset_name, (height, width))
    return Artifact(
        path, "onnx", "fp32", "x86", inputs, outputs, preset.preprocessing, preset.postprocessing, preset.labels
    ).save()


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(("name", "preset"), [("yolox_nano_coco_416", "yolox"), ("fastestdet_coco_352", "fastestdet")])
def test_real_detectors_reach_their_ap(shared_data: Path, tmp_path: Path, name: str, preset: str, runtime: str) -> None:
    artifact = real_artifact(shared_data, tmp_path, name, preset)
    coco = shared_data / "coco"
    (result,) = evaluate_artifacts([artifact.path], coco / "instances_val.json", coco / "val2017", runtimes=[runtime])
    for key, value in FP32_ON_COCO_VAL88[name].items():
        assert result[key] == pytest.approx(value, abs=FP32_TOLERANCE)


@pytest.mark.slow
def test_centernet_reaches_its_published_ap(shared_data: Path) -> None:
    """Straight through torch, so that neither an export nor an engine can hide a wrong pre-processing or decoder."""
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    from edgeq.inputs.preprocessing import preprocess
    from edgeq.models.centernet import CenterNet
    from edgeq.tasks.detection.coco import evaluate, load_ground_truth
    from edgeq.tasks.detection.decoders.centernet import decode

    state = safetensors.load_file(shared_data / "weights" / "centernet_r18_bccd.safetensors")
    model = CenterNet(18, 3)
    model.load_state_dict({k: v.float() if v.dtype == torch.float16 else v for k, v in state.items()})
    model.eval().to(memory_format=torch.channels_last)  # a fifth faster on CPUs
    preset = load_preset("centernet", (320, 416))
    assert preset.postprocessing is not None
    ground_truth = load_ground_truth(shared_data / "bccd" / "instances_val.json")
    detections: dict[int, Detections] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for each other where other tests run beside this one
    try:
        with torch.inference_mode():
            for image in ground_truth.images:
                pixels = read_image(shared_data / "bccd" / "images" / image.file_name)
                array, placement = preprocess(pixels, preset.preprocessing)
                image_batch = torch.from_numpy(array).to(memory_format=torch.channels_last)
                maps = (output.numpy() for output in model(image_batch))
                outputs = dict(zip(("hm", "wh", "reg"), maps, strict=True))
                detections[image.id] = decode(outputs, preset.postprocessing, placement)
    finally:
        torch.set_num_threads(threads)
    scores = evaluate(ground_truth, detections, list(detections), labels=("RBC", "WBC", "Platelets"))
    assert scores.numbers["AP"] == pytest.approx(CENTERNET_R18_BCCD["AP"], abs=CENTERNET_R18_BCCD_TOLERANCE)
    for name, value in CENTERNET_R18_BCCD.items():
        # Few boxes are small: their figures swing by a box.
        assert scores.numbers[name] == pytest.approx(value, abs=0.03 if "small" in name else 0.01)
