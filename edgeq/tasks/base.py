"""What `edgeq eval` can score: a task reads its data set, decodes a model's outputs, and turns them into numbers.

The decoder that a manifest names decides the task: `classification` and `embedding` are of their own, all others are
detectors. A further task is a class here and a line in `_BY_DECODER`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import InputError, ModelError
from edgeq.exporting.artifact import Artifact, Postprocessing
from edgeq.inputs.images import existing_images
from edgeq.inputs.preprocessing import Placement
from edgeq.results.evaluation import (
    ClassificationClass,
    ClassificationScore,
    DetectionClass,
    DetectionScore,
    EmbeddingScore,
    Score,
)
from edgeq.tasks import classification, embedding
from edgeq.tasks.detection import Detections, get_decoder
from edgeq.tasks.detection.coco import category_ids, check_engine, evaluate, load_ground_truth
from edgeq.tasks.prediction_records import (
    ClassificationPredictions,
    DetectionPredictions,
    EmbeddingPredictions,
    Predictions,
    relative_names,
)

Prediction = TypeVar("Prediction")


class Task(ABC, Generic[Prediction]):
    """A data set and how a model does on it. Images are known by their position in `paths`.

    Attributes:
        name: As results and tables print it.
        source: Where the truth about the images comes from.
        paths: The images, not opened yet.
        needs_reference: Whether a model is scored against its float model's predictions.
    """

    name: ClassVar[str]
    needs_reference: ClassVar[bool] = False
    source: Path
    paths: Sequence[Path]

    @abstractmethod
    def __init__(self, annotations: Path | None, images_dir: Path, engine: str) -> None:
        """Reads the data set.

        Args:
            annotations: The file that tells the truth about the images.
            images_dir: Folder of the images.
            engine: COCO evaluator, for the task that has several.

        Raises:
            InputError: the data set cannot be used.
            MissingDependencyError: the evaluator is not installed.
        """

    @abstractmethod
    def check(self, artifact: Artifact) -> None:
        """Raises what would keep an artifact from being scored, as far as that shows before an image is read."""

    def check_reference(self, artifact: Artifact, reference: Artifact) -> None:
        """Raises what would keep an artifact from being compared with its float model; for tasks that want one."""

    def check_image(self, number: int, image: NDArray[np.uint8]) -> None:
        """Raises `InputError` where an image `(H, W, 3)` is not the one that the data set is about."""

    @staticmethod
    @abstractmethod
    def decode(outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement) -> Prediction:
        """Returns what a model's outputs say about one image.

        Raises:
            ModelError: the outputs are not what the decoder wants, or no finite numbers.
            InputError: the decoder is unknown, or `post` has an unknown role or option.
        """

    @abstractmethod
    def score(
        self, artifact: Artifact, predictions: Mapping[int, Prediction], reference: Mapping[int, Prediction]
    ) -> Score:
        """Returns the numbers and everything else that only this task's results hold.

        Args:
            artifact: The model.
            predictions: What it says about each image that could be read.
            reference: What the float model says about the same images; empty where `needs_reference` is false.
        """

    @abstractmethod
    def per_image(
        self, artifact: Artifact, predictions: Mapping[int, Prediction], reference: Mapping[int, Prediction]
    ) -> Predictions:
        """Returns what reports and gates need of each image; takes what `score` takes."""


class DetectionTask(Task[Detections]):
    """COCO's twelve numbers for detectors."""

    name = "detection"

    def __init__(self, annotations: Path | None, images_dir: Path, engine: str) -> None:
        if annotations is None:
            raise InputError("detectors are scored on a COCO annotation file; give --annotations FILE")
        check_engine(engine)
        self._engine = engine
        self._ground_truth = load_ground_truth(annotations)
        self.source = annotations
        names = [record.file_name for record in self._ground_truth.images]
        self.paths = existing_images(annotations, images_dir, names)

    def check(self, artifact: Artifact) -> None:
        """Raises where the annotations lack a class of the model, or its decoder is unknown."""
        category_ids(self._ground_truth, artifact.labels)
        get_decoder(_postprocessing(artifact).decoder)

    def check_image(self, number: int, image: NDArray[np.uint8]) -> None:
        """Raises `InputError` where an image has another size than the annotations state."""
        record = self._ground_truth.images[number]
        found, stated = (image.shape[1], image.shape[0]), (record.width_px, record.height_px)
        if all(stated) and found != stated:
            raise InputError(
                f"{self.paths[number]}: has {found[0]}x{found[1]} pixels, its annotations were made on {stated[0]}x"
                f"{stated[1]}; wanted the images that the annotations belong to, neither resized nor rotated"
            )

    @staticmethod
    def decode(outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement) -> Detections:
        """Returns the boxes of one image, in its pixels."""
        detections = get_decoder(post.decoder)(outputs, post, placement)
        if not isinstance(detections, Detections):
            raise ModelError(
                f"decoder {post.decoder}: returned {type(detections).__name__}, wanted edgeq.tasks.detection.Detections"
            )
        if not (np.isfinite(detections.boxes).all() and np.isfinite(detections.scores).all()):
            raise ModelError("computed boxes or scores that are not finite numbers; it is broken")
        return detections

    def score(
        self, artifact: Artifact, predictions: Mapping[int, Detections], reference: Mapping[int, Detections]
    ) -> DetectionScore:
        """Returns COCO's twelve numbers, and the scores of each class."""
        ids = [record.id for record in self._ground_truth.images]
        detections = {ids[number]: found for number, found in predictions.items()}
        scores = evaluate(
            self._ground_truth, detections, sorted(detections), labels=artifact.labels, engine=self._engine
        )
        per_class = tuple(DetectionClass(**vars(entry)) for entry in scores.per_class)
        return DetectionScore(**scores.numbers, per_class=per_class, evaluator=self._engine)

    def per_image(
        self, artifact: Artifact, predictions: Mapping[int, Detections], reference: Mapping[int, Detections]
    ) -> DetectionPredictions:
        """Returns detections and annotated boxes."""
        detections = {self._ground_truth.images[number].id: found for number, found in predictions.items()}
        categories = category_ids(self._ground_truth, artifact.labels)
        return DetectionPredictions.of(self._ground_truth, categories, detections)


