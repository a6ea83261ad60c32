"""Embeddings: how close those of a quantized model are to the float model's, and whether a search still finds the same.

All scores are by cosine similarity, so that the length of an embedding does not count. What they mean is `DEFINITION`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgeq.datasets.split import Split
from edgeq.errors import InputError, ModelError
from edgeq.exporting.artifact import Artifact, Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.results.evaluation import Score, ScoreColumn
from edgeq.tasks.base import ArrayTask
from edgeq.tasks.detection.decoders.roles import describe, pick_outputs
from edgeq.tasks.evidence import require
from edgeq.tasks.prediction_records import PredictionRecords
from edgeq.tasks.resampling import mean_over_draws
from edgeq.tasks.searched_images import SearchedImages, load_searched_images, searched_images_of

if TYPE_CHECKING:
    from typing_extensions import Self

DECODER = "embedding"

RECALL_AT = (1, 5, 10)
"""How many of the nearest images a search returns."""

DEFINITION = (
    "cosine: similarity of an image's embedding to the float model's (mean, 1st percentile, least); recall_at_k: share "
    "of the images whose nearest other image by the float model is among the k nearest when embeddings of this model "
    "search those of the float model (self_: those of this model); class_recall_at_k: share of the images with "
    "another one of their class, where one of the k nearest is of that class; equally near images rank in their order"
)
"""What the scores mean, for whoever reads a result without this module."""

_ROLES = {"embedding": "embedding"}
# Similarities held at once: 64 MiB of float32, whatever the number of images.
_MAX_SIMILARITIES = 1 << 24

Embeddings = NDArray[np.float32]


@dataclass(frozen=True)
class Recalls:
    """Shares of the queries, by how many of the nearest images are returned; `None` where that is all of the images.

    Attributes:
        neighbour: The nearest image by the float model is among them.
        same_class: One of the query's class is among them; `None` without classes, too.
    """

    neighbour: Mapping[int, float | None]
    same_class: Mapping[int, float | None]


@dataclass(frozen=True)
class EmbeddingScores:
    """How a model's embeddings compare with the float model's; `DEFINITION` says what is counted.

    Attributes:
        cosine: Mean similarity of an image's two embeddings, -1 to 1.
        cosine_p1: Its 1st percentile over the images.
        cosine_min: The least.
        float_index: Recalls where the model's embeddings search the float model's.
        own_index: Recalls where they search one another.
    """

    cosine: float
    cosine_p1: float
    cosine_min: float
    float_index: Recalls
    own_index: Recalls

    def numbers(self) -> dict[str, float | None]:
        """Returns every score by its name in a result, such as `recall_at_1` and `self_class_recall_at_10`."""
        return {"cosine": self.cosine, "cosine_p1": self.cosine_p1, "cosine_min": self.cosine_min} | {
            f"{prefix}{kind}recall_at_{k}": share
            for prefix, recalls in (("", self.float_index), ("self_", self.own_index))
            for kind, shares in (("", recalls.neighbour), ("class_", recalls.same_class))
            for k, share in shares.items()
        }


@dataclass(frozen=True, kw_only=True)
class EmbeddingScore(Score):
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
    figures = "Cosine and recall"
    columns = (
        ScoreColumn("cosine", "cosine"),
        ScoreColumn("cosine_p1", "cosine p1", in_report=False),
        ScoreColumn("cosine_min", "cosine min"),
        ScoreColumn("recall_at_1", "recall@1"),
        ScoreColumn("recall_at_5", "recall@5"),
        ScoreColumn("recall_at_10", "recall@10"),
        ScoreColumn("self_recall_at_1", "self recall@1"),
        ScoreColumn("self_recall_at_5", "self recall@5", in_report=False),
        ScoreColumn("self_recall_at_10", "self recall@10", in_report=False),
        ScoreColumn("class_recall_at_1", "class recall@1"),
    )
    perfect = 1.0
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


@dataclass(frozen=True, eq=False)
class EmbeddingPredictions(PredictionRecords):
    """How near each image's embedding is to the float model's.

    Attributes:
        images: File names, `N` of them.
        cosines: `(N,)` float32, similarity to the float model's embedding, -1 to 1.
    """

    task = "embedding"
    images: tuple[str, ...]
    cosines: NDArray[np.float32]

    arrays: ClassVar[Mapping[str, tuple[str, str]]] = {"cosines": ("float32", "N")}

    def __post_init__(self) -> None:
        require(bool((np.abs(self.cosines) <= 1).all()), "a cosine is not in -1..1")

    def resampled(self, name: str) -> NDArray[np.float64]:
        """Returns the mean cosine, the only number that is asked for."""
        return mean_over_draws(self.cosines.astype(np.float64))


class EmbeddingTask(ArrayTask):
    """Cosine to the float model's embeddings, and recall of searches for the nearest image."""

    name = "embedding"
    score_type = EmbeddingScore
    records_type = EmbeddingPredictions
    decoder = DECODER
    dtype = "float32"
    needs_reference = True

    def __init__(self, images: SearchedImages) -> None:
        super().__init__(images.source, images.items, images.names)
        self._classes = images.classes

    @classmethod
    def from_files(cls, annotations: Path | None, images_dir: Path, engine: str) -> Self:
        """Returns the task on the images of a folder; see `edgeq.tasks.searched_images.load_searched_images`."""
        return cls(load_searched_images(annotations, images_dir))

    @classmethod
    def from_split(cls, split: Split, engine: str) -> Self:
        """Returns the task on any images, with their classes where the data set states one for each.

        Raises:
            InputError: there are fewer than two images.
        """
        return cls(searched_images_of(split))

    def check(self, artifact: Artifact) -> None:
        """Raises where the model does not give one embedding."""
        embedding_length(artifact)

    def check_reference(self, artifact: Artifact, reference: Artifact) -> None:
        """Raises `InputError` where the embeddings of the two are not of one length."""
        found, wanted = embedding_length(artifact), embedding_length(reference)
        if found != wanted:
            raise InputError(
                f"{artifact.name}: its embeddings have {found} numbers, and those of the float model {reference.name} "
                f"{wanted}; wanted the float model that it was made from"
            )

    @staticmethod
    def decode(outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement) -> Embeddings:
        """Returns the embedding of one image."""
        return decode(outputs, post)

    def score(
        self,
        artifact: Artifact,
        predictions: Mapping[int, Embeddings],
        reference: Mapping[int, Embeddings],
    ) -> EmbeddingScore:
        """Returns how the embeddings compare with the float model's."""
        numbers = sorted(predictions)
        scores = score(
            np.stack([predictions[number] for number in numbers]),
            np.stack([reference[number] for number in numbers]),
            None if self._classes is None else self._classes[numbers],
        )
        return EmbeddingScore(**scores.numbers(), definition=DEFINITION)

    def per_image(
        self,
        artifact: Artifact,
        predictions: Mapping[int, Embeddings],
        reference: Mapping[int, Embeddings],
    ) -> EmbeddingPredictions:
        """Returns the similarity of each image's embedding to the float model's."""
        numbers = sorted(predictions)
        found, wanted = (np.stack([each[number] for number in numbers]) for each in (predictions, reference))
        return EmbeddingPredictions(
            images=tuple(self.names[number] for number in numbers),
            cosines=cosines(found, wanted).astype(np.float32),
        )


