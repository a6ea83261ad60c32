"""Text recognition: what an image of one piece of text says, by exact match and by edit distance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgeq.datasets.split import Split
from edgeq.errors import InputError, ModelError
from edgeq.exporting.artifact import Artifact, Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.results.evaluation import Score, ScoreColumn
from edgeq.tasks.base import ArrayTask
from edgeq.tasks.detection.decoders.roles import describe, pick_options, pick_outputs
from edgeq.tasks.evidence import Finding, require
from edgeq.tasks.labelled_images import LabelledImages, labelled_images_of, load_labelled_images
from edgeq.tasks.prediction_records import PredictionRecords
from edgeq.tasks.resampling import mean_over_draws

if TYPE_CHECKING:
    from typing_extensions import Self

DECODER = "ctc"

_BLANK = 0


@dataclass(frozen=True, kw_only=True)
class TextRecognitionScore(Score):
    """How much of the text is read, 0..1.

    Attributes:
        exact: Share of the images that are read without an error.
        similarity: Mean over the images of 1 - edit distance / length of the longer of both texts.
        cer: Character error rate: edit distance over all images, in parts of the true characters; may exceed 1.
    """

    task = "text-recognition"
    main = "exact"
    figures = "Exact match and edit distance"
    columns = (ScoreColumn("exact", "exact"), ScoreColumn("similarity", "similarity"), ScoreColumn("cer", "CER"))
    exact: float | None
    similarity: float | None = None
    cer: float | None = None


@dataclass(frozen=True, eq=False)
class TextRecognitionPredictions(PredictionRecords):
    """Texts that were read, and the true ones.

    Attributes:
        images: File names, `N` of them.
        texts: What the model reads in each.
        truth: What each says.
    """

    task = "text-recognition"
    finding_type = Finding
    arrays: ClassVar[Mapping[str, tuple[str, str]]] = {}
    images: tuple[str, ...]
    texts: tuple[str, ...]
    truth: tuple[str, ...]

    def __post_init__(self) -> None:
        require(len(self.texts) == len(self.truth) == len(self.images), "texts of other images")

    def resampled(self, name: str) -> NDArray[np.float64]:
        """Returns exact match, the only number that is asked for."""
        return mean_over_draws(
            np.array([text == true for text, true in zip(self.texts, self.truth, strict=True)], float)
        )

    def has_truth_of(self, other: PredictionRecords) -> bool:
        """Returns whether both are about the same images that say the same."""
        return isinstance(other, TextRecognitionPredictions) and (self.images, self.truth) == (
            other.images,
            other.truth,
        )


class TextRecognitionTask(ArrayTask):
    """Exact match and edit distance for models that read text; a prediction is the indices of its characters."""

    name = "text-recognition"
    score_type = TextRecognitionScore
    finding_type = Finding
    records_type = TextRecognitionPredictions
    decoder = DECODER
    dtype = "int64"

    def __init__(self, images: LabelledImages) -> None:
        super().__init__(images.source, images.items, images.names)
        self._truth = [str(text) for text in images.classes]

    @classmethod
    def from_files(cls, annotations: Path | None, images_dir: Path, engine: str) -> Self:
        """Returns the task on the images of a folder; see `edgeq.tasks.labelled_images.load_labelled_images`."""
        return cls(load_labelled_images(annotations, images_dir))

    @classmethod
    def from_split(cls, split: Split, engine: str) -> Self:
        """Returns the task on images that say something.

        Raises:
            InputError: the data set does not state what.
        """
        wanted = "wanted lines of an image and its text, with a tab between them"
        return cls(labelled_images_of(split, f"a text per image, which models that read are scored on; {wanted}"))

    def check(self, artifact: Artifact) -> None:
        """Raises `InputError` where the model has no characters."""
        if not artifact.labels:
            raise InputError(
                f"{artifact.name}: has no characters; give `labels`, one character for each class but the first, which "
                "is the blank"
            )

    @staticmethod
    def decode(outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement) -> NDArray[np.int64]:
        """Returns the indices of the characters `(L,)`: the best class of each step, repeated ones and blanks left out.

        Class 0 is the blank, character i is class i + 1 ("Connectionist Temporal Classification", Graves et al., 2006).

        Args:
            outputs: Role `scores`: `(1, T, classes)`, one row per step.
            post: Takes no options.
            placement: Not used.

        Raises:
            ModelError: the output is missing, of another shape, or not finite.
            InputError: `post` has an unknown role or an option.
        """
        pick_options(post, {})
        scores = pick_outputs(outputs, post, {"scores": "scores"})["scores"]
        if scores.ndim != 3 or len(scores) != 1 or scores.shape[2] < 2:
            raise ModelError(f"decoder {post.decoder}: wanted scores (1, T, classes), found {describe(outputs)}")
        if not np.isfinite(scores).all():
            raise ModelError("computed scores that are not finite numbers; it is broken")
        best = scores[0].argmax(axis=1)
        changed = np.diff(best, prepend=-1) != 0
        characters: NDArray[np.int64] = best[changed & (best != _BLANK)].astype(np.int64) - 1
        return characters

    @classmethod
    def findings(cls, artifact: Artifact, prediction: NDArray[Any]) -> tuple[Finding, ...]:
        """Returns the text."""
        return (Finding(_spell(prediction, artifact)),)

    def true_findings(self, number: int, artifact: Artifact) -> tuple[Finding, ...]:
        """Returns what the image says."""
        return (Finding(self._truth[number]),)

    @classmethod
    def are_alike(cls, first: NDArray[Any], other: NDArray[Any]) -> bool:
        """Returns true: texts may be of any length."""
        return True

    def score(
        self, artifact: Artifact, predictions: Mapping[int, NDArray[Any]], reference: Mapping[int, NDArray[Any]]
    ) -> TextRecognitionScore:
        """Returns exact match, similarity and character error rate."""
        records = self.per_image(artifact, predictions, reference)
        pairs = list(zip(records.texts, records.truth, strict=True))
        distances = [edit_distance(text, true) for text, true in pairs]
        longer = [max(len(text), len(true), 1) for text, true in pairs]
        characters = sum(map(len, records.truth))
        return TextRecognitionScore(
            exact=float(np.mean([text == true for text, true in pairs])),
            similarity=float(np.mean(1 - np.array(distances) / longer)),
            cer=sum(distances) / characters if characters else None,
        )

    def per_image(
        self, artifact: Artifact, predictions: Mapping[int, NDArray[Any]], reference: Mapping[int, NDArray[Any]]
    ) -> TextRecognitionPredictions:
        """Returns texts that were read, and the true ones."""
        numbers = sorted(predictions)
        return TextRecognitionPredictions(
            images=tuple(self.names[number] for number in numbers),
            texts=tuple(_spell(predictions[number], artifact) for number in numbers),
            truth=tuple(self._truth[number] for number in numbers),
        )


def edit_distance(first: str, second: str) -> int:
    """Returns how many characters must be inserted, deleted or replaced to make one text the other (Levenshtein)."""
    row = list(range(len(second) + 1))
    for number, character in enumerate(first, start=1):
        before, row[0] = row[0], number
        for place, other in enumerate(second, start=1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (character != other))
    return row[-1]


def _spell(indices: NDArray[Any], artifact: Artifact) -> str:
    """Returns the text of character indices; the one behind the last label is a space, as PaddleOCR has it."""
    characters = (*artifact.labels, " ")
    if len(indices) and indices.max() >= len(characters):
        raise InputError(
            f"{artifact.name}: reads character {indices.max()}, but has {len(artifact.labels)} `labels`; wanted one "
            "for each class but the blank, which is the first, and at most a space behind them"
        )
    return "".join(characters[index] for index in indices.tolist())
