"""The evaluator against pycocotools, called here by its own road: files, `loadRes`, `summarize`."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.errors import InputError, MissingDependencyError
from edgeq.tasks.detection import Detections
from edgeq.tasks.detection.categories import NO_CATEGORY, category_ids, counted_detections
from edgeq.tasks.detection.coco import (
    SCORE_NAMES,
    DetectionScores,
    GroundTruth,
    evaluate,
    load_ground_truth,
)
from edgeq.tasks.detection.records import DetectionPredictions
from tests.golden import MLPERF_ON_COCO_VAL88, MLPERF_TOLERANCE

Document = dict[str, Any]


def synthetic() -> Document:
    """Returns annotations with gaps between category ids, an unused category, crowds, empty images and image id 0."""
    rng = np.random.default_rng(7)
    images = [{"id": index * 3, "file_name": f"{index}.jpg", "width": 640, "height": 480} for index in range(12)]
    annotations: list[Document] = []
    for image in images[:10]:
        for _ in range(int(rng.integers(1, 9))):
            x, y = rng.uniform(0, 400, 2)
            width, height = rng.choice([20, 60, 200], 2) * rng.uniform(0.8, 1.2, 2)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": int(rng.choice([2, 5, 90])),
                    "bbox": [float(x), float(y), float(width), float(height)],
                    "area": float(width * height * rng.uniform(0.5, 1)),
                    "iscrowd": int(rng.random() < 0.2),
                }
            )
    categories = [{"id": number, "name": f"class {number}"} for number in (90, 2, 5, 33)]
    return {"images": images, "annotations": annotations, "categories": categories}


def synthetic_detections(document: Document, seed: int = 3) -> dict[int, Detections]:
    """Returns good, shifted, doubled and invented boxes; scores take few values, so that many are tied."""
    rng = np.random.default_rng(seed)
    found = {}
    for image in document["images"][:11]:
        boxes, classes = [], []
        for entry in document["annotations"]:
            if entry["image_id"] != image["id"]:
                continue
            x, y, width, height = entry["bbox"]
            for _ in range(int(rng.integers(0, 3))):
                shift = rng.normal(0, 0.08, 4) * [width, height, width, height]
                boxes.append(np.array([x, y, x + width, y + height]) + shift)
                classes.append([2, 5, 33, 90].index(entry["category_id"]))
        for _ in range(120 if image["id"] == 6 else 3):  # more than 100 of one class in one image
            corner = rng.uniform(0, 400, 2)
            boxes.append(np.concatenate([corner, corner + rng.uniform(10, 100, 2)]))
            classes.append(0 if image["id"] == 6 else int(rng.integers(0, 4)))
        found[image["id"]] = Detections(
            np.array(boxes, np.float32),
            rng.choice(np.linspace(0.1, 0.9, 5), len(boxes)).astype(np.float32),
            np.array(classes, np.int64),
        )
    return found


def save(document: Document, folder: Path) -> Path:
    path = folder / "annotations.json"
    path.write_text(json.dumps(document))
    return path


def score_with_pycocotools(
    annotations: Path, detections: Mapping[int, Detections], image_ids: list[int], categories: list[int]
) -> tuple[list[float], Any]:
    """Returns the twelve numbers and the evaluator, by pycocotools' own road."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    results = [
        {
            "image_id": image_id,
            "category_id": categories[label],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }
        for image_id, found in detections.items()
        for (x1, y1, x2, y2), score, label in zip(
            found.boxes.tolist(), found.scores.tolist(), found.classes.tolist(), strict=True
        )
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluator = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluator.params.imgIds = image_ids
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats.tolist(), evaluator


def assert_equals_pycocotools(scores: DetectionScores, stats: list[float], evaluator: Any) -> None:
    """Bit for bit."""
    assert tuple(scores.numbers) == SCORE_NAMES
    assert list(scores.numbers.values()) == [None if value == -1 else value for value in stats]
    precision, recall = evaluator.eval["precision"], evaluator.eval["recall"]
    for index, entry in enumerate(scores.per_class):
        expected = [precision[:, :, index, 0, 2], precision[0, :, index, 0, 2], recall[:, index, 0, 2]]
        for value, array in zip((entry.ap, entry.ap50, entry.ar_100), expected, strict=True):
            assert value == (None if (array == -1).all() else array.mean())


def all_ids(ground_truth: GroundTruth) -> list[int]:
    return [image.id for image in ground_truth.images]