def decode(outputs: Mapping[str, np.ndarray], post: Postprocessing) -> Embeddings:
    """Returns the embedding of an image `(length,)`, as the model gives it.

    Args:
        outputs: Role `embedding`: `(1, length)`; further axes have length 1.
        post: Takes no options.

    Raises:
        ModelError: the output is missing, of another shape, or no finite numbers.
        InputError: `post` has an unknown role or an option.
    """
    if post.options:
        raise InputError(f"decoder {post.decoder}: takes no options, found {', '.join(map(repr, post.options))}")
    embedding = pick_outputs(outputs, post, _ROLES)["embedding"]
    if embedding.ndim < 2 or embedding.shape[0] != 1 or embedding.size != embedding.shape[1]:
        raise ModelError(
            f"decoder {post.decoder}: wanted one embedding (1, length) of an image, found "
            f"{describe({'embedding': embedding})}; let the model pick a token or average over them"
        )
    if not np.isfinite(embedding).all():
        raise ModelError("computed an embedding that is not finite numbers; it is broken")
    return embedding.reshape(-1)


def embedding_length(artifact: Artifact) -> int:
    """Returns how many numbers an embedding of the model has.

    Raises:
        ModelError: the output is missing, or not of one fixed length.
        InputError: its post-processing has an unknown role or an option.
    """
    assert artifact.postprocessing is not None  # noqa: S101 - it names the decoder by which this module was chosen
    outputs = {}
    for spec in artifact.outputs:
        if None in spec.shape[1:]:
            raise ModelError(
                f"{artifact.name}: its output {spec.name!r} has the shape {spec.shape}, wanted (1, length)"
            )
        outputs[spec.name] = spec.decode(np.zeros([length or 1 for length in spec.shape], spec.dtype))
    return len(decode(outputs, artifact.postprocessing))


