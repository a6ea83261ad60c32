"""Keypoints: COCO's ten numbers by object keypoint similarity, and the normalised mean error of what was found.

The similarity of a pose falls with the distance of its keypoints, each in units of how much people disagree about it
(its sigma) and of the object's size (the COCO keypoint challenge of 2016). COCO's 17 keypoints have COCO's sigmas; of
any other number K each has 1 / K, as Ultralytics takes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgeq.boundary import Count, Integer
from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact
from edgeq.inputs.items import Item
from edgeq.results.evaluation import ClassFigures, Score, ScoreColumn, Suspicion
from edgeq.tasks.detection.categories import category_ids, is_counted
from edgeq.tasks.detection.coco import GroundTruth
from edgeq.tasks.detection.coco_engine import CocoProblem, evaluate_problem, match_problem, mean_present
from edgeq.tasks.detection.coco_task import CocoTask
from edgeq.tasks.detection.matched import MatchedPredictions
from edgeq.tasks.detection.suspicions import is_quantized, suspect_findings
from edgeq.tasks.evidence import label_of, require
from edgeq.tasks.keypoints.poses import Poses, sigmas
from edgeq.tasks.keypoints.result_files import CocoKeypoints, YoloPoses
from edgeq.tasks.result_files import ResultFile
from edgeq.tasks.shapes import Pose

_FORM = {"scores": ("float32", 1), "classes": ("int64", 1), "points": ("float32", 3)}

# Positions in pycocotools' arrays: thresholds and areas.
_IOU50, _IOU75 = 0, 5
_ALL, _MEDIUM, _LARGE = range(3)

# A coordinate beyond this is none of a pixel.
_FAR_PX = 1e6


@dataclass(frozen=True, kw_only=True)
class KeypointClass:
    """Scores of one class; `None` if the images hold no object of it.

    Attributes:
        name: Name of the category.
        category_id: Its id in the annotations.
        objects: Annotated objects with at least one keypoint, crowds not counted.
        ap: AP over all thresholds, 0..1.
        ap50: AP at a similarity of .50, 0..1.
        ar: Recall with the 20 best results per image, 0..1.
    """

    name: str
    category_id: Integer = 0
    objects: Count | None = None
    ap: float | None = None
    ap50: float | None = None
    ar: float | None = None


@dataclass(frozen=True, kw_only=True)
class KeypointScore(Score):
    """COCO's ten numbers of keypoints, 0..1; `None` if there is no object to find.

    Attributes:
        AP: Mean over the similarities .50:.05:.95 and the classes.
        AP50: At a similarity of .50.
        AP75: At a similarity of .75.
        AP_medium: Of objects from 32 x 32 to 96 x 96 pixels.
        AP_large: Of objects above.
        AR: Recall with the 20 best results per image.
        AR50: At a similarity of .50.
        AR75: At a similarity of .75.
        AR_medium: Of objects from 32 x 32 to 96 x 96 pixels.
        AR_large: Of objects above.
        nme: Mean distance of the annotated keypoints of objects that were found (at a similarity of .50), in parts of
            the root of their box's area; `None` if none was found.
        per_class: Scores of every class of the annotations.
        evaluator: COCO evaluator that computed them.
    """

    task = "keypoints"
    main = "AP"
    figures = "AP, AR and NME of keypoints"
    columns = (
        ScoreColumn("AP", "AP"),
        ScoreColumn("AP50", "AP50"),
        ScoreColumn("AP75", "AP75", in_report=False),
        ScoreColumn("AP_medium", "AP medium", in_report=False),
        ScoreColumn("AP_large", "AP large", in_report=False),
        ScoreColumn("AR", "AR"),
        ScoreColumn("nme", "NME"),
    )
    parts = ("AP_medium", "AP_large")
    parts_by = "size of the objects"
    class_titles = ("objects", "AP", "AP50", "AR")
    AP: float | None
    AP50: float | None = None
    AP75: float | None = None
    AP_medium: float | None = None
    AP_large: float | None = None
    AR: float | None = None
    AR50: float | None = None
    AR75: float | None = None
    AR_medium: float | None = None
    AR_large: float | None = None
    nme: float | None = None
    per_class: tuple[KeypointClass, ...] = ()
    evaluator: str = ""

    @property
    def classes(self) -> tuple[ClassFigures, ...]:
        """AP, AP50 and AR of every class of the annotations."""
        return tuple(ClassFigures(each.name, each.objects, (each.ap, each.ap50, each.ar)) for each in self.per_class)


@dataclass(frozen=True, eq=False)
class KeypointPredictions(MatchedPredictions):
    """What the poses of images match."""

    task = "keypoints"
    finding_type = Pose
    areas: ClassVar[Mapping[str, int]] = {"AP": _ALL, "AP_medium": _MEDIUM, "AP_large": _LARGE}


class KeypointTask(CocoTask[Poses]):
    """COCO's ten numbers for models that find keypoints of objects."""

    name = "keypoints"
    decoders: ClassVar[Mapping[str, str]] = {
        "heatmaps": "edgeq.tasks.keypoints.decoders:heatmaps",
        "keypoint-rcnn": "edgeq.tasks.keypoints.decoders:keypoint_rcnn",
        "movenet": "edgeq.tasks.keypoints.decoders:movenet",
        "yolo-pose": "edgeq.tasks.keypoints.decoders:yolo_pose",
        "yunet-landmarks": "edgeq.tasks.keypoints.yunet:decode",
    }
    score_type = KeypointScore
    finding_type = Pose
    records_type = KeypointPredictions

    def __init__(self, truth: GroundTruth, items: Sequence[Item], engine: str) -> None:
        super().__init__(truth, items, engine)
        self._truth, self._points = _with_keypoints(truth)

    @classmethod
    def to_arrays(cls, prediction: Poses) -> Mapping[str, np.ndarray]:
        """Returns scores, classes and points."""
        return vars(prediction)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Poses:
        """Returns the poses.

        Raises:
            ValueError: an array is missing, or of another dtype or shape.
        """
        found = {name: (array.dtype.name, array.ndim) for name, array in arrays.items()}
        require(found == _FORM, f"arrays {found}")
        count = len(arrays["scores"])
        fits = len(arrays["classes"]) == len(arrays["points"]) == count and arrays["points"].shape[2] == 3
        require(fits, "arrays of different lengths")
        return Poses(**arrays)

    @property
    def annotations(self) -> Sequence[Mapping[str, Any]]:
        """The objects with their keypoints."""
        return self._truth

    @classmethod
    def findings(cls, artifact: Artifact, prediction: Poses) -> tuple[Pose, ...]:
        """Returns the objects with their keypoints, the best first."""
        order = np.argsort(-prediction.scores, kind="stable")
        rows = zip(
            prediction.points[order].tolist(),
            prediction.scores[order].tolist(),
            prediction.classes[order].tolist(),
            strict=True,
        )
        return tuple(
            Pose(label_of(artifact, index), index, score, points=tuple((x, y, seen) for x, y, seen in points))
            for points, score, index in rows
        )

    def true_findings(self, number: int, artifact: Artifact) -> tuple[Pose, ...]:
        """Returns the annotated objects of the model's classes that have a keypoint."""
        return tuple(
            Pose(
                label, index,
                points=tuple((x, y, float(v > 0)) for x, y, v in np.reshape(entry["keypoints"], (-1, 3)).tolist()),
            )
            for entry, label, index in self.true_objects(number, artifact)
            if entry["num_keypoints"]
        )  # fmt: skip

    @classmethod
    def result_files(cls) -> Mapping[str, type[ResultFile]]:
        """Returns YOLO's text files with keypoints, and COCO's results."""
        return {"yolo": YoloPoses, "coco": CocoKeypoints}

    def score(
        self, artifact: Artifact, predictions: Mapping[int, Poses], reference: Mapping[int, Poses]
    ) -> KeypointScore:
        """Returns COCO's ten numbers, the mean error, and the scores of each class."""
        problem = self._problem(artifact, predictions)
        precision, recall = evaluate_problem(self._engine, problem)
        per_class = tuple(
            KeypointClass(
                name=name,
                category_id=category,
                objects=self._count(category, set(problem.image_ids)),
                ap=mean_present(precision[:, :, index, _ALL]),
                ap50=mean_present(precision[_IOU50, :, index, _ALL]),
                ar=mean_present(recall[:, index, _ALL]),
            )
            for index, (category, name) in enumerate(problem.categories.items())
        )
        return KeypointScore(
            **_numbers(precision, recall), nme=_mean_error(problem), per_class=per_class, evaluator=self._engine
        )

    def suspicions(self, artifact: Artifact, predictions: Mapping[int, Poses], score: Score) -> Sequence[Suspicion]:
        """Returns what is odd about poses: none is shown, or none is right."""
        quantized = is_quantized(artifact)
        return suspect_findings(("pose", "poses"), predictions.values(), score.main_value, quantized=quantized)

    def per_image(
        self, artifact: Artifact, predictions: Mapping[int, Poses], reference: Mapping[int, Poses]
    ) -> KeypointPredictions:
        """Returns what each pose matches."""
        problem = self._problem(artifact, predictions)
        return KeypointPredictions.of(
            tuple(problem.categories.values()), self.file_names(problem.image_ids), match_problem(problem)
        )

    def _count(self, category: int, images: set[int]) -> int:
        return sum(
            entry["category_id"] == category
            and entry["image_id"] in images
            and entry["num_keypoints"] > 0
            and not entry["iscrowd"]
            for entry in self._truth
        )

    def _problem(self, artifact: Artifact, predictions: Mapping[int, Poses]) -> CocoProblem:
        truth = self._ground_truth
        categories = category_ids(truth, artifact.labels)
        results: list[dict[str, Any]] = []
        for number, found in predictions.items():
            if len(found.scores) and found.points.shape[1] != self._points:
                raise InputError(
                    f"{truth.source}: its objects have {self._points} keypoints, and the model finds "
                    f"{found.points.shape[1]}; score on annotations of the model's keypoints"
                )
            keep = is_counted(truth, categories, truth.images[number].id, found.classes)
            counted = Poses(found.scores[keep], found.classes[keep], found.points[keep])
            results += _results(counted, truth.images[number].id, categories, len(results))
        ids = sorted(truth.images[number].id for number in predictions)
        return CocoProblem(
            "keypoints", truth.records(), truth.categories, self._truth, results, ids, sigmas(self._points)
        )


