"""The task of classifiers.

Equal scores are common in INT8 files; between them the lower class index ranks first, so that results repeat.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeq.datasets.split import Split
from edgeq.errors import ModelError
from edgeq.exporting.artifact import Artifact, Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.tasks.base import ArrayTask
from edgeq.tasks.classification.outputs import class_names, count_classes, decode, rank
from edgeq.tasks.classification.records import ClassificationPredictions, ClassificationScore, score
from edgeq.tasks.classification.truth import class_indices
from edgeq.tasks.evidence import Finding, Mark
from edgeq.tasks.labelled_images import LabelledImages, labelled_images_of, load_labelled_images

if TYPE_CHECKING:
    from typing_extensions import Self

DECODER = "classification"

_log = logging.getLogger(__name__)


class ClassificationTask(ArrayTask):
    """Top-1 and top-5 accuracy for classifiers."""

    name = "classification"
    score_type = ClassificationScore
    records_type = ClassificationPredictions
    finding_type = Finding
    decoder = DECODER
    dtype = "int64"

    def __init__(self, images: LabelledImages) -> None:
        super().__init__(images.source, images.items, images.names)
        self._images = images

    @classmethod
    def from_files(cls, annotations: Path | None, images_dir: Path, engine: str) -> Self:
        """Returns the task on the images of a folder; see `edgeq.tasks.labelled_images.load_labelled_images`."""
        return cls(load_labelled_images(annotations, images_dir))

    @classmethod
    def from_split(cls, split: Split, engine: str) -> Self:
        """Returns the task on images that have a class each.

        Raises:
            InputError: the data set states no classes.
        """
        wanted = "wanted a folder per class, or a CSV with lines `path,class`"
        return cls(labelled_images_of(split, f"a class per image, which classifiers are scored on; {wanted}"))

    def check(self, artifact: Artifact) -> None:
        """Raises where the labels are not classes of the model; warns where only their order says which is which."""
        self._truth(artifact)
        if self._images.folders and not class_names(artifact) and not all(map(str.isdecimal, self._images.folders)):
            _log.warning(
                "the model has no class names: the folders %s, ... are its classes 0, 1, ... by position; name them "
                "with `labels` if that is wrong",
                ", ".join(self._images.folders[:2]),
            )

    @staticmethod
    def decode(outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement) -> NDArray[np.int64]:
        """Returns the best classes of one image, best first."""
        scores = decode(outputs, post)
        if not np.isfinite(scores).all():
            raise ModelError("computed scores that are not finite numbers; it is broken")
        return rank(scores)

    @classmethod
    def findings(cls, artifact: Artifact, prediction: NDArray[np.int64]) -> tuple[Finding, ...]:
        """Returns the best classes, best first; without scores, which are logits of one model and shares of another."""
        names = class_names(artifact)
        return tuple(_finding(names, index) for index in prediction.tolist())

    def true_findings(self, number: int, artifact: Artifact) -> tuple[Finding, ...]:
        """Returns the class of an image."""
        return (_finding(class_names(artifact), int(self._truth(artifact)[number])),)

    @classmethod
    def compare(
        cls, reference: Sequence[Finding], other: Sequence[Finding], truth: Sequence[Finding] | None
    ) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
        """Returns the classes of both files; those of one rank are shared, and a best class may be lost or won."""
        return _marked(reference, other, truth, "lost"), _marked(other, reference, truth, "won")

    def score(
        self,
        artifact: Artifact,
        predictions: Mapping[int, NDArray[np.int64]],
        reference: Mapping[int, NDArray[np.int64]],
    ) -> ClassificationScore:
        """Returns top-1 and top-5 accuracy, and the accuracy on each class."""
        numbers = sorted(predictions)
        return score(
            np.stack([predictions[number] for number in numbers]),
            self._truth(artifact)[numbers],
            count_classes(artifact),
            class_names(artifact),
        )

    def one_answer(self, artifact: Artifact, numbers: Sequence[int]) -> Mapping[int, NDArray[np.int64]]:
        """Returns the most frequent classes of these images, for each of them."""
        frequencies = np.bincount(self._truth(artifact)[list(numbers)], minlength=count_classes(artifact))
        return dict.fromkeys(numbers, rank(frequencies.astype(np.float32)))

    def per_image(
        self,
        artifact: Artifact,
        predictions: Mapping[int, NDArray[np.int64]],
        reference: Mapping[int, NDArray[np.int64]],
    ) -> ClassificationPredictions:
        """Returns ranked and true classes."""
        numbers = sorted(predictions)
        names = class_names(artifact) or map(str, range(count_classes(artifact)))
        return ClassificationPredictions(
            classes=tuple(names),
            images=tuple(self.names[number] for number in numbers),
            ranked=np.stack([predictions[number] for number in numbers]).astype(np.int32),
            truth=self._truth(artifact)[numbers].astype(np.int32),
        )

    def _truth(self, artifact: Artifact) -> NDArray[np.int64]:
        classes, names = count_classes(artifact), class_names(artifact)
        return class_indices(self._images, classes, names)


def _finding(names: Sequence[str], index: int) -> Finding:
    return Finding(names[index] if names else f"class {index}", index)


def _marked(
    findings: Sequence[Finding], other: Sequence[Finding], truth: Sequence[Finding] | None, found: Mark
) -> tuple[Finding, ...]:
    true = {finding.class_index for finding in truth or ()}
    marked = []
    for rank_from_0, (finding, beside) in enumerate(zip(findings, other, strict=False)):
        right = rank_from_0 == 0 and finding.class_index in true
        alone: Mark = found if right else "alone"
        mark = "both" if finding.class_index == beside.class_index else alone
        marked.append(dataclasses.replace(finding, mark=mark))
    return tuple(marked)