def cosines(embeddings: Embeddings, reference: Embeddings) -> NDArray[np.float64]:
    """Returns the similarity `(images,)` of each embedding `(images, length)` to the float model's, -1 to 1."""
    products = np.einsum("ij,ij->i", embeddings, reference, dtype=np.float64)
    similarity: NDArray[np.float64] = np.clip(products / (_lengths(embeddings) * _lengths(reference)), -1, 1)
    return similarity


def score(embeddings: Embeddings, reference: Embeddings, classes: NDArray[np.int64] | None) -> EmbeddingScores:
    """Returns how a model's embeddings compare with the float model's, by `DEFINITION`; every search is exhaustive.

    The similarities are computed in blocks of 64 MiB. An embedding of zeros is similar to none (0.0).

    Args:
        embeddings: Embeddings `(images, length)` of at least two images.
        reference: Those of the float model `(images, length)`, in the same order.
        classes: Class of each image `(images,)`; `None` without.
    """
    similarity = cosines(embeddings, reference)
    queries, index = (_divided(vectors, _lengths(vectors)) for vectors in (embeddings, reference))
    images = len(queries)
    # Rank of the image that a search should find; `images` for a query that has none.
    ranks = {key: np.full(images, images) for key in ("neighbour", "class", "own neighbour", "own class")}
    rows = max(1, _MAX_SIMILARITIES // images)
    for start in range(0, images, rows):
        block = np.arange(start, min(start + rows, images))
        neighbours = _similarities(index, index, block).argmax(axis=1)
        for own, searched in (("", index), ("own ", queries)):
            similarities = _similarities(queries, searched, block)
            ranks[f"{own}neighbour"][block] = _ranks(similarities, neighbours)
            if classes is not None:
                same = classes[block, None] == classes
                nearest = np.where(same, similarities, -np.inf).argmax(axis=1)
                ranks[f"{own}class"][block] = _ranks(similarities, nearest)
    alone = None if classes is None else np.bincount(classes)[classes] == 1
    float_index, own_index = (
        Recalls(_shares(ranks[f"{own}neighbour"], images), _class_shares(ranks[f"{own}class"], alone, images))
        for own in ("", "own ")
    )
    return EmbeddingScores(
        float(similarity.mean()), float(np.percentile(similarity, 1)), float(similarity.min()), float_index, own_index
    )


def _lengths(vectors: Embeddings) -> NDArray[np.float64]:
    """Returns the Euclidean length of each vector, and 1 for a vector of zeros."""
    lengths: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    lengths[lengths == 0] = 1
    return lengths


def _divided(vectors: Embeddings, lengths: NDArray[np.float64]) -> Embeddings:
    divided = np.empty_like(vectors, dtype=np.float32)
    # Casts piece by piece; a whole array of float64 would take as much memory as everything else.
    return np.divide(vectors, lengths[:, None], out=divided, casting="same_kind")


def _similarities(queries: Embeddings, index: Embeddings, block: NDArray[np.int64]) -> Embeddings:
    """Returns the similarity `(block, images)` of some queries to all images; an image is never near itself."""
    similarities: Embeddings = queries[block] @ index.T
    similarities[np.arange(len(block)), block] = -np.inf
    return similarities


def _ranks(similarities: Embeddings, targets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns how many images `(block,)` are found before the wanted one of each query."""
    wanted = np.take_along_axis(similarities, targets[:, None], axis=1)
    before = np.arange(similarities.shape[1]) < targets[:, None]
    before &= similarities == wanted
    before |= similarities > wanted
    ranks: NDArray[np.int64] = before.sum(axis=1)
    return ranks


def _shares(ranks: NDArray[np.int64], images: int) -> dict[int, float | None]:
    return {k: float((ranks < k).mean()) if k < images - 1 and len(ranks) else None for k in RECALL_AT}


def _class_shares(ranks: NDArray[np.int64], alone: NDArray[np.bool_] | None, images: int) -> dict[int, float | None]:
    return dict.fromkeys(RECALL_AT) if alone is None else _shares(ranks[~alone], images)
