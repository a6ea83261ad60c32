"""Classification: images with labels, the scores that a model gives them, and top-1 and top-5 accuracy.

Equal scores are common in INT8 files; between them the lower class index ranks first, so that results repeat.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edgeq.boundary import Count
from edgeq.datasets.class_names import match_classes
from edgeq.datasets.split import Split
from edgeq.errors import InputError, ModelError
from edgeq.exporting.artifact import Artifact, Postprocessing
from edgeq.inputs.items import Item, image_files, path_of
from edgeq.inputs.preprocessing import Placement
from edgeq.results.evaluation import ClassFigures, Score, ScoreColumn
from edgeq.tasks.base import ArrayTask
from edgeq.tasks.detection.decoders.roles import describe, pick_options, pick_outputs
from edgeq.tasks.evidence import Confusion, Diagnosis, Finding, Mark, ordered
from edgeq.tasks.labelled_images import LabelledImages, load_labelled_images, relative_names
from edgeq.tasks.prediction_records import PredictionRecords, require
from edgeq.tasks.resampling import draws, mean_over_draws

DECODER = "classification"

TOP = 5
"""How many classes of an image are ranked."""

_log = logging.getLogger(__name__)

_ROLES = {"scores": "scores"}
_OPTIONS = {"offset": 0}


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
class ClassificationScore(Score):
    """Accuracy of a classifier, 0..1.

    Attributes:
        top1: Share of the images whose best class is the true one.
        top5: Share of the images whose true class is among the five best; `None` for fewer than six classes.
        per_class: Accuracy on every class.
    """

    task = "classification"
    main = "top1"
    figures = "Accuracy"
    columns = (ScoreColumn("top1", "top-1"), ScoreColumn("top5", "top-5"))
    class_titles = ("images", "top-1")
    top1: float | None
    top5: float | None = None
    per_class: tuple[ClassificationClass, ...] = ()

    @property
    def classes(self) -> tuple[ClassFigures, ...]:
        """Top-1 accuracy of every class."""
        return tuple(ClassFigures(each.name, each.images, (each.top1,)) for each in self.per_class)


@dataclass(frozen=True, eq=False)
class ClassificationPredictions(PredictionRecords):
    """Ranked classes and the true class of images.

    Attributes:
        classes: Class names by index; indices in digits where the model has none.
        images: File names, `N` of them.
        ranked: `(N, K)` int32, class indices, best first.
        truth: `(N,)` int32, class indices.
    """

    task = "classification"
    classes: tuple[str, ...]
    images: tuple[str, ...]
    ranked: NDArray[np.int32]
    truth: NDArray[np.int32]

    arrays: ClassVar[Mapping[str, tuple[str, str]]] = {"ranked": ("int32", "NK"), "truth": ("int32", "N")}

    def __post_init__(self) -> None:
        for indices in (self.ranked, self.truth):
            inside = indices.min(initial=0) >= 0 and indices.max(initial=-1) < len(self.classes)
            require(bool(inside), "an image is of a class that is not named")

    def resampled(self, name: str) -> NDArray[np.float64]:
        """Returns top-1 accuracy, the only number that is asked for."""
        return mean_over_draws(self._right)

    def resampled_classes(self) -> NDArray[np.float64]:
        """Returns the share of each class's images that are recognised."""
        weights = draws(len(self.images))
        members = np.arange(len(self.classes))[:, None] == self.truth
        with np.errstate(invalid="ignore"):
            shares: NDArray[np.float64] = (members * self._right) @ weights / (members @ weights)
        return shares

    def diagnosis(self, threshold: float) -> Diagnosis:
        """Returns which classes are taken for which; a ranking has no scores, and so no threshold."""
        counts = Counter(zip(self.truth.tolist(), self.ranked[:, 0].tolist(), strict=True))
        cells = (Confusion(self.classes[true], self.classes[found], count) for (true, found), count in counts.items())
        return Diagnosis(None, ordered(cells))

    @property
    def _right(self) -> NDArray[np.float64]:
        right: NDArray[np.float64] = (self.ranked[:, 0] == self.truth).astype(np.float64)
        return right