def _with_keypoints(truth: GroundTruth) -> tuple[list[dict[str, Any]], int]:
    """Returns annotations with keypoints, and their number; those of objects without any are all not labelled.

    Raises:
        InputError: there are none, they are not the same ones for every object, or lie nowhere near an image.
    """
    stated = {annotation["id"]: truth.keypoints(annotation["id"]) for annotation in truth.annotations}
    lengths = {len(points) for points in stated.values() if len(points)}
    if len(lengths) != 1 or min(lengths) % 3:
        found = f"lists of {', '.join(map(str, sorted(lengths)))} numbers" if lengths else "none"
        raise InputError(
            f"{truth.source}: wanted keypoints, x, y and visibility of the same ones for every object, found {found}; "
            "COCO's are in a separate file, person_keypoints_*.json"
        )
    if far := [number for number, points in stated.items() if any(abs(value) > _FAR_PX for value in points)]:
        raise InputError(f"{truth.source}: annotation number {far[0]} has a keypoint that lies beyond all images")
    (length,) = lengths
    annotations = []
    for annotation in truth.annotations:
        points = [*stated[annotation["id"]]] or [0.0] * length
        labelled = sum(visibility > 0 for visibility in points[2::3])
        annotations.append({**annotation, "keypoints": points, "num_keypoints": labelled})
    return annotations, length // 3