def test_synthetic_set_is_scored_bit_for_bit_as_by_pycocotools(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    document = synthetic()
    path = save(document, tmp_path)
    ground_truth = load_ground_truth(path)
    detections = synthetic_detections(document)
    scores = evaluate(ground_truth, detections, all_ids(ground_truth))
    assert capfd.readouterr().out == ""
    stats, evaluator = score_with_pycocotools(path, detections, all_ids(ground_truth), [2, 5, 33, 90])
    assert_equals_pycocotools(scores, stats, evaluator)
    assert all(value is not None and 0.02 < value < 0.98 for value in scores.numbers.values())
    absent = scores.per_class[2]
    assert (absent.name, absent.boxes, absent.ap, absent.ar_100) == ("class 33", 0, None, None)
    counted = [entry["category_id"] for entry in document["annotations"] if not entry["iscrowd"]]
    assert [entry.boxes for entry in scores.per_class] == [counted.count(number) for number in (2, 5, 33, 90)]


def test_only_the_images_asked_for_count(tmp_path: Path) -> None:
    document = synthetic()
    path = save(document, tmp_path)
    ground_truth = load_ground_truth(path)
    detections = synthetic_detections(document)
    some = [0, 9, 15, 33]
    scores = evaluate(ground_truth, detections, some)
    assert_equals_pycocotools(scores, *score_with_pycocotools(path, detections, some, [2, 5, 33, 90]))
    kept = [entry for entry in document["annotations"] if entry["image_id"] in some and not entry["iscrowd"]]
    assert sum(entry.boxes for entry in scores.per_class) == len(kept)


@pytest.mark.skipif(importlib.util.find_spec("faster_coco_eval") is None, reason="the extra `faster` is not installed")
@pytest.mark.parametrize("seed", range(3))
def test_the_faster_engine_gives_the_same_numbers(tmp_path: Path, seed: int) -> None:
    document = synthetic()
    ground_truth = load_ground_truth(save(document, tmp_path))
    detections = synthetic_detections(document, seed)
    assert_same(
        evaluate(ground_truth, detections, all_ids(ground_truth), engine="faster"),
        evaluate(ground_truth, detections, all_ids(ground_truth)),
    )


def assert_same(found: DetectionScores, expected: DetectionScores) -> None:
    for name, value in expected.numbers.items():
        assert found.numbers[name] == (None if value is None else pytest.approx(value, abs=1e-14))
    for one, other in zip(found.per_class, expected.per_class, strict=True):
        assert (one.name, one.category_id, one.boxes) == (other.name, other.category_id, other.boxes)
        for value, wanted in ((one.ap, other.ap), (one.ap50, other.ap50), (one.ar_100, other.ar_100)):
            assert value == (None if wanted is None else pytest.approx(wanted, abs=1e-14))


def test_an_annotation_with_id_0_or_a_repeated_id_still_counts(tmp_path: Path) -> None:
    document = synthetic()
    detections = synthetic_detections(document)
    ground_truth = load_ground_truth(save(document, tmp_path))
    expected = evaluate(ground_truth, detections, all_ids(ground_truth))
    for new_id in (lambda number: number - 1, lambda number: number // 2, lambda _: 0):
        changed = copy.deepcopy(document)
        for entry in changed["annotations"]:
            entry["id"] = new_id(entry["id"])
        again = load_ground_truth(save(changed, tmp_path))
        assert evaluate(again, detections, all_ids(again)) == expected


def test_perfect_detections_score_one_and_none_score_zero(tmp_path: Path) -> None:
    document = synthetic()
    ground_truth = load_ground_truth(save(document, tmp_path))
    perfect = {}
    for image in document["images"]:
        own = [entry for entry in document["annotations"] if entry["image_id"] == image["id"]]
        boxes = np.array([entry["bbox"] for entry in own], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = np.array([[2, 5, 33, 90].index(entry["category_id"]) for entry in own], np.int64)
        perfect[image["id"]] = Detections(boxes, np.ones(len(own), np.float32), labels)
    assert evaluate(ground_truth, perfect, all_ids(ground_truth)).numbers["AP"] == pytest.approx(1)
    empty = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    for nothing in ({}, {0: empty}):
        assert set(evaluate(ground_truth, nothing, all_ids(ground_truth)).numbers.values()) == {0.0}
    boxless = evaluate(ground_truth, perfect, [30, 33])  # images without annotations
    assert set(boxless.numbers.values()) == {None}


def test_missing_area_and_iscrowd_are_those_of_the_box(tmp_path: Path) -> None:
    document = synthetic()
    for entry in document["annotations"]:
        entry["iscrowd"], entry["area"] = 0, entry["bbox"][2] * entry["bbox"][3]
    detections = synthetic_detections(document)
    full = load_ground_truth(save(document, tmp_path))
    expected = evaluate(full, detections, all_ids(full))
    for entry in document["annotations"]:
        del entry["iscrowd"], entry["area"]
    bare = load_ground_truth(save(document, tmp_path))
    assert evaluate(bare, detections, all_ids(bare)) == expected


def test_labels_lead_to_categories_by_name(tmp_path: Path) -> None:
    ground_truth = load_ground_truth(save(synthetic(), tmp_path))
    assert category_ids(ground_truth, ()).tolist() == [2, 5, 33, 90]
    assert category_ids(ground_truth, ("class 90", "class 2")).tolist() == [90, 2]
    with pytest.raises(InputError, match=r"no categories named 'dog' .* found class 2, class 5.*`labels`"):
        category_ids(ground_truth, ("dog", "cat"))
    assert category_ids(ground_truth, ("class_2", "dog")).tolist() == [2, NO_CATEGORY]


def test_relabelled_classes_score_the_same(tmp_path: Path) -> None:
    document = synthetic()
    ground_truth = load_ground_truth(save(document, tmp_path))
    detections = synthetic_detections(document)
    expected = evaluate(ground_truth, detections, all_ids(ground_truth))
    turned = {
        image_id: Detections(found.boxes, found.scores, 3 - found.classes) for image_id, found in detections.items()
    }
    labels = ("class 90", "class 33", "class 5", "class 2")
    assert evaluate(ground_truth, turned, all_ids(ground_truth), labels=labels) == expected


def test_class_indices_that_stand_for_nothing_are_left_out(tmp_path: Path) -> None:
    document = synthetic()
    truth = load_ground_truth(save(document, tmp_path))
    names = ["class 2", "class 5", "class 33", "class 90"]
    plain = synthetic_detections(document)
    spread = {image: Detections(found.boxes, found.scores, found.classes * 2 + 1) for image, found in plain.items()}
    gaps = [label for name in names for label in ("N/A", name)]
    assert category_ids(truth, gaps).tolist() == [NO_CATEGORY, 2, NO_CATEGORY, 5, NO_CATEGORY, 33, NO_CATEGORY, 90]
    first = next(iter(spread))
    noise = Detections(np.zeros((3, 4), np.float32), np.ones(3, np.float32), np.array([0, 2, 6]))
    pairs = zip(vars(spread[first]).values(), vars(noise).values(), strict=True)
    spread[first] = Detections(*(np.concatenate(pair) for pair in pairs))
    expected = evaluate(truth, plain, all_ids(truth), labels=names)
    assert evaluate(truth, spread, all_ids(truth), labels=gaps) == expected
    with_gaps = category_ids(truth, gaps)
    records = DetectionPredictions.of(truth, with_gaps, counted_detections(truth, with_gaps, spread))
    without = DetectionPredictions.of(truth, category_ids(truth, names), plain)
    np.testing.assert_array_equal(records.labels, without.labels)
    np.testing.assert_array_equal(records.counts, without.counts)


def test_more_classes_than_categories_are_told(tmp_path: Path) -> None:
    ground_truth = load_ground_truth(save(synthetic(), tmp_path))
    found = Detections(np.zeros((1, 4), np.float32), np.ones(1, np.float32), np.array([79]))
    with pytest.raises(InputError, match="has 4 categories, but the model detected class 79"):
        evaluate(ground_truth, {0: found}, [0])


def test_foreign_images_and_engines_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ground_truth = load_ground_truth(save(synthetic(), tmp_path))
    with pytest.raises(InputError, match="no image 1; wanted ids of its 12 images"):
        evaluate(ground_truth, {}, [0, 1])
    with pytest.raises(InputError, match="no images to score"):
        evaluate(ground_truth, {}, [])
    with pytest.raises(InputError, match="unknown COCO evaluator 'fast'; known: pycocotools, faster"):
        evaluate(ground_truth, {}, [0], engine="fast")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'edgeq\[faster\]'"):
        evaluate(ground_truth, {}, [0], engine="faster")


def _changed(key: str, index: int, field: str, value: Any) -> Document:
    document = synthetic()
    if value is None:
        del document[key][index][field]
    else:
        document[key][index][field] = value
    return document


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([1, 2], r"is \[1, 2\], wanted keys with values; expected a COCO annotation file with boxes"),
        ({"images": [], "annotations": [], "categories": []}, "'images' is empty"),
        ({key: synthetic()[key] for key in ("images", "categories")}, "has no 'annotations'"),
        (synthetic() | {"annotations": []}, "'annotations' is empty"),
        (synthetic() | {"categories": []}, "'categories' is empty"),
        (_changed("images", 3, "id", None), r"\$\.images\[3\] has no 'id'"),
        (_changed("images", 3, "id", "three"), r"\$\.images\[3\]\.id is 'three', wanted a whole number"),
        (_changed("images", 3, "id", 0), "two of its images have the id 0"),
        (_changed("categories", 1, "name", None), r"\$\.categories\[1\] has no 'name'"),
        (_changed("categories", 1, "id", 5), "two of its categories have the id 5"),
        (
            _changed("annotations", 0, "bbox", None),
            r"\$\.annotations\[0\] has no 'bbox'",
        ),
        (
            _changed("annotations", 0, "bbox", [1, 2, 3]),
            r"\[0\]\.bbox is \[1, 2, 3\], wanted a list of length 4",
        ),
        (_changed("annotations", 0, "bbox", [1, 2, -3, 4]), "no side < 0"),
        (_changed("annotations", 0, "bbox", [1, 2, float("nan"), 4]), "NaN is not JSON"),
        (_changed("annotations", 0, "category_id", None), r"\$\.annotations\[0\] has no 'category_id'"),
        (_changed("annotations", 0, "category_id", 7), "is of category 7, which the file does not list"),
    ],
)
def test_a_broken_annotation_file_is_one_clear_line(tmp_path: Path, document: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_ground_truth(save(document, tmp_path))
    assert "\n" not in str(caught.value) and "annotations.json" in str(caught.value)


def test_missing_and_truncated_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_ground_truth(tmp_path / "gone.json")
    path = save(synthetic(), tmp_path)
    path.write_text(path.read_text()[:500])
    with pytest.raises(InputError, match="not valid JSON"):
        load_ground_truth(path)


def mlperf_detections(system: Path, ground_truth: GroundTruth, folder: Path) -> dict[int, Detections]:
    """Returns a submission's detections on our images; `category_id` is COCO's, boxes are parts of the image."""
    lines = {name: index for index, name in enumerate((folder / "val_map.txt").read_text().split())}
    with np.load(system, allow_pickle=False) as content:
        index, boxes, scores, categories = (
            content[key] for key in ("qsl_idx", "ymin_xmin_ymax_xmax", "score", "category_id")
        )
    ids = category_ids(ground_truth, ())
    found = {}
    for image in ground_truth.images:
        rows = np.flatnonzero(index == lines[image.file_name])
        # A run may hold several records of an image.
        _, first = np.unique(np.column_stack([boxes[rows], scores[rows], categories[rows]]), axis=0, return_index=True)
        rows = rows[np.sort(first)]
        size = np.array([image.width_px, image.height_px] * 2)
        corners = (boxes[rows][:, [1, 0, 3, 2]] * size).astype(np.float32)
        found[image.id] = Detections(corners, scores[rows], np.searchsorted(ids, categories[rows]))
    return found


@pytest.mark.parametrize("system", sorted(MLPERF_ON_COCO_VAL88))
def test_real_detections_score_bit_for_bit_as_by_pycocotools(shared_data: Path, system: str) -> None:
    annotations = shared_data / "coco" / "instances_val.json"
    ground_truth = load_ground_truth(annotations)
    assert len(ground_truth.images) == 88 and len(ground_truth.categories) == 80
    folder = shared_data / "mlperf_detections"
    detections = mlperf_detections(folder / f"{system}.npz", ground_truth, folder)
    scores = evaluate(ground_truth, detections, all_ids(ground_truth))
    categories = category_ids(ground_truth, ()).tolist()
    assert_equals_pycocotools(
        scores, *score_with_pycocotools(annotations, detections, all_ids(ground_truth), categories)
    )
    for name, value in MLPERF_ON_COCO_VAL88[system].items():
        assert scores.numbers[name] == pytest.approx(value, abs=MLPERF_TOLERANCE)
    if importlib.util.find_spec("faster_coco_eval") is not None:
        assert_same(evaluate(ground_truth, detections, all_ids(ground_truth), engine="faster"), scores)
