"""What a model said about each image, packed into a result of `edgeq eval`, with the truth beside it.

A report or a gate needs neither the annotations nor the images then: scores can be computed anew over any choice of the
images. In JSON, arrays are packed by `edgeq.packing`.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import InputError
from edgeq.packing import pack_array, unpack_array
from edgeq.tasks.evidence import Example, ScoreCurve

FORMAT = "edgeq-predictions"
_VERSION = 1
# The detections of COCO's 5,000 validation images by a detector that never says no take a tenth of it.
_MAX_BYTES = 1 << 28


class PredictionRecords(ABC):
    """Predictions of one file on the images of a data set, with the truth; a task's own is a frozen dataclass.

    Its fields are tuples of names and the arrays of `arrays`. `__post_init__` raises `ValueError` (see `require`) if
    they contradict each other.

    Attributes:
        task: Name of the task.
        arrays: Field -> its dtype and its axes: digits, or letters for lengths that several arrays share; `N` is the
            number of images.
        images: File names of the images.
    """

    task: ClassVar[str]
    arrays: ClassVar[Mapping[str, tuple[str, str]]]
    images: tuple[str, ...]

    @abstractmethod
    def resampled(self, name: str) -> NDArray[np.float64]:
        """Returns a number of the score over each choice of the images `(1 + RESAMPLES,)`, see `resampling.draws`.

        Args:
            name: The main number of the task's `Score`, or one of its parts.
        """

    def resampled_classes(self) -> NDArray[np.float64]:
        """Returns the score of each class `(classes, 1 + RESAMPLES)`, in the order of `Score.classes`.

        NaN if a choice holds nothing of a class. Only tasks with classes are asked.
        """
        raise NotImplementedError(f"{self.task} has no classes")

    def has_truth_of(self, other: PredictionRecords) -> bool:
        """Returns whether both are about the same images with the same truth."""
        return type(self) is type(other) and self.images == other.images

    def curve(self) -> ScoreCurve | None:
        """Returns how the score depends on a threshold; `None` if that is no question of the task."""
        return None

    def most_different(self, other: Any, threshold: float, count: int) -> Sequence[Example]:
        """Returns the images on which two files differ most, the worst first; none if the task cannot draw them.

        Args:
            other: Predictions of the other file, on the same images.
            threshold: Score from which a prediction of either counts.
            count: Most images.
        """
        return ()


Records = TypeVar("Records", bound=PredictionRecords)


def require(holds: bool, otherwise: str) -> None:
    """Raises `ValueError` with the text unless the condition holds."""
    if not holds:
        raise ValueError(otherwise)


def pack_predictions(predictions: PredictionRecords) -> dict[str, Any]:
    """Returns predictions as a JSON object: names first, packed arrays last."""
    values = {name: getattr(predictions, name) for name in _fields(type(predictions))}
    names = {key: list(value) for key, value in values.items() if key not in predictions.arrays}
    arrays = {key: pack_array(values[key].astype(dtype, copy=False)) for key, (dtype, _) in predictions.arrays.items()}
    return {"format": FORMAT, "version": _VERSION, "task": predictions.task, **names, "arrays": arrays}


def unpack_predictions(document: Any, kind: type[Records]) -> Records:
    """Returns what `pack_predictions` packed.

    Args:
        document: JSON values.
        kind: The records of the task that the result is of.

    Raises:
        InputError: the document is not that, is damaged, contradicts itself, or an array is over 256 MiB.
    """
    try:
        require(document["format"] == FORMAT, f"not of the format {FORMAT!r}")
        require(document["version"] == _VERSION, f"version {document['version']!r}, this edgeq reads {_VERSION}")
        require(document["task"] == kind.task, f"they are for {document['task']!r}, its scores for {kind.task!r}")
        names: dict[str, Any] = {key: _names(key, document[key]) for key in _fields(kind) if key not in kind.arrays}
        lengths: dict[str, int] = {"N": len(names["images"])}
        arrays: dict[str, Any] = {
            key: _unpack(key, document["arrays"][key], dtype, axes, lengths)
            for key, (dtype, axes) in kind.arrays.items()
        }
        return kind(**names, **arrays)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{error.args[0]!r} is missing or unknown" if isinstance(error, KeyError) else str(error)
        raise InputError(f"its predictions cannot be used: {reason}; run `edgeq eval` again") from error


def _fields(kind: Any) -> list[str]:
    return [each.name for each in dataclasses.fields(kind)]


def _unpack(name: str, packed: Mapping[str, Any], dtype: str, axes: str, lengths: dict[str, int]) -> np.ndarray:
    """Returns an array; its axes are digits, or letters for lengths that several arrays share."""
    shape: Sequence[int] = packed["shape"]
    wanted = [int(axis) if axis.isdigit() else lengths.setdefault(axis, length) for axis, length in zip(axes, shape)]  # noqa: B905 - compared below
    fits = all(type(length) is int and length >= 0 for length in shape) and list(shape) == wanted
    require(fits and len(shape) == len(axes) and packed["dtype"] == dtype, f"{name} is {packed['dtype']} {shape}")
    try:
        return unpack_array(packed, _MAX_BYTES)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _names(key: str, found: Any) -> tuple[str, ...]:
    require(isinstance(found, list) and all(isinstance(name, str) for name in found), f"{key} are no names")
    return tuple(found)
