"""What a model said about each image, packed into a result of `edgeq eval`, with the truth beside it.

A report or a gate needs neither the annotations nor the images then: scores can be computed anew over any choice of the
images. In JSON, arrays are packed by `edgeq.packing`.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeq.boundary import Positive, convert
from edgeq.errors import InputError
from edgeq.packing import PackedArray, pack_array, unpack_array
from edgeq.results.serialization import to_json
from edgeq.tasks.agreement import ShownImage, most_different_shown
from edgeq.tasks.evidence import Diagnosis, Example, Finding, ScoreCurve, require

FORMAT = "edgeq-predictions"
_VERSION = 1
# The detections of COCO's 5,000 validation images by a detector that never says no take a tenth of it.
_MAX_BYTES = 1 << 28


@dataclass(frozen=True, eq=False)
class _WithPictures:
    """What every task's records have besides their own fields, which come first.

    Attributes:
        shown: What pictures show of some of the images.
    """

    shown: tuple[ShownImage, ...] = dataclasses.field(default=(), kw_only=True)


class PredictionRecords(_WithPictures, ABC):
    """Predictions of one file on the images of a data set, with the truth; a task's own is a frozen dataclass.

    Its fields are tuples of names and the arrays of `arrays`. `__post_init__` raises `ValueError` (see `require`) if
    they contradict each other.

    Attributes:
        task: Name of the task.
        arrays: Field -> its dtype and its axes: digits, or letters for lengths that several arrays share; `N` is the
            number of images.
        finding_type: What pictures show of it, if the arrays do not say; `None` if they do, or nothing is shown.
        images: File names of the images.
    """

    task: ClassVar[str]
    arrays: ClassVar[Mapping[str, tuple[str, str]]]
    finding_type: ClassVar[type[Finding] | None] = None
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

    def diagnosis(self, threshold: float) -> Diagnosis | None:
        """Returns in what the file is wrong; `None` if that is no question of the task.

        Args:
            threshold: Score from which a prediction counts where one has to be chosen.
        """
        return None

    def most_different(self, other: Any, threshold: float, count: int) -> Sequence[Example]:
        """Returns the images on which two files differ most, the worst first; none if the task cannot draw them.

        By default they are looked for among those of which both records say what pictures show.

        Args:
            other: Predictions of the other file, on the same images.
            threshold: Score from which a prediction of either counts.
            count: Most images.
        """
        return most_different_shown(self.shown, other.shown, threshold, count)


Records = TypeVar("Records", bound=PredictionRecords)


def pack_predictions(predictions: PredictionRecords) -> dict[str, Any]:
    """Returns predictions as a JSON object: names first, packed arrays last."""
    values = {name: getattr(predictions, name) for name in _fields(type(predictions))}
    names = {key: list(value) for key, value in values.items() if key not in predictions.arrays}
    arrays = {key: pack_array(values[key].astype(dtype, copy=False)) for key, (dtype, _) in predictions.arrays.items()}
    packed = {"format": FORMAT, "version": _VERSION, "task": predictions.task, **names, "arrays": arrays}
    return packed | ({"shown": to_json(predictions.shown)} if predictions.shown else {})


def unpack_predictions(document: Any, kind: type[Records]) -> Records:
    """Returns what `pack_predictions` packed.

    Args:
        document: JSON values.
        kind: The records of the task that the result is of.

    Raises:
        InputError: the document is not that, is damaged, contradicts itself, or an array is over 256 MiB.
    """
    try:
        stated = convert(document, _Packed, source="predictions", kind=f"the format {FORMAT!r}")
        require(stated.format == FORMAT, f"not of the format {FORMAT!r}")
        require(stated.version == _VERSION, f"version {stated.version}, this edgeq reads {_VERSION}")
        require(stated.task == kind.task, f"they are for {stated.task!r}, its scores for {kind.task!r}")
        given = {key: document.get(key, ()) for key in _fields(kind) if key not in kind.arrays}
        names = convert(given, dict[str, tuple[str, ...]], source="predictions", kind="lists of names")
        lengths: dict[str, int] = {"N": len(names["images"])}
        arrays: dict[str, Any] = {
            key: _unpack(key, stated.arrays.get(key), dtype, axes, lengths)
            for key, (dtype, axes) in kind.arrays.items()
        }
        return kind(**names, **arrays, shown=_shown(document.get("shown", []), kind))
    except (InputError, ValueError) as error:
        raise InputError(f"its predictions cannot be used: {error}; run `edgeq eval` again") from error


class _Packed(msgspec.Struct):
    """What `pack_predictions` returns, but for the names, whose keys are the task's."""

    format: str
    version: int
    task: str
    images: tuple[str, ...]
    arrays: dict[str, PackedArray]


def _fields(kind: Any) -> list[str]:
    return [each.name for each in dataclasses.fields(kind) if each.name != "shown"]


class _Shown(msgspec.Struct):
    """A `ShownImage`, but for its findings, whose type is the task's."""

    image: str
    width_px: Positive
    height_px: Positive
    found: list[Any]
    truth: list[Any]


def _shown(stated: Any, kind: type[PredictionRecords]) -> tuple[ShownImage, ...]:
    finding = kind.finding_type
    if finding is None:
        return ()
    images = convert(stated, list[_Shown], source="predictions", kind="what pictures show")
    sides = [
        [convert(side, tuple[finding, ...], source="predictions", kind="findings") for side in (each.found, each.truth)]  # type: ignore[valid-type]
        for each in images
    ]
    return tuple(
        ShownImage(each.image, each.width_px, each.height_px, found, truth)
        for each, (found, truth) in zip(images, sides, strict=True)
    )


def _unpack(name: str, packed: PackedArray | None, dtype: str, axes: str, lengths: dict[str, int]) -> np.ndarray:
    """Returns an array; its axes are digits, or letters for lengths that several arrays share."""
    if packed is None:
        raise ValueError(f"the array {name} is missing")
    shape = packed.shape
    wanted = [int(axis) if axis.isdigit() else lengths.setdefault(axis, length) for axis, length in zip(axes, shape)]  # noqa: B905 - compared below
    fits = list(shape) == wanted and len(shape) == len(axes) and packed.dtype == dtype
    require(fits, f"{name} is {packed.dtype} {list(shape)}")
    try:
        return unpack_array(packed, _MAX_BYTES)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
