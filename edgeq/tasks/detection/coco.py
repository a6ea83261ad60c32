"""COCO data and its scores: average precision and recall, bit for bit those of pycocotools.

The protocol is that of "Microsoft COCO: Common Objects in Context" (Lin et al., 2014): AP is the mean over the IoU
thresholds .50:.05:.95, over 101 recall levels and over the classes that have boxes; AR_N is the recall with the N best
detections of an image and class.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeq.boundary import Integer, Plain, Raw, parse_json, read_json
from edgeq.datasets.coco_file import CocoFile, CocoObject
from edgeq.errors import InputError
from edgeq.tasks.detection.categories import category_ids, counted_detections
from edgeq.tasks.detection.coco_engine import CocoProblem, evaluate_problem, mean_present
from edgeq.tasks.detection.detections import Detections

SCORE_NAMES = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip
"""The twelve numbers of a COCO evaluation, in pycocotools' order."""

_KIND = "a COCO annotation file with boxes"

# Positions in pycocotools' arrays: IoU thresholds, areas and numbers of detections.
_IOU50, _IOU75 = 0, 5
_ALL, _SMALL, _MEDIUM, _LARGE = range(4)
_MAX_1, _MAX_10, _MAX_100 = range(3)


class ImageRecord(NamedTuple):
    """An image of a COCO file; width and height are 0 where the file does not state them."""

    id: int
    file_name: str
    width_px: int
    height_px: int


class Shape(NamedTuple):
    """What is known of an object besides its box.

    Attributes:
        segmentation: Polygons or RLE as COCO files have them; JSON text that is not parsed yet; or `None`.
        keypoints: x, y, visibility, x, y, ...; empty without any.
    """

    segmentation: Any = None
    keypoints: Sequence[float] = ()