def _results(found: Poses, image: int, categories: NDArray[np.int64], before: int) -> list[dict[str, Any]]:
    """Returns the poses of an image as pycocotools' `loadRes` would make them."""
    points = found.points.astype(np.float64)
    corners = np.concatenate([points[:, :, :2].min(axis=1), points[:, :, :2].max(axis=1)], axis=1).reshape(-1, 4)
    sizes = corners[:, 2:] - corners[:, :2]
    boxes = np.concatenate([corners[:, :2], sizes], axis=1)
    rows = zip(
        points,
        boxes.tolist(),
        sizes.prod(axis=1).tolist(),
        found.scores.tolist(),
        categories[found.classes].tolist(),
        strict=True,
    )
    return [
        {
            "id": number, "image_id": image, "category_id": category, "keypoints": pose.ravel().tolist(), "area": area,
            "bbox": box, "iscrowd": 0, "score": score, "num_keypoints": len(pose),
        }
        for number, (pose, box, area, score, category) in enumerate(rows, start=before + 1)
    ]  # fmt: skip


def _numbers(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> dict[str, float | None]:
    kinds = {"AP": precision, "AR": recall}
    numbers: dict[str, float | None] = {}
    for name, values in kinds.items():
        numbers |= {
            name: mean_present(values[..., _ALL, :]),
            f"{name}50": mean_present(values[_IOU50, ..., _ALL, :]),
            f"{name}75": mean_present(values[_IOU75, ..., _ALL, :]),
            f"{name}_medium": mean_present(values[..., _MEDIUM, :]),
            f"{name}_large": mean_present(values[..., _LARGE, :]),
        }
    return numbers


def _mean_error(problem: CocoProblem) -> float | None:
    """Returns the normalised mean error of the objects that are matched at the least similarity."""
    truth = {entry["id"]: entry for entry in problem.truth}
    results = {entry["id"]: entry for entry in problem.results}
    areas = 3
    matches, images = match_problem(problem), len(problem.image_ids)
    errors = []
    for position, entry in enumerate(matches):
        if entry is None or position // images % areas != _ALL:
            continue
        for result, match, ignored in zip(
            entry["dtIds"], entry["dtMatches"][_IOU50], entry["dtIgnore"][_IOU50], strict=True
        ):
            if match and not ignored:
                errors.append(_error(truth[int(match)], results[int(result)]))
    return float(np.mean(errors)) if errors else None


def _error(truth: Mapping[str, Any], result: Mapping[str, Any]) -> float:
    wanted, found = (np.reshape(each["keypoints"], (-1, 3)) for each in (truth, result))
    labelled = wanted[:, 2] > 0
    distances = np.hypot(*(wanted - found)[labelled, :2].T)
    _, _, width, height = truth["bbox"]
    return float(distances.mean() / max(np.sqrt(width * height), 1.0))
