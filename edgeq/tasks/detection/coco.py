"""COCO data and its scores: average precision and recall, bit for bit those of pycocotools.

The protocol is that of "Microsoft COCO: Common Objects in Context" (Lin et al., 2014): AP is the mean over the IoU
thresholds .50:.05:.95, over 101 recall levels and over the classes that have boxes; AR_N is the recall with the N best
detections of an image and class.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import math
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeq.boundary import Integer, read_json
from edgeq.errors import InputError, MissingDependencyError
from edgeq.tasks.detection.detections import Detections

ENGINES = ("pycocotools", "faster")

SCORE_NAMES = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip
"""The twelve numbers of a COCO evaluation, in pycocotools' order."""

NO_CLASS = "N/A"
"""The label of a class index that stands for nothing, as those of COCO's ids that have no category."""

_KIND = "a COCO annotation file with boxes"

# Positions in pycocotools' arrays: IoU thresholds, areas and numbers of detections.
_IOU50, _IOU75 = 0, 5
_ALL, _SMALL, _MEDIUM, _LARGE = range(4)
_MAX_1, _MAX_10, _MAX_100 = range(3)

_SILENCING = threading.Lock()


class ImageRecord(NamedTuple):
    """An image of a COCO file; width and height are 0 where the file does not state them."""

    id: int
    file_name: str
    width_px: int
    height_px: int


@dataclass(frozen=True)
class GroundTruth:
    """A COCO annotation file that was found to be sound.

    Attributes:
        source: The file.
        images: Its images, in the file's order.
        categories: Category id -> name, by ascending id.
        annotations: Boxes as pycocotools takes them: `id`, `image_id`, `category_id`, `bbox` (x, y, width, height),
            `area`, `iscrowd`. The ids are new, 1 to N: pycocotools counts a match with id 0 as none, and mixes up
            annotations that share an id.
    """

    source: Path
    images: tuple[ImageRecord, ...]
    categories: Mapping[int, str]
    annotations: tuple[Mapping[str, Any], ...]


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
    document = read_json(source, _File, kind=_KIND)
    for key in ("images", "annotations", "categories"):
        if not getattr(document, key):
            raise InputError(f"{source}: its list {key!r} is empty; there is nothing to score on")
    _require_unique(source, "images", [image.id for image in document.images])
    _require_unique(source, "categories", [category.id for category in document.categories])
    images = tuple(
        ImageRecord(each.id, each.file_name, int(each.width or 0), int(each.height or 0)) for each in document.images
    )
    categories = {each.id: str(each.name) for each in sorted(document.categories, key=lambda each: each.id)}
    known = {image.id for image in images}
    annotations = [
        _annotation(source, number, entry, categories) for number, entry in enumerate(document.annotations, start=1)
    ]
    return GroundTruth(source, images, categories, tuple(entry for entry in annotations if entry["image_id"] in known))


_Side = Annotated[float, msgspec.Meta(ge=0, le=2**31 - 1)]


class _Image(msgspec.Struct):
    id: Integer
    file_name: str
    width: _Side | None = None
    height: _Side | None = None


class _Category(msgspec.Struct):
    id: Integer
    name: str | Integer


class _Annotation(msgspec.Struct):
    image_id: Integer
    category_id: Integer
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: float | bool = 0


class _File(msgspec.Struct):
    """A COCO annotation file, as far as boxes need it."""

    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


def category_ids(ground_truth: GroundTruth, labels: Sequence[str]) -> NDArray[np.int64]:
    """Returns the category id of every class index `(classes,)`, -1 for one that `NO_CLASS` names.

    Args:
        ground_truth: The annotations.
        labels: The model's class names; without any, its classes are taken for the categories by ascending id.

    Raises:
        InputError: the annotations lack a category of that name, or have it twice.
    """
    if not labels:
        return np.array(list(ground_truth.categories), np.int64)
    names = list(ground_truth.categories.values())
    for label in labels:
        if names.count(label) != 1 and label != NO_CLASS:
            found = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
            raise InputError(
                f"{ground_truth.source}: has {names.count(label) or 'no'} categories named {label!r}, which the model "
                f"detects; found {found}. Score on annotations of the model's classes, or export it with their `labels`"
            )
    ids = {name: category for category, name in ground_truth.categories.items()}
    return np.array([ids.get(label, -1) for label in labels], np.int64)