@dataclass(frozen=True)
class GroundTruth:
    """A COCO annotation file that was found to be sound.

    Attributes:
        source: The file.
        images: Its images, in the file's order.
        categories: Category id -> name, by ascending id.
        annotations: Objects as pycocotools takes them: `id`, `image_id`, `category_id`, `bbox` (x, y, width, height),
            `area`, `iscrowd`. The ids are new, 1 to N: pycocotools counts a match with
            id 0 as none, and mixes up annotations that share an id.
        shapes: Id of an annotation -> what is known of it besides its box; those with a box alone are not in it.
        class_map: Class name of a model -> name of a category, as the user says.
        verified: Image id -> the categories that were looked for in it; in an image without an entry, all.
    """

    source: Path
    images: tuple[ImageRecord, ...]
    categories: Mapping[int, str]
    annotations: tuple[Mapping[str, Any], ...]
    shapes: Mapping[int, Shape] = field(default_factory=dict)
    class_map: Mapping[str, str] = field(default_factory=dict)
    verified: Mapping[int, frozenset[int]] = field(default_factory=dict)

    def segmentation(self, number: int) -> Any:
        """Returns polygons or RLE of the annotation with an id, as COCO files have them; `None` without any.

        Raises:
            InputError: they are nested too deep.
        """
        stated = self.shapes[number].segmentation if number in self.shapes else None
        if not isinstance(stated, Raw):
            return stated
        place = f"{self.source}: annotation number {number}"
        return parse_json(stated, Plain, source=place, kind="polygons or RLE")

    def keypoints(self, number: int) -> Sequence[float]:
        """Returns x, y, visibility, x, y, ... of the annotation with an id; nothing if it has none."""
        return self.shapes[number].keypoints if number in self.shapes else ()

    def records(self) -> list[dict[str, Any]]:
        """Returns the images as pycocotools takes them."""
        return [{"id": each.id, "width": each.width_px, "height": each.height_px} for each in self.images]


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class; `None` where the images hold no box of it.

    Attributes:
        name: The category's name.
        category_id: The category's id.
        boxes: Ground-truth boxes, crowds not counted.
        ap: AP over all IoU thresholds.
        ap50: AP at IoU .50.
        ar_100: Recall with the 100 best detections an image.
    """

    name: str
    category_id: int
    boxes: int
    ap: float | None
    ap50: float | None
    ar_100: float | None


@dataclass(frozen=True)
class DetectionScores:
    """The result of a COCO evaluation.

    Attributes:
        numbers: The twelve numbers by `SCORE_NAMES`, 0..1; `None` where there is no box to find.
        per_class: One entry a category, by ascending id.
    """

    numbers: Mapping[str, float | None]
    per_class: tuple[ClassScores, ...]


def load_ground_truth(source: Path) -> GroundTruth:
    """Returns the checked content of a COCO annotation file.

    A missing `iscrowd` is 0 and a missing `area` the box's; annotations of images that the file does not list are left
    out, as pycocotools does.

    Raises:
        InputError: the file is missing, is no COCO file, or contradicts itself.
    """
    document = read_json(source, CocoFile[_Boxed], kind=_KIND)
    for key in ("images", "annotations", "categories"):
        if not getattr(document, key):
            raise InputError(f"{source}: its list {key!r} is empty; there is nothing to score on")
    _require_unique(source, "images", [image.id for image in document.images])
    _require_unique(source, "categories", [category.id for category in document.categories])
    images = tuple(
        ImageRecord(each.id, each.file_name, int(each.width or 0), int(each.height or 0)) for each in document.images
    )
    categories = {each.id: str(each.name) for each in sorted(document.categories, key=lambda each: each.id)}
    if any(not image.file_name for image in images):
        raise InputError(f"{source}: one of its images has no 'file_name'; wanted {_KIND}")
    known = {image.id for image in images}
    annotations = [
        _annotation(source, number, entry, categories) for number, entry in enumerate(document.annotations, start=1)
    ]
    shapes = {
        number: Shape(entry.segmentation if bytes(entry.segmentation) else None, entry.keypoints or ())
        for number, entry in enumerate(document.annotations, start=1)
    }
    counted = tuple(entry for entry in annotations if entry["image_id"] in known)
    return GroundTruth(source, images, categories, counted, shapes)


class _Boxed(CocoObject, kw_only=True):
    """An object with a box and a category."""

    category_id: Integer
    bbox: tuple[float, float, float, float]


def evaluate(
    ground_truth: GroundTruth,
    detections: Mapping[int, Detections],
    image_ids: Sequence[int],
    *,
    labels: Sequence[str] = (),
    engine: str = "pycocotools",
) -> DetectionScores:
    """Returns the scores of detections over images.

    Args:
        ground_truth: The annotations.
        detections: Image id -> detections; an image without an entry has none.
        image_ids: The images that count.
        labels: The model's class names, see `category_ids`.
        engine: `pycocotools`, or `faster` for faster-coco-eval, which takes the same decisions sooner; it leaves out an
            epsilon in the precision, so that numbers may differ by 1e-15.

    Raises:
        InputError: a class has no category, an image is not in the annotations, or there is no such engine.
        MissingDependencyError: the engine is not installed.
    """
    unknown = {*image_ids, *detections} - {image.id for image in ground_truth.images}
    if unknown or not image_ids:
        wrong = f"no image {min(unknown)}" if unknown else "no images to score"
        raise InputError(f"{ground_truth.source}: {wrong}; wanted ids of its {len(ground_truth.images)} images")
    categories = category_ids(ground_truth, labels)
    results = _results(counted_detections(ground_truth, categories, detections), categories)
    problem = CocoProblem(
        "bbox", ground_truth.records(), ground_truth.categories, ground_truth.annotations, results, image_ids
    )
    return summarize(ground_truth, image_ids, *evaluate_problem(engine, problem))


def summarize(
    ground_truth: GroundTruth, image_ids: Sequence[int], precision: NDArray[np.float64], recall: NDArray[np.float64]
) -> DetectionScores:
    """Returns the twelve numbers, and those of each class, of boxes or masks (see `evaluate_problem`)."""
    return DetectionScores(_numbers(precision, recall), _per_class(ground_truth, image_ids, precision, recall))


def _annotation(source: Path, number: int, entry: _Boxed, categories: Mapping[int, str]) -> dict[str, Any]:
    """Returns an annotation as pycocotools takes it."""
    if entry.category_id not in categories:
        raise InputError(
            f"{source}: annotation number {number} is of category {entry.category_id}, which the file does not list"
        )
    _, _, width, height = entry.bbox
    area = width * height if entry.area is None else entry.area
    if min(width, height) < 0 or not math.isfinite(area):
        raise InputError(
            f"{source}: annotation number {number} has the box {list(entry.bbox)}; wanted finite numbers, no side < 0"
        )
    return {
        "id": number,
        "image_id": entry.image_id,
        "category_id": entry.category_id,
        "bbox": list(entry.bbox),
        "area": float(area),
        "iscrowd": int(entry.iscrowd),
    }


def _require_unique(source: Path, kind: str, ids: list[int]) -> None:
    if len(set(ids)) < len(ids):
        twice = next(value for value, count in Counter(ids).items() if count > 1)
        raise InputError(f"{source}: two of its {kind} have the id {twice}; wanted every id once")


def _results(detections: Mapping[int, Detections], categories: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Returns the detections as pycocotools' `loadRes` would make them."""
    results: list[dict[str, Any]] = []
    for image_id, found in detections.items():
        boxes = found.boxes.astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        rows = zip(boxes.tolist(), found.scores.tolist(), categories[found.classes].tolist(), strict=True)
        for box, score, category in rows:
            results.append(
                {
                    "id": len(results) + 1,
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                    "score": score,
                }
            )
    return results


def _numbers(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> dict[str, float | None]:
    values = (
        precision[..., _ALL, _MAX_100],
        precision[_IOU50, ..., _ALL, _MAX_100],
        precision[_IOU75, ..., _ALL, _MAX_100],
        precision[..., _SMALL, _MAX_100],
        precision[..., _MEDIUM, _MAX_100],
        precision[..., _LARGE, _MAX_100],
        recall[..., _ALL, _MAX_1],
        recall[..., _ALL, _MAX_10],
        recall[..., _ALL, _MAX_100],
        recall[..., _SMALL, _MAX_100],
        recall[..., _MEDIUM, _MAX_100],
        recall[..., _LARGE, _MAX_100],
    )
    return dict(zip(SCORE_NAMES, map(mean_present, values), strict=True))


def _per_class(
    ground_truth: GroundTruth,
    image_ids: Sequence[int],
    precision: NDArray[np.float64],
    recall: NDArray[np.float64],
) -> tuple[ClassScores, ...]:
    counted = set(image_ids)
    boxes = dict.fromkeys(ground_truth.categories, 0)
    for entry in ground_truth.annotations:
        boxes[entry["category_id"]] += entry["image_id"] in counted and not entry["iscrowd"]
    return tuple(
        ClassScores(
            name=name,
            category_id=category,
            boxes=boxes[category],
            ap=mean_present(precision[:, :, index, _ALL, _MAX_100]),
            ap50=mean_present(precision[_IOU50, :, index, _ALL, _MAX_100]),
            ar_100=mean_present(recall[:, index, _ALL, _MAX_100]),
        )
        for index, (category, name) in enumerate(ground_truth.categories.items())
    )
