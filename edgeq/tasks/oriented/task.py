"""Oriented boxes: COCO's AP with rotated IoU. Objects that are difficult count neither as found nor as missed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeq.boundary import Count
from edgeq.datasets.class_names import ClassMatch, match_classes
from edgeq.datasets.split import Split
from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact
from edgeq.inputs.items import Item, image_files
from edgeq.results.evaluation import ClassFigures, Score, ScoreColumn, Suspicion
from edgeq.tasks.base import Task
from edgeq.tasks.detection.average_precision import class_ap
from edgeq.tasks.detection.matched import MatchedPredictions, pack_bits
from edgeq.tasks.detection.matching import MAX_RESULTS, match_image
from edgeq.tasks.detection.suspicions import is_quantized, suspect_findings
from edgeq.tasks.evidence import label_of, require
from edgeq.tasks.labelled_images import relative_names
from edgeq.tasks.oriented.boxes import OrientedBoxes
from edgeq.tasks.oriented.result_files import YoloCorners
from edgeq.tasks.oriented.truth import TrueObject, load_objects, objects_of
from edgeq.tasks.polygons import iou
from edgeq.tasks.resampling import mean_present, number_of
from edgeq.tasks.result_files import ResultFile
from edgeq.tasks.shapes import Outline

if TYPE_CHECKING:
    from typing_extensions import Self

_FORM = {"corners": ("float32", (4, 2)), "scores": ("float32", ()), "classes": ("int64", ())}
_IOU50, _IOU75 = 0, 5

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class OrientedClass:
    """Scores of one class; `None` if the images hold no object of it.

    Attributes:
        name: Name of the class.
        objects: Objects that should be found.
        ap: AP over all IoU thresholds, 0..1.
        ap50: AP at IoU .50, 0..1.
    """

    name: str
    objects: Count | None = None
    ap: float | None = None
    ap50: float | None = None


@dataclass(frozen=True, kw_only=True)
class OrientedScore(Score):
    """Average precision of oriented boxes, 0..1; `None` if there is no object to find.

    Attributes:
        AP: Mean over the rotated IoU thresholds .50:.05:.95 and the classes.
        AP50: At IoU .50.
        AP75: At IoU .75.
        per_class: Scores of every class.
    """

    task = "oriented-boxes"
    main = "AP"
    figures = "AP of oriented boxes"
    columns = (ScoreColumn("AP", "AP"), ScoreColumn("AP50", "AP50"), ScoreColumn("AP75", "AP75"))
    class_titles = ("objects", "AP", "AP50")
    AP: float | None
    AP50: float | None = None
    AP75: float | None = None
    per_class: tuple[OrientedClass, ...] = ()

    @property
    def classes(self) -> tuple[ClassFigures, ...]:
        """AP and AP50 of every class."""
        return tuple(ClassFigures(each.name, each.objects, (each.ap, each.ap50)) for each in self.per_class)


@dataclass(frozen=True, eq=False)
class OrientedPredictions(MatchedPredictions):
    """What the oriented boxes of images match."""

    task = "oriented-boxes"
    finding_type = Outline
    areas: ClassVar[Mapping[str, int]] = {"AP": 0}


class OrientedTask(Task[OrientedBoxes]):
    """Average precision for models that find oriented boxes."""

    name = "oriented-boxes"
    decoders: ClassVar[Mapping[str, str]] = {"yolo-obb": "edgeq.tasks.oriented.boxes:yolo_obb"}
    score_type = OrientedScore
    finding_type = Outline
    records_type = OrientedPredictions

    def __init__(
        self,
        source: Path,
        items: Sequence[Item],
        names: Sequence[str],
        truth: Sequence[Sequence[TrueObject]],
        class_map: Mapping[str, str],
    ) -> None:
        super().__init__(source, items, names)
        self._truth = truth
        self._class_map = class_map

    @classmethod
    def from_files(cls, annotations: Path | None, images_dir: Path, engine: str) -> Self:
        """Returns the task on the images of a folder; see `edgeq.tasks.oriented.truth.load_objects`."""
        paths, truth = load_objects(annotations, images_dir)
        return cls(annotations or images_dir, image_files(paths), relative_names(paths, images_dir), truth, {})

    @classmethod
    def from_split(cls, split: Split, engine: str) -> Self:
        """Returns the task on images with objects, each with the smallest rectangle around it.

        Raises:
            InputError: the data set has no objects.
        """
        names = [image.name for image in split.images]
        return cls(split.source, split.items, names, objects_of(split), split.class_map)

    def check(self, artifact: Artifact) -> None:
        """Raises `InputError` where the model knows none of the objects' classes; warns of those it lacks."""
        matched = self._match(artifact)
        if matched.data_only and not matched.pairs:
            raise InputError(
                f"{self.source}: has objects of class {min(matched.data_only)!r}, which {artifact.name} does not know; "
                f"wanted one of its `labels` ({', '.join(artifact.labels[:5]) or 'it has none'})"
            )
        if matched.data_only or matched.other_names:
            _log.warning("%s: %s", self.source.name, matched.describe())

    def _match(self, artifact: Artifact) -> ClassMatch:
        names = sorted({each.category for objects in self._truth for each in objects})
        return match_classes(artifact.labels, names, self._class_map)

    @classmethod
    def to_arrays(cls, prediction: OrientedBoxes) -> Mapping[str, np.ndarray]:
        """Returns corners, scores and classes."""
        return vars(prediction)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> OrientedBoxes:
        """Returns the boxes.

        Raises:
            ValueError: an array is missing, or of another dtype or shape.
        """
        found = {name: (array.dtype.name, array.shape[1:]) for name, array in arrays.items()}
        require(found == _FORM, f"arrays {found}")
        require(len({len(array) for array in arrays.values()}) == 1, "arrays of different lengths")
        return OrientedBoxes(**arrays)

    @classmethod
    def findings(cls, artifact: Artifact, prediction: OrientedBoxes) -> tuple[Outline, ...]:
        """Returns the boxes, the best first."""
        order = np.argsort(-prediction.scores, kind="stable")
        rows = zip(
            prediction.corners[order].tolist(),
            prediction.scores[order].tolist(),
            prediction.classes[order].tolist(),
            strict=True,
        )
        return tuple(
            Outline(label_of(artifact, index), index, score, corners=tuple((x, y) for x, y in corners))
            for corners, score, index in rows
        )

    def true_findings(self, number: int, artifact: Artifact) -> tuple[Outline, ...]:
        """Returns the objects of the model's classes; of those that are difficult, their label says so."""
        index_of = {data: artifact.labels.index(model) for model, data in self._match(artifact).pairs.items()}
        return tuple(
            Outline(
                f"{label_of(artifact, index_of[each.category])}{' (difficult)' if each.difficult else ''}",
                index_of[each.category], corners=tuple((x, y) for x, y in each.corners.tolist()),
            )
            for each in self._truth[number]
            if each.category in index_of
        )  # fmt: skip

    @classmethod
    def result_files(cls) -> Mapping[str, type[ResultFile]]:
        """Returns YOLO's text files with four corners."""
        return {"yolo": YoloCorners}

    def score(
        self, artifact: Artifact, predictions: Mapping[int, OrientedBoxes], reference: Mapping[int, OrientedBoxes]
    ) -> OrientedScore:
        """Returns AP over all classes, and that of each."""
        records = self.per_image(artifact, predictions, reference)
        once = np.ones((len(records.images), 1), np.int32)
        ap = np.stack([class_ap(matches, once)[:, 0] for matches in records.matches(0)])
        objects = records.objects[:, :, 0].sum(axis=0)
        return OrientedScore(
            AP=number_of(mean_present(ap.mean(axis=1))),
            AP50=number_of(mean_present(ap[:, _IOU50])),
            AP75=number_of(mean_present(ap[:, _IOU75])),
            per_class=tuple(
                OrientedClass(name=name, objects=int(count), ap=number_of(each.mean()), ap50=number_of(each[_IOU50]))
                for name, count, each in zip(records.classes, objects, ap, strict=True)
            ),
        )

    def suspicions(
        self, artifact: Artifact, predictions: Mapping[int, OrientedBoxes], score: Score
    ) -> Sequence[Suspicion]:
        """Returns what is odd about boxes: none is shown, or none is right."""
        quantized = is_quantized(artifact)
        return suspect_findings(("box", "boxes"), predictions.values(), score.main_value, quantized=quantized)

    def per_image(
        self, artifact: Artifact, predictions: Mapping[int, OrientedBoxes], reference: Mapping[int, OrientedBoxes]
    ) -> OrientedPredictions:
        """Returns what each box matches."""
        numbers, labels, matched = sorted(predictions), artifact.labels, self._match(artifact)
        # Behind the model's classes those that only the data has: none of them is found.
        classes = (*labels, *matched.data_only)
        categories = [*(matched.pairs.get(label) for label in labels), *matched.data_only]
        found: list[list[_ClassMatches]] = []
        objects = np.zeros((len(numbers), len(classes), 1), np.int32)
        for position, number in enumerate(numbers):
            prediction = predictions[number]
            if len(prediction.classes) and prediction.classes.max() >= len(labels):
                raise InputError(
                    f"{artifact.name}: found class {prediction.classes.max()}, but has {len(labels)} `labels`; wanted "
                    "one for each class"
                )
            truth = [[each for each in self._truth[number] if each.category == name] for name in categories]
            objects[position, :, 0] = [sum(not each.difficult for each in of_class) for of_class in truth]
            found.append([_match(prediction, label, of_class) for label, of_class in enumerate(truth)])
        flat = [each for image in found for each in image]
        return OrientedPredictions(
            classes=classes,
            images=tuple(self.names[number] for number in numbers),
            counts=np.array([sum(len(each.scores) for each in image) for image in found], np.int32),
            scores=np.concatenate([each.scores for each in flat]).astype(np.float64),
            labels=np.repeat([each.label for each in flat], [len(each.scores) for each in flat]).astype(np.int32),
            hits=np.concatenate([each.hits for each in flat])[:, None],
            ignored=np.concatenate([each.ignored for each in flat])[:, None],
            objects=objects,
        )


class _ClassMatches(NamedTuple):
    """The results of one class in one image, best first: scores, and bits of the thresholds where they match."""

    label: int
    scores: NDArray[np.float32]
    hits: NDArray[np.int32]
    ignored: NDArray[np.int32]


def _match(found: OrientedBoxes, label: int, truth: Sequence[TrueObject]) -> _ClassMatches:
    members = np.flatnonzero(found.classes == label)
    members = members[np.argsort(-found.scores[members], kind="stable")][:MAX_RESULTS]
    overlaps = iou(list(found.corners[members].astype(np.float64)), [each.corners for each in truth])
    hits, ignored = match_image(overlaps, np.array([each.difficult for each in truth], bool))
    return _ClassMatches(label, found.scores[members], pack_bits(hits), pack_bits(ignored))