def of_categories(found: Detections, categories: NDArray[np.int64]) -> Detections:
    """Returns the detections whose class has a category; `categories` is what `category_ids` returns."""
    kept = categories[found.classes] >= 0
    return found if kept.all() else Detections(found.boxes[kept], found.scores[kept], found.classes[kept])


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
    results = _results(ground_truth, detections, category_ids(ground_truth, labels))
    precision, recall = _run_engine(engine, ground_truth, results, image_ids)
    return DetectionScores(_numbers(precision, recall), _per_class(ground_truth, image_ids, precision, recall))


def check_engine(engine: str) -> None:
    """Raises what `evaluate` would raise for this engine, before the work of detecting is done."""
    _import_engine(engine)


def _annotation(source: Path, number: int, entry: _Annotation, categories: Mapping[int, str]) -> dict[str, Any]:
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


def _results(
    ground_truth: GroundTruth, detections: Mapping[int, Detections], categories: NDArray[np.int64]
) -> list[dict[str, Any]]:
    """Returns the detections as pycocotools' `loadRes` would make them."""
    results: list[dict[str, Any]] = []
    for image_id, detected in detections.items():
        if len(detected) and not 0 <= detected.classes.min() <= detected.classes.max() < len(categories):
            raise InputError(
                f"{ground_truth.source}: has {len(categories)} categories, but the model detected class "
                f"{detected.classes.max()} (counted from 0); score on annotations of the model's classes, or export it "
                "with their `labels`"
            )
        found = of_categories(detected, categories)
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


def _run_engine(
    engine: str, ground_truth: GroundTruth, results: list[dict[str, Any]], image_ids: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns precision `(10, 101, classes, 4, 3)` and recall `(10, classes, 4, 3)`; -1 where there is no box."""
    coco_class, evaluator_class = _import_engine(engine)
    with _silenced():
        truth, found = (
            _index(coco_class, ground_truth, annotations)
            for annotations in ([dict(entry) for entry in ground_truth.annotations], results)
        )
        evaluator = evaluator_class(truth, found, "bbox")
        evaluator.params.imgIds = sorted(image_ids)
        evaluator.evaluate()
        evaluator.accumulate()
    thresholds, levels, *rest = evaluator.eval["counts"]
    precision, recall = (np.asarray(evaluator.eval[name], np.float64) for name in ("precision", "recall"))
    return precision.reshape(thresholds, levels, *rest), recall.reshape(thresholds, *rest)


def _import_engine(engine: str) -> tuple[Any, Any]:
    if engine == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        return COCO, COCOeval
    if engine != "faster":
        raise InputError(f"unknown COCO evaluator {engine!r}; known: {', '.join(ENGINES)}")
    if importlib.util.find_spec("faster_coco_eval") is None:
        raise MissingDependencyError("faster-coco-eval", "faster", "The COCO evaluator `faster`")
    import faster_coco_eval

    return faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster


def _index(coco_class: Any, ground_truth: GroundTruth, annotations: list[dict[str, Any]]) -> Any:
    # `loadRes` would do for the detections, but not where there are none.
    coco = coco_class()
    coco.dataset = {
        "images": [
            {"id": image.id, "width": image.width_px, "height": image.height_px} for image in ground_truth.images
        ],
        "categories": [{"id": category, "name": name} for category, name in ground_truth.categories.items()],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Keeps pycocotools' prints out of stdout, which belongs to the results; one thread at a time, as stdout is one."""
    with _SILENCING, contextlib.redirect_stdout(io.StringIO()):
        yield


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
    return dict(zip(SCORE_NAMES, map(_mean, values), strict=True))


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
            ap=_mean(precision[:, :, index, _ALL, _MAX_100]),
            ap50=_mean(precision[_IOU50, :, index, _ALL, _MAX_100]),
            ar_100=_mean(recall[:, index, _ALL, _MAX_100]),
        )
        for index, (category, name) in enumerate(ground_truth.categories.items())
    )


def _mean(values: NDArray[np.float64]) -> float | None:
    """Returns the mean over what is there; -1 marks what is not."""
    present = values[values > -1]
    return float(present.mean()) if present.size else None