class ClassificationTask(ArrayTask):
    """Top-1 and top-5 accuracy for classifiers."""

    name = "classification"
    score_type = ClassificationScore
    records_type = ClassificationPredictions
    finding_type = Finding
    decoder = DECODER
    dtype = "int64"

    def __init__(self, annotations: Path | None, images_dir: Path, engine: str) -> None:
        self._images = load_labelled_images(annotations, images_dir)
        self.source = self._images.source
        self.paths = self._images.paths
        self._names = relative_names(self.paths, images_dir)
        self._items = image_files(self.paths)

    @classmethod
    def from_split(cls, split: Split, engine: str) -> ClassificationTask:
        """Returns the task on images that have a class each.

        Raises:
            InputError: the data set states no classes.
        """
        labelled = [image for image in split.images if image.label is not None]
        if not labelled:
            raise InputError(
                f"{split.source}: is {split.format} without a class per image, which classifiers are scored on; wanted "
                "a folder per class, or a CSV with lines `path,class`"
            )
        task = cls.__new__(cls)
        task._images = LabelledImages(
            split.source,
            tuple(path_of(image.item) for image in labelled),
            tuple(str(image.label) for image in labelled),
            tuple(split.categories.values()) if split.class_folders else (),
            split.class_map,
        )
        task.source, task.paths = split.source, task._images.paths
        task._names = tuple(image.name for image in labelled)
        task._items = [image.item for image in labelled]
        return task

    @property
    def items(self) -> Sequence[Item]:
        """The images as they are read."""
        return self._items

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
            images=tuple(self._names[number] for number in numbers),
            ranked=np.stack([predictions[number] for number in numbers]).astype(np.int32),
            truth=self._truth(artifact)[numbers].astype(np.int32),
        )

    def _truth(self, artifact: Artifact) -> NDArray[np.int64]:
        classes, names = count_classes(artifact), class_names(artifact)
        return class_indices(self._images, classes, names)


def class_indices(images: LabelledImages, classes: int, labels: Sequence[str]) -> NDArray[np.int64]:
    """Returns the class index `(images,)` of every image, 0 to `classes - 1`.

    Text is looked up among `labels` where all of it is there, otherwise read as indices if it is digits, and otherwise
    matched by spelling and synonym (`edgeq.datasets.class_names`). Class folders without
    either are the classes in sorted order, as torchvision's `ImageFolder` counts them.

    Args:
        images: The images.
        classes: How many classes the model tells apart.
        labels: Their names, by index; empty where the model has none.

    Raises:
        InputError: a name is unknown, an index too high, or there are more or fewer folders than classes.
    """
    index = _text_indices(images, classes, labels)
    found = [index[label] if isinstance(label, str) else label for label in images.classes]
    for path, number in zip(images.paths, found, strict=True):
        if not 0 <= number < classes:
            raise InputError(
                f"{images.source}: {path.name} is of class {number}, but the model has {classes} classes (0 to "
                f"{classes - 1}); if it has a background class that the labels count too, omit the option offset"
            )
    return np.array(found, np.int64)


def count_classes(artifact: Artifact) -> int:
    """Returns how many classes a classifier tells apart: the length of its scores without the option `offset`.

    Raises:
        ModelError: its scores are missing, or not of one fixed length.
    """
    post = _postprocessing(artifact)
    outputs = {}
    for spec in artifact.outputs:
        if None in spec.shape[1:]:
            raise ModelError(
                f"{artifact.name}: its output {spec.name!r} has the shape {spec.shape}, wanted (1, classes)"
            )
        outputs[spec.name] = spec.decode(np.zeros([length or 1 for length in spec.shape], spec.dtype))
    return len(decode(outputs, post))


def decode(outputs: Mapping[str, np.ndarray], post: Postprocessing) -> NDArray[np.float32]:
    """Returns the score of every class `(classes,)`, as the model gives them.

    Args:
        outputs: Role `scores`: `(1, offset + classes)`, logits or probabilities; further axes have length 1.
        post: Option `offset`: how many classes at the front the labels do not have (TensorFlow's models of ImageNet
            often count a background class first). They are left out of the ranking.

    Raises:
        ModelError: the output is missing or has another shape.
        InputError: `post` has an unknown role or option.
    """
    return _class_scores(pick_outputs(outputs, post, _ROLES)["scores"], post)


