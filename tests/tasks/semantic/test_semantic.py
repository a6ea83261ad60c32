"""Semantic segmentation: maps laid over images as torch does it, pixels counted as a confusion matrix counts them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.json_results import evaluate_artifacts, merge
from edgeq.errors import InputError, ModelError
from edgeq.evaluation.prediction_codec import pack_prediction, unpack_prediction
from edgeq.exporting.artifact import Artifact, Postprocessing, Preprocessing
from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.inputs.preprocessing import preprocess
from edgeq.packing import pack_array
from edgeq.reporting.comparison import compare
from edgeq.tasks.prediction_records import pack_predictions, unpack_predictions
from edgeq.tasks.semantic.class_map import ClassMap
from edgeq.tasks.semantic.decoder import decode
from edgeq.tasks.semantic.task import SemanticPredictions, SemanticTask
from edgeq.tasks.semantic.truth import load_pixel_truth
from edgeq.verbs.gate import FAILED, Limits, check_limits
from tests.golden import SELFIE_ON_COCO_VAL88
from tests.shipped import shipped

LABELS = ("background", "square", "disc")
POST = Postprocessing("semantic")


def placed(width: int, height: int, resize: str, side: int = 32) -> Any:
    spec = Preprocessing(side, side, resize)  # type: ignore[arg-type]
    return preprocess(np.zeros((height, width, 3), np.uint8), spec)[1]


# -- Decoding


@pytest.mark.parametrize("size", [(8, 8), (32, 32), (13, 50)])
def test_scores_are_laid_over_a_stretched_image_as_torch_does(size):
    torch = pytest.importorskip("torch")
    scores = np.random.default_rng(0).normal(size=(1, 5, *size)).astype(np.float32)
    found = decode({"anything": scores}, POST, placed(45, 70, "stretch")).pixels()
    upsampled = torch.nn.functional.interpolate(torch.from_numpy(scores), (70, 45), mode="bilinear")[0]
    best = upsampled.topk(2, dim=0).values
    clear = (best[0] - best[1]).numpy() > 1e-5
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(found[clear], upsampled.argmax(0).numpy()[clear])


def test_only_the_image_of_a_letterbox_counts():
    scores = np.zeros((1, 2, 32, 32), np.float32)
    scores[:, 1, 16:] = 1  # the lower half, which is fill for an image twice as wide as high
    assert not decode({"out": scores}, POST, placed(64, 32, "letterbox")).pixels().any()
    found = decode({"out": scores}, POST, placed(32, 32, "letterbox")).pixels()
    assert found[17:].all() and not found[:15].any()


def test_one_score_is_compared_with_the_threshold_and_integers_are_classes():
    place = placed(4, 4, "stretch", 4)
    scores = np.linspace(0, 1, 16, dtype=np.float32).reshape(1, 1, 4, 4)
    np.testing.assert_array_equal(decode({"p": scores}, POST, place).pixels(), scores[0, 0] >= 0.5)
    strict = Postprocessing("semantic", options={"threshold": 0.9})
    np.testing.assert_array_equal(decode({"p": scores}, strict, place).pixels(), scores[0, 0] >= 0.9)
    classes = np.arange(16).reshape(1, 1, 4, 4)
    for given in (classes, classes[0], classes[0].astype(np.float32)):
        np.testing.assert_array_equal(decode({"c": given}, POST, place).pixels(), classes[0, 0])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 3, 4, 4)), "wanted scores"),
        (np.zeros((1, 256, 4, 4)), "at most 255 classes"),
        (np.zeros(4), "wanted scores"),
        (np.full((1, 3, 4, 4), np.nan), "not finite"),
        (np.full((1, 4, 4), 0.5), "wanted class indices"),
        (np.full((1, 4, 4), -1), "wanted class indices"),
    ],
)
def test_what_is_no_map_is_refused(array, message):
    with pytest.raises(ModelError, match=message):
        decode({"out": array}, POST, placed(4, 4, "stretch", 4))


def test_runs_come_back_and_broken_ones_are_refused():
    pixels = np.random.default_rng(1).integers(0, 3, (7, 11))
    packed = json.loads(json.dumps(pack_prediction(SemanticTask, ClassMap.of(pixels))))
    np.testing.assert_array_equal(unpack_prediction(SemanticTask, packed).pixels(), pixels)
    runs = unpack_prediction(SemanticTask, packed)
    for changes in (
        {"lengths": runs.lengths[:-1]},
        {"lengths": -runs.lengths},
        {"size": np.array([7, 12], np.int32)},
        {"classes": runs.classes.astype(np.int32)},
    ):
        arrays = {name: pack_array(array) for name, array in {**SemanticTask.to_arrays(runs), **changes}.items()}
        with pytest.raises(InputError, match="cannot be used for semantic-segmentation"):
            unpack_prediction(SemanticTask, arrays)


# -- Truth


def save(path: Path, array: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if mode == "P":
        image.putpalette(bytes(range(256)) * 3)
    image.save(path)


@pytest.mark.parametrize("mode", ["L", "P"])
def test_masks_of_a_folder_are_class_indices(tmp_path, mode):
    mask = np.random.default_rng(2).choice([0, 1, 2, 255], (6, 9)).astype(np.uint8)
    save(tmp_path / "images" / "deep" / "a.jpg", np.zeros((6, 9, 3), np.uint8))
    save(tmp_path / "masks" / "deep" / "a.png", mask, mode)
    truth = load_pixel_truth(tmp_path / "masks", tmp_path / "images")
    assert truth.size_px(0) == (9, 6)
    np.testing.assert_array_equal(truth.pixels(0, LABELS), mask)
    with pytest.raises(InputError, match=r"has class 2, but the model has 2 classes"):
        truth.pixels(0, LABELS[:2])


def test_masks_that_are_missing_or_coloured_are_refused(tmp_path):
    save(tmp_path / "images" / "a.png", np.zeros((4, 4, 3), np.uint8))
    save(tmp_path / "masks" / "other.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(InputError, match="none of the 1 images"):
        load_pixel_truth(tmp_path / "masks", tmp_path / "images")
    save(tmp_path / "masks" / "a.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(InputError, match="mode RGB; wanted one channel"):
        load_pixel_truth(tmp_path / "masks", tmp_path / "images").pixels(0, LABELS)
    with pytest.raises(InputError, match="give `annotations`"):
        load_pixel_truth(None, tmp_path / "images")


def square(left: int, top: int, side: int) -> list[int]:
    return [left, top, left + side, top, left + side, top + side, left, top + side]


def coco(tmp_path: Path, annotations: list[dict[str, Any]], **changes: Any) -> Path:
    save(tmp_path / "images" / "a.png", np.zeros((10, 12, 3), np.uint8))
    document = {
        "images": [{"id": 7, "file_name": "a.png", "width": 12, "height": 10}],
        "categories": [{"id": 3, "name": "disc"}, {"id": 5, "name": "square"}, {"id": 9, "name": "cat"}],
        "annotations": [{"image_id": 7, **entry} for entry in annotations],
    }
    (tmp_path / "truth.json").write_text(json.dumps(document | changes))
    return tmp_path / "truth.json"


def test_objects_are_drawn_and_what_two_classes_share_is_ignored(tmp_path):
    source = coco(
        tmp_path,
        [
            {"category_id": 5, "segmentation": [square(0, 0, 4), square(8, 0, 2)]},
            {"category_id": 5, "segmentation": [square(2, 2, 4)]},
            {"category_id": 3, "segmentation": [square(5, 5, 3)]},
            {"category_id": 9, "segmentation": [square(0, 0, 9)]},
            {"category_id": 3, "segmentation": [[1, 1, 5, 5]]},
        ],
    )
    expected = np.zeros((10, 12), int)
    expected[0:4, 0:4] = expected[0:2, 8:10] = expected[2:6, 2:6] = 1
    expected[5:8, 5:8] = 2
    expected[5, 5] = 255
    truth = load_pixel_truth(source, tmp_path / "images")
    np.testing.assert_array_equal(truth.pixels(0, LABELS), expected)
    # Without a background only objects count.
    np.testing.assert_array_equal(
        truth.pixels(0, ("disc", "square")), np.select([expected == 1, expected == 2], [1, 0], 255)
    )


def test_segments_have_the_class_of_their_category(tmp_path):
    source = coco(
        tmp_path,
        [{"file_name": "a.png", "segments_info": [{"id": 258, "category_id": 3}, {"id": 65536, "category_id": 9}]}],
    )
    ids = np.zeros((10, 12, 3), np.uint8)
    ids[:5] = (2, 1, 0)
    ids[5:, :6] = (0, 0, 1)
    save(tmp_path / "truth" / "a.png", ids)
    expected = np.full((10, 12), 255)
    expected[:5], expected[5:, :6] = 2, 0
    np.testing.assert_array_equal(load_pixel_truth(source, tmp_path / "images").pixels(0, LABELS), expected)
    ids[0, 0] = 9
    save(tmp_path / "truth" / "a.png", ids)
    with pytest.raises(InputError, match="has a segment"):
        load_pixel_truth(source, tmp_path / "images").pixels(0, LABELS)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [10, 13], "counts": [130]}, r"wanted polygons, or RLE of size \[10, 12\]"),
        ({"size": [10, 12], "counts": [119]}, "an RLE of 119 pixels; its image has 120"),
        ({"size": [10, 12], "counts": [-1, 121]}, "lengths of runs from 0"),
        ([[1, 2, 3]], "wanted finite numbers"),
        ([["a"] * 6], "wanted finite numbers"),
        ("text", "wanted polygons"),
        (None, "wanted polygons"),
    ],
)
def test_broken_objects_are_one_clear_line(tmp_path, segmentation, message):
    source = coco(tmp_path, [{"category_id": 5, "segmentation": segmentation}])
    with pytest.raises(InputError, match=rf"annotation number 1 has .*{message}"):
        load_pixel_truth(source, tmp_path / "images").pixels(0, LABELS)


def test_classes_are_matched_by_name(tmp_path):
    truth = load_pixel_truth(coco(tmp_path, [{"category_id": 5, "segmentation": []}]), tmp_path / "images")
    truth.check_labels(LABELS)
    with pytest.raises(InputError, match="has no categories named 'dog'"):
        truth.check_labels(("background", "dog"))
    with pytest.raises(InputError, match="the model has no names"):
        truth.check_labels(())


# -- Scores


def records(seed: int, images: int = 6, noise: float = 0.3) -> tuple[SemanticPredictions, np.ndarray]:
    """Predictions of the classes 0 to 3, of which the truth lacks 3, and their confusion matrix."""
    rng = np.random.default_rng(seed)
    truth = rng.choice([0, 0, 1, 2, 255], (images, 400))
    wrong = rng.random(truth.shape) < noise
    found = np.where(wrong | (truth == 255), rng.integers(0, 4, truth.shape), truth)
    matrices = np.zeros((images, 4, 4), np.int32)
    for number in range(images):
        kept = truth[number] != 255
        np.add.at(matrices[number], (truth[number][kept], found[number][kept]), 1)
    diagonal = np.diagonal(matrices, axis1=1, axis2=2).astype(np.int32)
    names = tuple(f"{number}.png" for number in range(images))
    labels = (*LABELS, "none")
    return SemanticPredictions(labels, names, diagonal, *(matrices.sum(axis).astype(np.int32) for axis in (1, 2))), (
        matrices.sum(axis=0)
    )


def test_scores_are_those_of_the_confusion_matrix():
    predictions, matrix = records(3)
    score = predictions.score()
    iou = [matrix[k, k] / (matrix[k].sum() + matrix[:, k].sum() - matrix[k, k]) for k in range(4)]
    assert score.miou == pytest.approx(np.mean(iou))
    assert [each.iou for each in score.per_class] == pytest.approx(iou)
    assert score.pixel_accuracy == pytest.approx(np.trace(matrix) / matrix.sum())
    assert [each.recall for each in score.per_class][3] is None
    assert predictions.resampled("miou")[0] == pytest.approx(score.miou)
    assert predictions.resampled_classes()[:, 0] == pytest.approx(iou)
    packed = json.loads(json.dumps(pack_predictions(predictions)))
    assert unpack_predictions(packed, SemanticPredictions).score() == score
    packed["arrays"]["shared"] = pack_array(predictions.truth + 1)
    with pytest.raises(InputError, match="counts contradict each other"):
        unpack_predictions(packed, SemanticPredictions)


def save_colour_segmenter(path: Path, precision: str, gains: tuple[float, float, float]) -> Artifact:
    """Writes a model whose class is the channel that is brightest, each times a gain."""
    onnx = pytest.importorskip("onnx")
    graph = onnx.parser.parse_graph(
        "net (float[1,3,16,16] image) => (float[1,3,16,16] scores) "
        f"<float[1,3,1,1] gain = {{{', '.join(map(str, gains))}}}> {{ scores = Mul(image, gain) }}"
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10), path)
    return Artifact(
        path, "onnx", precision, "x86", (TensorSpec("image", "float32", (1, 3, 16, 16)),),
        (TensorSpec("scores", "float32", (1, 3, 16, 16)),), Preprocessing(16, 16, "stretch"), POST, LABELS,
    ).save()  # fmt: skip


def test_files_are_scored_compared_and_gated(tmp_path):
    rng = np.random.default_rng(4)
    for number in range(6):
        mask = np.kron(rng.integers(0, 3, (4, 4)), np.ones((8, 8), int)).astype(np.uint8)
        save(tmp_path / "masks" / f"{number}.png", np.where(rng.random(mask.shape) < 0.05, 255, mask).astype(np.uint8))
        save(tmp_path / "images" / f"{number}.png", np.eye(3, dtype=np.uint8)[mask] * 200 + np.uint8(20))
    files = [
        save_colour_segmenter(tmp_path / f"net.{precision}.onnx", precision, gains)
        for precision, gains in (("fp32", (1, 1, 1)), ("int8", (1, 1, 0.05)))
    ]
    results = evaluate_artifacts(
        [each.path for each in files], tmp_path / "masks", tmp_path / "images", runtimes=["onnxruntime"]
    )
    exact, worse = results
    assert (exact["task"], exact["miou"], exact["pixel_accuracy"]) == ("semantic-segmentation", 1.0, 1.0)
    assert [each["iou"] for each in worse["per_class"]][2] == 0
    assert worse["per_class"][0]["name"] == "background"
    for result in results:
        result["source_digest"] = "one"
    comparison = compare(merge(results))[1]
    assert comparison.main is not None and comparison.main.low is not None and comparison.main.low > 30
    assert comparison.classes[0].name == "disc"
    (verdict, of_class) = check_limits(merge(results), Limits(max_drop=1, per_class=1, few=1)).verdicts
    assert (verdict.verdict, of_class.verdict) == (FAILED, FAILED)


def test_a_trained_model_on_real_persons(shared_data, tmp_path):
    """MediaPipe's selfie segmentation, float16, on COCO's polygons of persons."""
    pytest.importorskip("ai_edge_litert")
    model = shipped("mediapipe", "0.10.14", "modules/selfie_segmentation/selfie_segmentation_landscape.tflite")
    (tmp_path / "selfie.toml").write_text(
        'labels = ["background", "person"]\n[preprocessing]\nresize = "stretch"\n[postprocessing]\ndecoder = "semantic"'
    )
    coco = shared_data / "coco"
    (result,) = evaluate_artifacts(
        [model], coco / "instances_val.json", coco / "val2017", preset=str(tmp_path / "selfie.toml")
    )
    found = {name: result[name] for name in ("miou", "pixel_accuracy")}
    assert found == pytest.approx(SELFIE_ON_COCO_VAL88, abs=2e-3)