class ClassificationTask(Task[NDArray[np.int64]]):
    """Top-1 and top-5 accuracy for classifiers."""

    name = "classification"

    def __init__(self, annotations: Path | None, images_dir: Path, engine: str) -> None:
        self._images = classification.load_labelled_images(annotations, images_dir)
        self.source = self._images.source
        self.paths = self._images.paths
        self._names = relative_names(self.paths, images_dir)

    def check(self, artifact: Artifact) -> None:
        """Raises where the labels are not classes of the model."""
        self._truth(artifact)

    @staticmethod
    def decode(outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement) -> NDArray[np.int64]:
        """Returns the best classes of one image, best first."""
        scores = classification.decode(outputs, post)
        if not np.isfinite(scores).all():
            raise ModelError("computed scores that are not finite numbers; it is broken")
        return classification.rank(scores)

    def score(
        self,
        artifact: Artifact,
        predictions: Mapping[int, NDArray[np.int64]],
        reference: Mapping[int, NDArray[np.int64]],
    ) -> ClassificationScore:
        """Returns top-1 and top-5 accuracy, and the accuracy on each class."""
        numbers = sorted(predictions)
        scores = classification.score(
            np.stack([predictions[number] for number in numbers]),
            self._truth(artifact)[numbers],
            classification.count_classes(artifact),
            classification.class_names(artifact),
        )
        per_class = tuple(ClassificationClass(**vars(entry)) for entry in scores.per_class)
        return ClassificationScore(top1=scores.top1, top5=scores.top5, per_class=per_class)

    def per_image(
        self,
        artifact: Artifact,
        predictions: Mapping[int, NDArray[np.int64]],
        reference: Mapping[int, NDArray[np.int64]],
    ) -> ClassificationPredictions:
        """Returns ranked and true classes."""
        numbers = sorted(predictions)
        names = classification.class_names(artifact) or map(str, range(classification.count_classes(artifact)))
        return ClassificationPredictions(
            classes=tuple(names),
            images=tuple(self._names[number] for number in numbers),
            ranked=np.stack([predictions[number] for number in numbers]).astype(np.int32),
            truth=self._truth(artifact)[numbers].astype(np.int32),
        )

    def _truth(self, artifact: Artifact) -> NDArray[np.int64]:
        classes, names = classification.count_classes(artifact), classification.class_names(artifact)
        return classification.class_indices(self._images, classes, names)


