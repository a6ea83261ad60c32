"""What a model said about each image, packed into a result of `edgeq eval`, with the truth beside it.

A report or a gate needs neither the annotations nor the images then: AP can be computed anew over any choice of the
images. In JSON, arrays are packed by `edgeq.packing`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeq.boundary import convert
from edgeq.errors import InputError
from edgeq.packing import PackedArray, pack_array, unpack_array
from edgeq.tasks.detection.coco import GroundTruth
from edgeq.tasks.detection.detections import Detections

FORMAT = "edgeq-predictions"
_VERSION = 1
# The detections of COCO's 5,000 validation images by a detector that never says no take a tenth of it.
_MAX_BYTES = 1 << 28


@dataclass(frozen=True, eq=False)
class DetectionPredictions:
    """Detections and annotated boxes of images, in the order of COCO's image ids; image after image, boxes in a row.

    Attributes:
        classes: Names of the annotations' categories, by ascending id.
        images: File names, `N` of them.
        sizes_px: `(N, 2)` int32, width and height of each image; 0 where unknown.
        counts: `(N,)` int32, how many detections each has.
        boxes: `(D, 4)` float32: left, top, right, bottom in the image's pixels.
        scores: `(D,)` float32 in 0..1.
        labels: `(D,)` int32, position in `classes`.
        truth_counts: `(N,)` int32, how many annotated boxes each has.
        truth_boxes: `(G, 4)` float64: left, top, width, height, as COCO states them.
        truth_areas: `(G,)` float64.
        truth_labels: `(G,)` int32, position in `classes`.
        truth_crowd: `(G,)` uint8, 1 for a crowd.
    """

    task: ClassVar[str] = "detection"
    classes: tuple[str, ...]
    images: tuple[str, ...]
    sizes_px: NDArray[np.int32]
    counts: NDArray[np.int32]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int32]
    truth_counts: NDArray[np.int32]
    truth_boxes: NDArray[np.float64]
    truth_areas: NDArray[np.float64]
    truth_labels: NDArray[np.int32]
    truth_crowd: NDArray[np.uint8]

    _ARRAYS: ClassVar[Mapping[str, tuple[str, str]]] = {
        "sizes_px": ("int32", "N2"),
        "counts": ("int32", "N"),
        "boxes": ("float32", "D4"),
        "scores": ("float32", "D"),
        "labels": ("int32", "D"),
        "truth_counts": ("int32", "N"),
        "truth_boxes": ("float64", "G4"),
        "truth_areas": ("float64", "G"),
        "truth_labels": ("int32", "G"),
        "truth_crowd": ("uint8", "G"),
    }

    @classmethod
    def of(
        cls, ground_truth: GroundTruth, categories: NDArray[np.int64], detections: Mapping[int, Detections]
    ) -> DetectionPredictions:
        """Returns the detections of the images that were scored, with their annotations.

        Args:
            ground_truth: The annotations.
            categories: Category id of every class index, see `edgeq.tasks.detection.coco.category_ids`.
            detections: Image id -> detections; the images without an entry were not scored.
        """
        order = list(ground_truth.categories)
        position = np.array([order.index(category) for category in categories.tolist()], np.int32)
        ids = sorted(detections)
        records = {record.id: record for record in ground_truth.images}
        truth: dict[int, list[Mapping[str, Any]]] = {image: [] for image in ids}
        for entry in ground_truth.annotations:
            if entry["image_id"] in truth:
                truth[entry["image_id"]].append(entry)
        flat = [entry for image in ids for entry in truth[image]]
        found = [detections[image] for image in ids]
        return cls(
            classes=tuple(ground_truth.categories.values()),
            images=tuple(records[image].file_name for image in ids),
            sizes_px=np.array([(records[i].width_px, records[i].height_px) for i in ids], np.int32).reshape(-1, 2),
            counts=np.array([len(each) for each in found], np.int32),
            boxes=np.concatenate([each.boxes.reshape(-1, 4) for each in found]).astype(np.float32),
            scores=np.concatenate([each.scores for each in found]).astype(np.float32),
            labels=position[np.concatenate([each.classes for each in found]).astype(np.int64)],
            truth_counts=np.array([len(truth[image]) for image in ids], np.int32),
            truth_boxes=np.array([entry["bbox"] for entry in flat], np.float64).reshape(-1, 4),
            truth_areas=np.array([entry["area"] for entry in flat], np.float64),
            truth_labels=np.array([order.index(entry["category_id"]) for entry in flat], np.int32),
            truth_crowd=np.array([bool(entry["iscrowd"]) for entry in flat], np.uint8),
        )

    def __post_init__(self) -> None:
        _require(self.counts.sum() == len(self.boxes) and self.counts.min(initial=0) >= 0, "counts do not add up")
        total = self.truth_counts.sum()
        _require(total == len(self.truth_boxes) and self.truth_counts.min(initial=0) >= 0, "counts do not add up")
        for labels in (self.labels, self.truth_labels):
            inside = labels.min(initial=0) >= 0 and labels.max(initial=-1) < len(self.classes)
            _require(bool(inside), "a box is of a class that is not named")
        for values in (self.boxes, self.scores, self.truth_boxes, self.truth_areas):
            _require(bool(np.isfinite(values).all()), "a number is not finite")


@dataclass(frozen=True, eq=False)
class ClassificationPredictions:
    """Ranked classes and the true class of images.

    Attributes:
        classes: Class names by index; indices in digits where the model has none.
        images: File names, `N` of them.
        ranked: `(N, K)` int32, class indices, best first.
        truth: `(N,)` int32, class indices.
    """

    task: ClassVar[str] = "classification"
    classes: tuple[str, ...]
    images: tuple[str, ...]
    ranked: NDArray[np.int32]
    truth: NDArray[np.int32]

    _ARRAYS: ClassVar[Mapping[str, tuple[str, str]]] = {"ranked": ("int32", "NK"), "truth": ("int32", "N")}

    def __post_init__(self) -> None:
        for indices in (self.ranked, self.truth):
            inside = indices.min(initial=0) >= 0 and indices.max(initial=-1) < len(self.classes)
            _require(bool(inside), "an image is of a class that is not named")


@dataclass(frozen=True, eq=False)
class EmbeddingPredictions:
    """How near each image's embedding is to the float model's.

    Attributes:
        images: File names, `N` of them.
        cosines: `(N,)` float32, similarity to the float model's embedding, -1 to 1.
    """

    task: ClassVar[str] = "embedding"
    images: tuple[str, ...]
    cosines: NDArray[np.float32]

    _ARRAYS: ClassVar[Mapping[str, tuple[str, str]]] = {"cosines": ("float32", "N")}

    def __post_init__(self) -> None:
        _require(bool((np.abs(self.cosines) <= 1).all()), "a cosine is not in -1..1")


Predictions = DetectionPredictions | ClassificationPredictions | EmbeddingPredictions
_KINDS: Mapping[str, type[Predictions]] = {
    kind.task: kind for kind in (DetectionPredictions, ClassificationPredictions, EmbeddingPredictions)
}


def relative_names(paths: Sequence[Path], folder: Path) -> tuple[str, ...]:
    """Returns the images' paths in a folder, with `/` on every system; of images elsewhere the file name."""
    return tuple(path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name for path in paths)


