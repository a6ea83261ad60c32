"""Retrieval: which text belongs to an image, and which image to a text, by the vectors of two towers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import InputError, MismatchError
from edgeq.exporting.artifact import Artifact
from edgeq.inputs.array_files import read_arrays
from edgeq.results.evaluation import Score, ScoreColumn, Suspicion
from edgeq.tasks.embedding import cosines
from edgeq.tasks.language.questions_task import Given, QuestionsTask
from edgeq.tasks.prediction_records import PredictionRecords
from edgeq.tasks.resampling import mean_over_draws

NAME = "retrieval"

RECALL_AT = (1, 5, 10)
_WANTED = "arrays `images` (images, length) and `texts` (texts, length), in the order of `truth`"
_FACTS = ("model", "precision", "runtime")
_ENOUGH, _CHANCE = 20, 2.0

Vectors = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class RetrievalScore(Score):
    """How often what belongs together is found, 0..1.

    Attributes:
        mean_recall: Mean of the six recalls of this model's vectors among one another.
        text_at_1: Share of the images for which one of their texts is the nearest text.
        text_at_5: Share of them for which one is among the 5 nearest.
        text_at_10: Share of them for which one is among the 10 nearest.
        image_at_1: Share of the texts whose image is the nearest image, images weighing the same.
        image_at_5: Share of them whose image is among the 5 nearest.
        image_at_10: Share of them whose image is among the 10 nearest.
        indexed_text_at_1: `text_at_1` where this model's images search the texts of the first file, as a device
            searches an index that was made in another precision.
        indexed_image_at_1: `image_at_1` where this model's texts search the images of the first file.
        image_cosine: Mean similarity of an image's vector to the first file's, -1..1.
        text_cosine: The same of texts.
    """

    task = NAME
    main = "mean_recall"
    figures = "Recall"
    columns = (
        ScoreColumn("mean_recall", "mean recall"),
        ScoreColumn("text_at_1", "text @1"),
        ScoreColumn("text_at_5", "@5", in_report=False),
        ScoreColumn("text_at_10", "@10", in_report=False),
        ScoreColumn("image_at_1", "image @1"),
        ScoreColumn("image_at_5", "@5 ", in_report=False),
        ScoreColumn("image_at_10", "@10 ", in_report=False),
        ScoreColumn("indexed_text_at_1", "indexed text @1"),
        ScoreColumn("indexed_image_at_1", "indexed image @1"),
        ScoreColumn("image_cosine", "image cosine"),
        ScoreColumn("text_cosine", "text cosine"),
    )
    mean_recall: float | None
    text_at_1: float | None = None
    text_at_5: float | None = None
    text_at_10: float | None = None
    image_at_1: float | None = None
    image_at_5: float | None = None
    image_at_10: float | None = None
    indexed_text_at_1: float | None = None
    indexed_image_at_1: float | None = None
    image_cosine: float | None = None
    text_cosine: float | None = None


@dataclass(frozen=True, eq=False)
class RetrievalRecords(PredictionRecords):
    """What each image and its texts find.

    Attributes:
        images: Names of the images, `N` of them.
        recalls: `(N,)` float32: mean of the six recalls, of one image and its texts.
    """

    task = NAME
    arrays: ClassVar[Mapping[str, tuple[str, str]]] = {"recalls": ("float32", "N")}
    images: tuple[str, ...]
    recalls: NDArray[np.float32]

    def resampled(self, name: str) -> NDArray[np.float64]:
        """Returns the mean recall, the only number that is asked for; what is searched stays whole."""
        return mean_over_draws(self.recalls.astype(np.float64))


class RetrievalTask(QuestionsTask[Vectors]):
    """Recall from image to text and back; a prediction is an image's vector, and below it those of its texts."""

    name = NAME
    score_type = RetrievalScore
    records_type = RetrievalRecords
    asks_for = "vectors"
    needs_reference = True

    def read(self, path: Path) -> Given[Vectors]:
        """Returns the vectors of a file.

        Args:
            path: `.npz` with `images` `(images, length)` and `texts` `(texts, length)`: a text per answer, in the order
                of the file of questions. Texts `model`, `precision` and `runtime` may say what made them.

        Raises:
            InputError: the file has another form, or a vector is not finite.
            MismatchError: it has other numbers of vectors.
        """
        stored = read_arrays(path, ("images", "texts", *_FACTS))
        images, texts = (_vectors(stored.get(key), key, path) for key in ("images", "texts"))
        counts = [len(each.answers) for each in self.questions]
        if (len(images), len(texts)) != (len(counts), sum(counts)) or images.shape[1] != texts.shape[1]:
            raise MismatchError(
                f"{path}: holds {len(images)} images and {len(texts)} texts of {images.shape[1]} and {texts.shape[1]} "
                f"numbers; {self.source} has {len(counts)} and {sum(counts)}, and both need vectors of one length"
            )
        starts = np.cumsum([0, *counts])
        found = {
            number: np.concatenate([images[number : number + 1], texts[starts[number] : starts[number + 1]]])
            for number in range(len(counts))
        }
        return Given(found, *(str(stored[key]) if key in stored else "" for key in _FACTS))

    @classmethod
    def to_arrays(cls, prediction: Vectors) -> Mapping[str, np.ndarray]:
        """Returns the vectors under the name `vectors`."""
        return {"vectors": prediction}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Vectors:
        """Returns the vectors.

        Raises:
            ValueError: there are other arrays, or no image and text among them.
        """
        vectors = arrays.get("vectors")
        if len(arrays) != 1 or vectors is None or vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) < 2:
            raise ValueError(f"the arrays {', '.join(arrays)}")
        return vectors

    def score(self, artifact: Artifact, predictions: Mapping[int, Any], reference: Mapping[int, Any]) -> RetrievalScore:
        """Returns the recalls among this model's vectors and in the first file's, and the similarity to these."""
        (images, texts, owners), (index_images, index_texts, _) = _stacked(predictions), _stacked(reference)
        if images.shape[1] != index_images.shape[1]:
            raise MismatchError(
                f"{artifact.name}: its vectors have {images.shape[1]} numbers, and those of the first file "
                f"{index_images.shape[1]}; wanted files of one model in several precisions"
            )
        own, indexed = (
            _ranks(images, texts, images, texts, owners),
            _ranks(images, texts, index_images, index_texts, owners),
        )
        by_text, by_image = ([_recall(ranks, owners, at) for at in RECALL_AT] for ranks in own)
        return RetrievalScore(
            mean_recall=float(np.mean([*by_text, *by_image])),
            text_at_1=by_text[0],
            text_at_5=by_text[1],
            text_at_10=by_text[2],
            image_at_1=by_image[0],
            image_at_5=by_image[1],
            image_at_10=by_image[2],
            indexed_text_at_1=_recall(indexed[0], owners, 1),
            indexed_image_at_1=_recall(indexed[1], owners, 1),
            image_cosine=float(cosines(images, index_images).mean()),
            text_cosine=float(cosines(texts, index_texts).mean()),
        )

    def suspicions(self, artifact: Artifact, predictions: Mapping[int, Any], score: Score) -> Sequence[Suspicion]:
        """Returns that vectors do not belong together, if nothing is found but by chance."""
        found = score.numbers["text_at_1"] or 0.0
        if len(predictions) < _ENOUGH or found > _CHANCE / len(predictions):
            return ()
        return (
            Suspicion(
                text=f"finds {found:.1%} of the texts, as chance does: images and texts may be in another order than "
                "the file of questions, or of two models"
            ),
        )

    def per_image(
        self, artifact: Artifact, predictions: Mapping[int, Any], reference: Mapping[int, Any]
    ) -> RetrievalRecords:
        """Returns the mean recall of each image and its texts."""
        numbers = sorted(predictions)
        images, texts, owners = _stacked(predictions)
        ranks = _ranks(images, texts, images, texts, owners)
        found = [_found(each, owners, at) for each in ranks for at in RECALL_AT]
        return RetrievalRecords(
            images=tuple(self.names[number] for number in numbers),
            recalls=np.mean(found, axis=0).astype(np.float32),
        )