class EmbeddingTask(Task[embedding.Embeddings]):
    """Cosine to the float model's embeddings, and recall of searches for the nearest image."""

    name = "embedding"
    needs_reference = True

    def __init__(self, annotations: Path | None, images_dir: Path, engine: str) -> None:
        images = embedding.load_searched_images(annotations, images_dir)
        self.source, self.paths, self._classes = images.source, images.paths, images.classes
        self._names = relative_names(self.paths, images_dir)

    def check(self, artifact: Artifact) -> None:
        """Raises where the model does not give one embedding."""
        embedding.embedding_length(artifact)

    def check_reference(self, artifact: Artifact, reference: Artifact) -> None:
        """Raises `InputError` where the embeddings of the two are not of one length."""
        found, wanted = embedding.embedding_length(artifact), embedding.embedding_length(reference)
        if found != wanted:
            raise InputError(
                f"{artifact.name}: its embeddings have {found} numbers, and those of the float model {reference.name} "
                f"{wanted}; wanted the float model that it was made from"
            )

    @staticmethod
    def decode(outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement) -> embedding.Embeddings:
        """Returns the embedding of one image."""
        return embedding.decode(outputs, post)

    def score(
        self,
        artifact: Artifact,
        predictions: Mapping[int, embedding.Embeddings],
        reference: Mapping[int, embedding.Embeddings],
    ) -> EmbeddingScore:
        """Returns how the embeddings compare with the float model's."""
        numbers = sorted(predictions)
        scores = embedding.score(
            np.stack([predictions[number] for number in numbers]),
            np.stack([reference[number] for number in numbers]),
            None if self._classes is None else self._classes[numbers],
        )
        return EmbeddingScore(**scores.numbers(), definition=embedding.DEFINITION)

    def per_image(
        self,
        artifact: Artifact,
        predictions: Mapping[int, embedding.Embeddings],
        reference: Mapping[int, embedding.Embeddings],
    ) -> EmbeddingPredictions:
        """Returns the similarity of each image's embedding to the float model's."""
        numbers = sorted(predictions)
        found, wanted = (np.stack([each[number] for number in numbers]) for each in (predictions, reference))
        return EmbeddingPredictions(
            images=tuple(self._names[number] for number in numbers),
            cosines=embedding.cosines(found, wanted).astype(np.float32),
        )


_BY_DECODER: dict[str, type[Task[Any]]] = {
    classification.DECODER: ClassificationTask,
    embedding.DECODER: EmbeddingTask,
}


def task_named(name: str) -> type[Task[Any]]:
    """Returns the task of that name.

    Raises:
        InputError: there is none.
    """
    kinds: list[type[Task[Any]]] = [DetectionTask, *_BY_DECODER.values()]
    tasks = {kind.name: kind for kind in kinds}
    if name not in tasks:
        raise InputError(f"unknown task {name!r}; known: {', '.join(sorted(tasks))}")
    return tasks[name]


def task_of(post: Postprocessing) -> type[Task[Any]]:
    """Returns the task of a model whose outputs are decoded like this."""
    return _BY_DECODER.get(post.decoder, DetectionTask)


def _postprocessing(artifact: Artifact) -> Postprocessing:
    assert artifact.postprocessing is not None  # noqa: S101 - it names the decoder by which the task was chosen
    return artifact.postprocessing
