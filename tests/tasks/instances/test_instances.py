"""Instance segmentation: masks as torchvision and YOLACT's users make them, AP as pycocotools computes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeq.errors import InputError, ModelError
from edgeq.evaluation.prediction_codec import pack_prediction, unpack_prediction
from edgeq.exporting.artifact import Artifact, Postprocessing, Preprocessing
from edgeq.inputs.preprocessing import Placement, preprocess
from edgeq.packing import pack_array
from edgeq.tasks.instances import mask_rcnn, yolo_seg
from edgeq.tasks.instances.instances import Instances
from edgeq.tasks.instances.task import InstancePredictions, InstanceTask
from edgeq.tasks.masks import RunLengths, decode, encode, to_rle
from edgeq.tasks.prediction_records import pack_predictions, unpack_predictions
from tests.golden import SHIFTED_MASKS_ON_COCO_VAL88


def placed(width: int, height: int, resize: str = "stretch", side: int = 64) -> Placement:
    spec = Preprocessing(side, side, resize)  # type: ignore[arg-type]
    return preprocess(np.zeros((height, width, 3), np.uint8), spec)[1]


def pixels(found: Instances) -> NDArray[np.bool_]:
    width, height = found.size_px
    rles = [
        to_rle({"size": [height, width], "counts": runs.tolist()}, width, height, "") for runs in found.masks.split()
    ]
    return np.stack([decode(rle) for rle in rles if rle is not None])


def boxes_of(rng: np.random.Generator, count: int, side: float) -> NDArray[np.float32]:
    first, second = rng.uniform(0, side, (2, count, 2))
    return np.concatenate([np.minimum(first, second), np.maximum(first, second)], axis=1).astype(np.float32)


def test_masks_are_pasted_as_torchvision_does():
    torch = pytest.importorskip("torch")
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    rng = np.random.default_rng(0)
    boxes = boxes_of(rng, 40, 64)
    boxes[:4] = [(0, 0, 64, 64), (63, 63, 64, 64), (10, 10, 10, 10), (0, 20.5, 3.2, 64)]
    masks = rng.random((40, 1, 28, 28)).astype(np.float32)
    scores = np.linspace(0.99, 0.1, 40, dtype=np.float32)
    place = placed(45, 70)
    outputs: dict[str, NDArray[Any]] = {"boxes": boxes, "scores": scores, "labels": np.ones(40), "masks": masks}
    found = pixels(mask_rcnn.decode(outputs, Postprocessing("mask-rcnn"), place))
    pasted = paste_masks_in_image(torch.from_numpy(masks), torch.from_numpy(place.to_image(boxes)), (70, 45))[:, 0]
    doubtful = np.abs(pasted.numpy() - 0.5) < 1e-5
    assert doubtful.mean() < 1e-3
    np.testing.assert_array_equal(found | doubtful, (pasted.numpy() > 0.5) | doubtful)


def test_masks_of_the_whole_input_are_laid_over_the_image():
    torch = pytest.importorskip("torch")
    masks = np.random.default_rng(1).random((3, 1, 64, 64)).astype(np.float32)
    outputs = {"boxes": np.zeros((3, 4)), "scores": np.array([0.2, 0.9, 0.04]), "labels": np.array([2, 1, 1])}
    found = mask_rcnn.decode({**outputs, "masks": masks}, Postprocessing("mask-rcnn"), placed(45, 70))
    assert (found.classes.tolist(), found.scores.tolist()) == ([0, 1], pytest.approx([0.9, 0.2]))
    whole = torch.nn.functional.interpolate(torch.from_numpy(masks[[1, 0]]), (70, 45), mode="bilinear")[:, 0]
    assert (pixels(found) == (whole > 0.5).numpy()).mean() > 0.9999


@pytest.mark.parametrize(("resize", "size"), [("stretch", (45, 70)), ("letterbox", (128, 64))])
def test_prototypes_are_mixed_and_cut_at_the_box(resize, size):
    torch = pytest.importorskip("torch")
    from torchvision.ops import batched_nms

    rng = np.random.default_rng(2)
    place = placed(size[0], size[1], resize)
    boxes = boxes_of(rng, 30, 64)
    predictions = np.zeros((1, 4 + 3 + 8, 30), np.float32)
    predictions[0, :2], predictions[0, 2:4] = (boxes[:, :2] + boxes[:, 2:]).T / 2, (boxes[:, 2:] - boxes[:, :2]).T
    predictions[0, 4:7], predictions[0, 7:] = rng.random((3, 30)), rng.normal(size=(8, 30))
    prototypes = rng.normal(size=(1, 8, 16, 16)).astype(np.float32)
    found = yolo_seg.decode({"output0": predictions, "output1": prototypes}, Postprocessing("yolo-seg"), place)

    scores, classes = torch.from_numpy(predictions[0, 4:7]).max(0)
    kept = batched_nms(torch.from_numpy(boxes), scores, classes, 0.7)
    np.testing.assert_allclose(found.scores, scores[kept])
    np.testing.assert_array_equal(found.classes, classes[kept])
    mixed = torch.einsum("kn,khw->nhw", torch.from_numpy(predictions[0, 7:]), torch.from_numpy(prototypes[0]))[kept]
    width, height = size
    shown = mixed if resize == "stretch" else mixed[:, : 16 * height // width]
    laid = torch.nn.functional.interpolate(shown[None], (height, width), mode="bilinear")[0].numpy()
    rows, columns = np.mgrid[:height, :width]
    left, top, right, bottom = (edge[:, None, None] for edge in place.to_image(boxes[kept]).T)
    inside = (columns >= left) & (columns < right) & (rows >= top) & (rows < bottom)
    doubtful = np.abs(laid) < 1e-4
    np.testing.assert_array_equal(pixels(found) & ~doubtful, (laid > 0) & inside & ~doubtful)


def test_masks_that_the_model_chooses_are_taken_as_they_are():
    rng = np.random.default_rng(5)
    boxes, place = boxes_of(rng, 30, 64), placed(45, 70)
    centred = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)
    scores, coefficients = rng.random((30, 1)), rng.normal(size=(30, 8))
    prototypes = rng.normal(size=(1, 8, 16, 16)).astype(np.float32)
    post = Postprocessing("yolo-seg", options={"iou_threshold": 1.0, "top_k": 20})
    rows = np.concatenate([centred, scores, coefficients], axis=1).T[None].astype(np.float32)
    chosen = np.concatenate([boxes, scores, scores * 0, coefficients], axis=1)[None].astype(np.float32)
    wanted, found = (yolo_seg.decode({"output0": each, "output1": prototypes}, post, place) for each in (rows, chosen))
    assert len(found.scores) == 20
    np.testing.assert_array_equal(found.scores, wanted.scores)
    np.testing.assert_array_equal(found.classes, wanted.classes)
    assert (pixels(found) != pixels(wanted)).mean() < 1e-3  # where a rounded box ends


def test_no_object_is_an_answer_and_other_shapes_are_none():
    post, place = Postprocessing("mask-rcnn"), placed(45, 70)
    nothing = {
        "boxes": np.zeros((0, 4)),
        "scores": np.zeros(0),
        "labels": np.zeros(0),
        "masks": np.zeros((0, 1, 28, 28)),
    }
    assert mask_rcnn.decode(nothing, post, place).masks.split() == []
    with pytest.raises(ModelError, match=r"wanted boxes \(N, 4\)"):
        mask_rcnn.decode({**nothing, "scores": np.zeros(1)}, post, place)
    with pytest.raises(ModelError, match="not finite"):
        one = {"boxes": np.zeros((1, 4)), "scores": np.full(1, np.nan), "labels": np.ones(1)}
        mask_rcnn.decode({**one, "masks": np.zeros((1, 1, 28, 28))}, post, place)
    with pytest.raises(ModelError, match=r"wanted predictions \(1, 4 \+ classes \+ K, N\)"):
        yolo_seg.decode(
            {"output0": np.zeros((1, 12, 5)), "output1": np.zeros((1, 32, 4, 4))}, Postprocessing("yolo-seg"), place
        )


# -- Scores, on real polygons


@pytest.fixture(scope="module")
def coco(shared_data) -> Path:
    return Path(shared_data / "coco")


def shifted(coco: Path, task: InstanceTask, seed: int = 0) -> dict[int, Instances]:
    """Returns the true masks, moved by some pixels, some of them of another class or left out."""
    rng = np.random.default_rng(seed)
    document = json.loads((coco / "instances_val.json").read_text())
    ids = [category["id"] for category in sorted(document["categories"], key=lambda each: each["id"])]
    found = {}
    for number, image in enumerate(document["images"]):
        masks, classes = [], []
        for entry in document["annotations"]:
            if entry["image_id"] != image["id"] or entry["iscrowd"] or rng.random() < 0.1:
                continue
            rle = to_rle(entry["segmentation"], image["width"], image["height"], "")
            assert rle is not None
            moved = np.roll(decode(rle), rng.integers(-4, 5, 2), (0, 1))
            masks.append(encode(moved, 0, 0, image["width"], image["height"]))
            classes.append(ids.index(entry["category_id"]) if rng.random() < 0.9 else int(rng.integers(80)))
        scores = rng.random(len(masks)).astype(np.float32)
        size = (image["width"], image["height"])
        found[number] = Instances(size, scores, np.array(classes, np.int64), RunLengths.of(masks))
    return found


@pytest.fixture(scope="module")
def task(coco) -> InstanceTask:
    return InstanceTask.from_files(coco / "instances_val.json", coco / "val2017", "pycocotools")


@pytest.fixture(scope="module")
def found(coco, task) -> dict[int, Instances]:
    return shifted(coco, task)


@pytest.fixture(scope="module")
def score(task, found) -> Any:
    return task.score(ARTIFACT, found, {})


ARTIFACT = Artifact(Path("net.onnx"), "onnx", "fp32", "x86", (), (), None)


def test_scores_are_those_of_pycocotools(coco, task, found, score, capsys):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO(str(coco / "instances_val.json"))
    results: list[dict[str, Any]] = [
        {
            "image_id": image["id"], "category_id": sorted(truth.getCatIds())[label], "score": float(value),
            "segmentation": {"size": [image["height"], image["width"]], "counts": runs.tolist()},
        }
        for number, image in enumerate(truth.dataset["images"])
        for runs, label, value in zip(
            found[number].masks.split(), found[number].classes.tolist(), found[number].scores, strict=True
        )
    ]  # fmt: skip
    for result in results:
        height, width = result["segmentation"]["size"]
        compressed = to_rle(result["segmentation"], width, height, "")
        assert compressed is not None
        result["segmentation"] = {**compressed, "counts": compressed["counts"].decode()}
    evaluator = COCOeval(truth, truth.loadRes(results), "segm")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    capsys.readouterr()
    assert list(score.numbers.values()) == evaluator.stats.tolist()
    assert {name: score.numbers[name] for name in SHIFTED_MASKS_ON_COCO_VAL88} == pytest.approx(
        SHIFTED_MASKS_ON_COCO_VAL88, abs=1e-6
    )


def test_the_faster_evaluator_is_equal(coco, task, found, score):
    pytest.importorskip("faster_coco_eval")
    faster = InstanceTask.from_files(coco / "instances_val.json", coco / "val2017", "faster").score(ARTIFACT, found, {})
    assert faster.numbers == pytest.approx(score.numbers, abs=1e-12)
    assert faster.evaluator == "faster"


def test_records_lead_to_the_same_numbers(task, found, score):
    predictions = task.per_image(ARTIFACT, found, {})
    for name in ("AP", "AP_small", "AP_medium", "AP_large"):
        assert predictions.resampled(name)[0] == pytest.approx(score.numbers[name], abs=1e-12)
    per_class = [np.nan if each.ap is None else each.ap for each in score.per_class]
    np.testing.assert_allclose(predictions.resampled_classes()[:, 0], per_class, atol=1e-12)
    curve = predictions.curve()
    assert curve is not None and 0.5 < curve.best_f1 < 1
    packed = json.loads(json.dumps(pack_predictions(predictions)))
    again = unpack_predictions(packed, InstancePredictions)
    np.testing.assert_array_equal(again.resampled("AP"), predictions.resampled("AP"))
    assert again.has_truth_of(predictions)
    packed["arrays"]["labels"] = pack_array(predictions.labels + 80)
    with pytest.raises(InputError, match="a class that is not named"):
        unpack_predictions(packed, InstancePredictions)


def test_a_device_sends_masks_and_broken_ones_are_refused(found):
    one = found[0]
    packed = json.loads(json.dumps(pack_prediction(InstanceTask, one)))
    received = unpack_prediction(InstanceTask, packed)
    assert received.size_px == one.size_px
    np.testing.assert_array_equal(received.masks.runs, one.masks.runs)
    for name, changed in (
        ("runs", one.masks.runs + 1),
        ("counts", one.masks.counts[:-1]),
        ("size_px", np.array([1, 2], np.int32)),
        ("scores", one.scores.astype(np.float64)),
    ):
        with pytest.raises(InputError, match="cannot be used for instance-segmentation"):
            unpack_prediction(InstanceTask, {**packed, name: pack_array(changed)})


def test_objects_without_a_pixel_do_not_count_and_are_told(coco, tmp_path, caplog):
    document = json.loads((coco / "instances_val.json").read_text())
    document["annotations"][0]["segmentation"] = [[1, 1, 2, 2]]
    (tmp_path / "val.json").write_text(json.dumps(document))
    InstanceTask.from_files(tmp_path / "val.json", coco / "val2017", "pycocotools")
    assert "1 objects have no mask, or polygons of fewer than three points only" in caplog.text
