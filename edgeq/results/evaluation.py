"""`EvalResult`: how well one file does in one engine on one device, by a score for each task."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, TypeVar

from edgeq.boundary import Count, Integer, Positive
from edgeq.results.environment import Environment
from edgeq.results.serialization import INLINE, OMIT_EMPTY, RESULTS_VERSION


@dataclass(frozen=True, kw_only=True)
class _Score:
    """What the scores of all tasks have in common.

    Attributes:
        task: Name of the task.
        main: Name of the number that files are compared by.
    """

    task: ClassVar[str]
    main: ClassVar[str]

    @property
    def numbers(self) -> dict[str, float | None]:
        """Every number by its name in a result; `None` if there is nothing to count."""
        values = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if value is None or isinstance(value, (int, float))}

    @property
    def main_value(self) -> float | None:
        """The number that files are compared by."""
        return self.numbers[self.main]


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
class DetectionScore(_Score):
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


@dataclass(frozen=True, kw_only=True)
class ClassificationClass:
    """Accuracy on the images of one class.

    Attributes:
        name: Name of the class; its index in digits if the model has no names.
        class_index: Index of the class.
        images: Images of the class.
        top1: Share of them that are recognised, 0..1; `None` without any.
    """

    name: str
    class_index: Count = 0
    images: Count | None = None
    top1: float | None = None


@dataclass(frozen=True, kw_only=True)
class ClassificationScore(_Score):
    """Accuracy of a classifier, 0..1.

    Attributes:
        top1: Share of the images whose best class is the true one.
        top5: Share of the images whose true class is among the five best; `None` for fewer than six classes.
        per_class: Accuracy on every class.
    """

    task = "classification"
    main = "top1"
    top1: float | None
    top5: float | None = None
    per_class: tuple[ClassificationClass, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EmbeddingScore(_Score):
    """How a model's embeddings compare with the float model's; `definition` says what is counted.

    Attributes:
        cosine: Mean similarity of an image's two embeddings, -1..1.
        cosine_p1: Its 1st percentile over the images.
        cosine_min: The least.
        recall_at_1: Share of the images whose nearest other image is found first in a search of the float model's
            embeddings, 0..1; this and the following are `None` if a search returns all images.
        recall_at_5: Share of them that find it among the first 5.
        recall_at_10: Share of them that find it among the first 10.
        class_recall_at_1: Share of the images that find one of their class first; `None` without classes.
        class_recall_at_5: Share of them that find one among the first 5.
        class_recall_at_10: Share of them that find one among the first 10.
        self_recall_at_1: `recall_at_1` in a search of this model's own embeddings.
        self_recall_at_5: `recall_at_5` in them.
        self_recall_at_10: `recall_at_10` in them.
        self_class_recall_at_1: `class_recall_at_1` in them.
        self_class_recall_at_5: `class_recall_at_5` in them.
        self_class_recall_at_10: `class_recall_at_10` in them.
        definition: What the numbers mean, in sentences.
    """

    task = "embedding"
    main = "cosine"
    cosine: float | None
    cosine_p1: float | None = None
    cosine_min: float | None = None
    recall_at_1: float | None = None
    recall_at_5: float | None = None
    recall_at_10: float | None = None
    class_recall_at_1: float | None = None
    class_recall_at_5: float | None = None
    class_recall_at_10: float | None = None
    self_recall_at_1: float | None = None
    self_recall_at_5: float | None = None
    self_recall_at_10: float | None = None
    self_class_recall_at_1: float | None = None
    self_class_recall_at_5: float | None = None
    self_class_recall_at_10: float | None = None
    definition: str = ""


Score = DetectionScore | ClassificationScore | EmbeddingScore
SCORES: tuple[type[Score], ...] = (DetectionScore, ClassificationScore, EmbeddingScore)


@dataclass(frozen=True, kw_only=True)
class ReferenceModel:
    """The float model that embeddings are compared with.

    Attributes:
        artifact: File name.
        digest: SHA-256 of the file.
        runtime: Name of the runtime that ran it.
    """

    artifact: str
    digest: str
    runtime: str


ScoreT_co = TypeVar("ScoreT_co", bound=Score, covariant=True)


@dataclass(frozen=True, kw_only=True)
class EvalResult(Generic[ScoreT_co]):
    """One file, in one engine, on one device, scored on images.

    Attributes:
        artifact: File name.
        digest: SHA-256 of the file.
        source_digest: Digest of the float graph that it was made from.
        target: Target that it was written for; empty for a file of another tool.
        runtime: Name of the runtime.
        precision: Precision of the file, as its manifest states it.
        task: `detection`, `classification` or `embedding`.
        images: How many images were scored.
        score: The numbers of the task; their keys are part of the result.
        reference: The float model that embeddings are compared with; only for embeddings.
        skipped_images: Names of the images that could not be read.
        inference_images_per_s: Images per second in the engine alone; `None` unless measured.
        eval_images_per_s: Images per second from file to prediction; `None` unless measured.
        annotations: Name of the file or folder that holds the truth.
        environment: Engine, settings and machine.
        obtained: `measured`, `simulated` or `emulated`.
        device: Name of the device; absent if the file was run from Python.
        edgeq: Version of edgeq that scored it.
        command: The command that scored it.
        results_version: Version of this form.
        predictions: What was found in each image and the truth, packed by `edgeq.tasks.prediction_records`; `None`
            without them.
    """

    artifact: str
    digest: str = ""
    source_digest: str = ""
    target: str = ""
    runtime: str
    precision: str
    task: str = ""
    images: Count | None = None
    score: ScoreT_co = field(metadata=INLINE)
    reference: ReferenceModel | None = field(default=None, metadata=OMIT_EMPTY)
    skipped_images: tuple[str, ...] = ()
    inference_images_per_s: float | None = None
    eval_images_per_s: float | None = None
    annotations: str | None = None
    environment: Environment = field(default_factory=Environment)
    obtained: Literal["measured", "simulated", "emulated"] = "measured"
    device: str | None = field(default=None, metadata=OMIT_EMPTY)
    edgeq: str | None = field(default=None, metadata=OMIT_EMPTY)
    command: str | None = field(default=None, metadata=OMIT_EMPTY)
    results_version: Positive = RESULTS_VERSION
    predictions: Mapping[str, Any] | None = field(default=None, metadata=OMIT_EMPTY)
