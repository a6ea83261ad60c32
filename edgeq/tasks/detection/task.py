"""Detection: decoders of many detectors, COCO annotations, COCO's twelve numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeq.boundary import Count, Integer
from edgeq.errors import ModelError
from edgeq.exporting.artifact import Artifact, Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.registry import registered
from edgeq.results.evaluation import ClassFigures, Score, ScoreColumn, Suspicion
from edgeq.tasks.base import Decode
from edgeq.tasks.detection.categories import category_ids, counted_detections
from edgeq.tasks.detection.coco import evaluate
from edgeq.tasks.detection.coco_task import CocoTask
from edgeq.tasks.detection.decoders import DECODERS, Decoder, get_decoder
from edgeq.tasks.detection.detections import Detections
from edgeq.tasks.detection.records import DetectionPredictions
from edgeq.tasks.detection.result_files import CocoBoxes, YoloBoxes
from edgeq.tasks.detection.suspicions import find_suspicions, is_quantized
from edgeq.tasks.evidence import Box, label_of
from edgeq.tasks.result_files import ResultFile

# Arrays of `Detections`: dtype, and the axes behind the number of detections.
_FORM: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "boxes": ("float32", (4,)),
    "scores": ("float32", ()),
    "classes": ("int64", ()),
}


@dataclass(frozen=True, kw_only=True)
class DetectionClass:
    """Scores of one class; `None` if the images hold no box of it.

    Attributes:
        name: Name of the category.
        category_id: Its id in the annotations.
        boxes: Annotated boxes, crowds not counted.
        ap: AP over all IoU thresholds, 0..1.
        ap50: AP at IoU .50, 0..1.
        ar_100: Recall with the 100 best detections per image, 0..1.
    """

    name: str
    category_id: Integer = 0
    boxes: Count | None = None
    ap: float | None = None
    ap50: float | None = None
    ar_100: float | None = None


@dataclass(frozen=True, kw_only=True)
class DetectionScore(Score):
    """COCO's twelve numbers, 0..1; `None` if there is no box to find.

    Attributes:
        AP: Mean over the IoU thresholds .50:.05:.95 and the classes.
        AP50: At IoU .50.
        AP75: At IoU .75.
        AP_small: Of boxes below 32 x 32 pixels.
        AP_medium: Of boxes from 32 x 32 to 96 x 96 pixels.
        AP_large: Of boxes above.
        AR_1: Recall with the best detection per image and class.
        AR_10: Recall with the 10 best.
        AR_100: Recall with the 100 best.
        AR_small: The same of boxes below 32 x 32 pixels.
        AR_medium: The same of boxes from 32 x 32 to 96 x 96 pixels.
        AR_large: The same of boxes above.
        per_class: Scores of every class of the annotations.
        evaluator: COCO evaluator that computed them.
    """

    task = "detection"
    main = "AP"
    figures = "AP and AR"
    columns = (
        ScoreColumn("AP", "AP"),
        ScoreColumn("AP50", "AP50"),
        ScoreColumn("AP75", "AP75", in_report=False),
        ScoreColumn("AP_small", "AP small", in_report=False),
        ScoreColumn("AP_medium", "AP medium", in_report=False),
        ScoreColumn("AP_large", "AP large", in_report=False),
        ScoreColumn("AR_100", "AR"),
    )
    parts = ("AP_small", "AP_medium", "AP_large")
    parts_by = "size of the boxes"
    class_titles = ("boxes", "AP", "AP50", "AR")
    AP: float | None
    AP50: float | None = None
    AP75: float | None = None
    AP_small: float | None = None
    AP_medium: float | None = None
    AP_large: float | None = None
    AR_1: float | None = None
    AR_10: float | None = None
    AR_100: float | None = None
    AR_small: float | None = None
    AR_medium: float | None = None
    AR_large: float | None = None
    per_class: tuple[DetectionClass, ...] = ()
    evaluator: str = ""

    @property
    def classes(self) -> tuple[ClassFigures, ...]:
        """AP, AP50 and AR of every class of the annotations."""
        return tuple(ClassFigures(each.name, each.boxes, (each.ap, each.ap50, each.ar_100)) for each in self.per_class)


class DetectionTask(CocoTask[Detections]):
    """COCO's twelve numbers for detectors."""

    name = "detection"
    score_type = DetectionScore
    records_type = DetectionPredictions
    finding_type = Box

    @classmethod
    def decoder_names(cls) -> Sequence[str]:
        """Returns the names of `DECODERS` and of the entry point group `edgeq.decoders`."""
        return registered("decoder", DECODERS)

    @classmethod
    def find_decoder(cls, name: str) -> Decode | None:
        """Returns the decoder of that name, or the trusted function that `package.module:function` names."""
        return _checked(get_decoder(name)) if ":" in name or name in cls.decoder_names() else None

    @classmethod
    def to_arrays(cls, prediction: Detections) -> Mapping[str, np.ndarray]:
        """Returns boxes, scores and classes."""
        return vars(prediction)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Detections:
        """Returns the detections.

        Raises:
            ValueError: an array is missing, or of another dtype or shape.
        """
        if arrays.keys() != _FORM.keys():
            raise ValueError(f"the arrays {', '.join(arrays)}")
        count = len(arrays["scores"]) if arrays["scores"].ndim else 0
        for name, (dtype, axes) in _FORM.items():
            array = arrays[name]
            if array.dtype != dtype or array.shape != (count, *axes):
                raise ValueError(f"{name} {array.dtype} {array.shape}")
        return Detections(**arrays)

    @classmethod
    def findings(cls, artifact: Artifact, prediction: Detections) -> tuple[Box, ...]:
        """Returns the boxes, the best first."""
        order = np.argsort(-prediction.scores, kind="stable")
        rows = zip(
            prediction.boxes[order].tolist(),
            prediction.scores[order].tolist(),
            prediction.classes[order].tolist(),
            strict=True,
        )
        return tuple(
            Box(label_of(artifact, index), index, score, left=left, top=top, width=right - left, height=bottom - top)
            for (left, top, right, bottom), score, index in rows
        )

    def true_findings(self, number: int, artifact: Artifact) -> tuple[Box, ...]:
        """Returns the annotated boxes of the model's classes."""
        return tuple(
            Box(label, index, **dict(zip(("left", "top", "width", "height"), entry["bbox"], strict=True)))
            for entry, label, index in self.true_objects(number, artifact)
        )

    @classmethod
    def result_files(cls) -> Mapping[str, type[ResultFile]]:
        """Returns YOLO's text files and COCO's results."""
        return {"yolo": YoloBoxes, "coco": CocoBoxes}

    def score(
        self, artifact: Artifact, predictions: Mapping[int, Detections], reference: Mapping[int, Detections]
    ) -> DetectionScore:
        """Returns COCO's twelve numbers, and the scores of each class."""
        ids = self.image_ids
        detections = {ids[number]: found for number, found in predictions.items()}
        scores = evaluate(
            self._ground_truth, detections, sorted(detections), labels=artifact.labels, engine=self._engine
        )
        per_class = tuple(DetectionClass(**vars(entry)) for entry in scores.per_class)
        return DetectionScore(**scores.numbers, per_class=per_class, evaluator=self._engine)

    def suspicions(
        self, artifact: Artifact, predictions: Mapping[int, Detections], score: Score
    ) -> Sequence[Suspicion]:
        """Returns what is odd about boxes, scores and classes, see `edgeq.tasks.detection.suspicions`."""
        detections = {self._ground_truth.images[number].id: found for number, found in predictions.items()}
        post = artifact.postprocessing
        return find_suspicions(
            self._ground_truth,
            detections,
            score.main_value,
            labels=artifact.labels,
            quantized=is_quantized(artifact),
            published_ap=None if post is None else post.published_ap,
        )

    def per_image(
        self, artifact: Artifact, predictions: Mapping[int, Detections], reference: Mapping[int, Detections]
    ) -> DetectionPredictions:
        """Returns detections and annotated boxes."""
        detections = {self._ground_truth.images[number].id: found for number, found in predictions.items()}
        categories = category_ids(self._ground_truth, artifact.labels)
        counted = counted_detections(self._ground_truth, categories, detections)
        return DetectionPredictions.of(self._ground_truth, categories, counted)


def _checked(decoder: Decoder) -> Decode:
    """Returns a decoder, possibly of the user's, that refuses what is no detection."""

    def decode(outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement) -> Detections:
        detections = decoder(outputs, post, placement)
        if not isinstance(detections, Detections):
            raise ModelError(
                f"decoder {post.decoder}: returned {type(detections).__name__}, wanted edgeq.tasks.detection.Detections"
            )
        if not (np.isfinite(detections.boxes).all() and np.isfinite(detections.scores).all()):
            raise ModelError("computed boxes or scores that are not finite numbers; it is broken")
        return detections

    return decode