def _vectors(array: NDArray[Any] | None, key: str, path: Path) -> Vectors:
    if array is None or array.ndim != 2 or not array.size or not np.issubdtype(array.dtype, np.floating):
        found = "nothing" if array is None else f"{array.shape} of {array.dtype}"
        raise InputError(f"{path}: `{key}` is {found}; wanted {_WANTED}, floating point")
    if not np.isfinite(array).all():
        raise InputError(f"{path}: `{key}` holds a number that is not finite; the model is broken")
    return array.astype(np.float32)


def _stacked(predictions: Mapping[int, Vectors]) -> tuple[Vectors, Vectors, NDArray[np.int64]]:
    """Returns the images, the texts, and the row of the image that each text belongs to."""
    vectors = [predictions[number] for number in sorted(predictions)]
    owners = np.repeat(np.arange(len(vectors)), [len(each) - 1 for each in vectors])
    return np.stack([each[0] for each in vectors]), np.concatenate([each[1:] for each in vectors]), owners


def _ranks(
    images: Vectors, texts: Vectors, index_images: Vectors, index_texts: Vectors, owners: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns how many texts each image `(images,)` finds before one of its own, and how many images each text.

    Of equally near ones, those that are wanted come last: vectors that are all the same find nothing.
    """
    queries, index = _unit(images), _unit(index_texts)
    by_image = []
    for row, query in enumerate(queries):
        similarity = index @ query
        own = owners == row
        by_image.append(int((similarity[~own] >= similarity[own].max()).sum()))
    searched = _unit(index_images)
    by_text = []
    for query, owner in zip(_unit(texts), owners, strict=True):
        similarity = searched @ query
        by_text.append(int((similarity >= similarity[owner]).sum()) - 1)
    return np.array(by_image), np.array(by_text)


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, np.where(lengths == 0, np.float32(1), lengths), dtype=np.float32)


def _found(ranks: NDArray[np.int64], owners: NDArray[np.int64], at: int) -> NDArray[np.float64]:
    """Returns for each image whether it finds what is wanted among the first; for texts the share of its texts."""
    found = (ranks < at).astype(np.float64)
    images = int(owners.max()) + 1
    if len(found) == images:
        return found
    share: NDArray[np.float64] = np.bincount(owners, found) / np.bincount(owners)
    return share


def _recall(ranks: NDArray[np.int64], owners: NDArray[np.int64], at: int) -> float:
    return float(_found(ranks, owners, at).mean())