def class_names(artifact: Artifact) -> tuple[str, ...]:
    """Returns the names of the classes that the labels may have, by index; empty where the artifact has none.

    Raises:
        InputError: there are more or fewer names than classes.
    """
    offset = int(pick_options(_postprocessing(artifact), _OPTIONS)["offset"])
    classes, names = count_classes(artifact), artifact.labels
    if len(names) == classes + offset:
        return names[offset:]
    if names and len(names) != classes:
        raise InputError(f"{artifact.name}: has {classes} classes, but {len(names)} labels; wanted one label per class")
    return names


def rank(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """Returns the class indices of the best `TOP` scores `(classes,)`, best first; of equal ones the lower index."""
    return np.argsort(-scores, kind="stable")[:TOP].astype(np.int64)


def score(
    ranked: NDArray[np.int64], truth: NDArray[np.int64], classes: int, names: Sequence[str] = ()
) -> ClassificationScore:
    """Returns the accuracy over at least one image.

    Args:
        ranked: Class indices `(images, TOP)` (or fewer columns, where there are fewer classes), best first.
        truth: Class index `(images,)`.
        classes: How many classes the model tells apart.
        names: Their names, by index; empty where the model has none.
    """
    hits = ranked == truth[:, None]
    images = np.bincount(truth, minlength=classes)
    right = np.bincount(truth[hits[:, 0]], minlength=classes)
    return ClassificationScore(
        top1=float(hits[:, 0].mean()),
        top5=float(hits.any(axis=1).mean()) if classes > TOP else None,
        per_class=tuple(
            ClassificationClass(
                name=names[index] if names else str(index),
                class_index=index,
                images=int(images[index]),
                top1=float(right[index] / images[index]) if images[index] else None,
            )
            for index in range(classes)
        ),
    )


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


def _text_indices(images: LabelledImages, classes: int, labels: Sequence[str]) -> dict[str, int]:
    """Returns the class index of every text that stands for a class."""
    texts = {label for label in images.classes if isinstance(label, str)}
    if texts <= set(labels) and not images.class_map:
        return {label: number for number, label in enumerate(labels)}
    if all(text.isdecimal() for text in texts):
        return {text: int(text) for text in texts}
    if labels:
        pairs = match_classes(labels, sorted(texts), images.class_map).pairs
        if texts <= set(pairs.values()):
            return {pairs[label]: number for number, label in enumerate(labels) if label in pairs}
    if images.folders and not labels:
        if len(images.folders) != classes:
            raise InputError(
                f"{images.source}: has {len(images.folders)} class folders, and the model {classes} classes without "
                "names; name the folders by class index, or score a model with labels"
            )
        return {name: number for number, name in enumerate(images.folders)}
    unknown = min(texts - set(labels), key=lambda text: (text.isdecimal(), text))
    names = f"its names ({', '.join(labels[:5])}{', ...' if len(labels) > 5 else ''}) or " if labels else ""
    raise InputError(
        f"{images.source}: has a class {unknown!r}, which the model does not know; wanted {names}indices 0 to "
        f"{classes - 1}"
    )


def _postprocessing(artifact: Artifact) -> Postprocessing:
    assert artifact.postprocessing is not None  # noqa: S101 - it names the decoder by which this module was chosen
    return artifact.postprocessing


def _class_scores(scores: NDArray[np.float32], post: Postprocessing) -> NDArray[np.float32]:
    offset = pick_options(post, _OPTIONS)["offset"]
    if offset < 0 or offset != int(offset):
        raise InputError(f"decoder {post.decoder}: option 'offset' is {offset!r}, wanted a whole number from 0")
    if scores.ndim < 2 or scores.shape[0] != 1 or scores.size != scores.shape[1] or scores.size - offset < 2:
        raise ModelError(
            f"decoder {post.decoder}: wanted scores (1, classes) of at least two classes after an offset of "
            f"{int(offset)}, found {describe({'scores': scores})}; a detector or embedding needs another preset"
        )
    return scores.reshape(-1)[int(offset) :]