def pack_predictions(predictions: Predictions) -> dict[str, Any]:
    """Returns predictions as a JSON object: names first, packed arrays last."""
    values = {each.name: getattr(predictions, each.name) for each in dataclasses.fields(predictions)}
    names = {key: list(value) for key, value in values.items() if key not in predictions._ARRAYS}
    arrays = {key: pack_array(values[key].astype(dtype, copy=False)) for key, (dtype, _) in predictions._ARRAYS.items()}
    return {"format": FORMAT, "version": _VERSION, "task": predictions.task, **names, "arrays": arrays}


def unpack_predictions(document: Any) -> Predictions:
    """Returns what `pack_predictions` packed.

    Raises:
        InputError: the document is not that, is damaged, contradicts itself, or an array is over 256 MiB.
    """
    try:
        stated = convert(document, _Packed, source="predictions", kind=f"the format {FORMAT!r}")
        _require(stated.format == FORMAT, f"not of the format {FORMAT!r}")
        _require(stated.version == _VERSION, f"version {stated.version}, this edgeq reads {_VERSION}")
        kind = _KINDS[stated.task]
        names: dict[str, Any] = {
            each.name: getattr(stated, each.name) for each in dataclasses.fields(kind) if each.name not in kind._ARRAYS
        }
        lengths: dict[str, int] = {"N": len(stated.images)}
        arrays: dict[str, Any] = {
            key: _unpack(key, stated.arrays.get(key), dtype, axes, lengths)
            for key, (dtype, axes) in kind._ARRAYS.items()
        }
        return kind(**names, **arrays)
    except (InputError, ValueError) as error:
        raise InputError(f"its predictions cannot be used: {error}; run `edgeq eval` again") from error


class _Packed(msgspec.Struct):
    """What `pack_predictions` returns."""

    format: str
    version: int
    task: Literal["detection", "classification", "embedding"]
    images: tuple[str, ...]
    arrays: dict[str, PackedArray]
    classes: tuple[str, ...] = ()


def _unpack(name: str, packed: PackedArray | None, dtype: str, axes: str, lengths: dict[str, int]) -> np.ndarray:
    """Returns an array; its axes are digits, or letters for lengths that several arrays share."""
    if packed is None:
        raise ValueError(f"the array {name} is missing")
    shape = packed.shape
    wanted = [int(axis) if axis.isdigit() else lengths.setdefault(axis, length) for axis, length in zip(axes, shape)]  # noqa: B905 - compared below
    fits = list(shape) == wanted and len(shape) == len(axes) and packed.dtype == dtype
    _require(fits, f"{name} is {packed.dtype} {list(shape)}")
    try:
        return unpack_array(packed, _MAX_BYTES)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
