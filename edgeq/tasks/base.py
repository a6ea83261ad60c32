"""What a task is: a data set with its truth, how a model's outputs are read, and what the predictions are worth."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeq.datasets.split import Split
from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact, Postprocessing
from edgeq.inputs import MAX_UNREADABLE, Item
from edgeq.inputs.items import evenly_spaced, path_of, size_of
from edgeq.inputs.preprocessing import Placement
from edgeq.registry import load_object
from edgeq.results.evaluation import Score, Suspicion
from edgeq.tasks.agreement import ShownImage, compare_findings, from_threshold
from edgeq.tasks.drawing import Canvas
from edgeq.tasks.drawn_findings import draw_findings
from edgeq.tasks.evidence import Finding
from edgeq.tasks.prediction_records import PredictionRecords
from edgeq.tasks.result_files import ResultFile

if TYPE_CHECKING:
    from typing_extensions import Self

Prediction = TypeVar("Prediction")

# Of a large data set, what pictures show of all images would be larger than the rest of a result.
_SHOWN_IMAGES = 200
_SHOWN_FROM = 0.1

Decode = Callable[[Mapping[str, np.ndarray], Postprocessing, Placement], Any]
"""Output name -> array, what the manifest says about decoding, and where the image lies in the input -> a prediction.

It raises `ModelError` if the outputs are not what the decoder wants or no finite numbers, and `InputError` if the
manifest names an unknown role or option.
"""


class Task(ABC, Generic[Prediction]):
    """A data set and how a model does on it. Images are known by their position in `items`.

    A task is one class in one file and one line in `edgeq.tasks.TASKS`. What tables, reports and gates need to know is
    said by its `Score` and `PredictionRecords`, which stand in the same file.

    Attributes:
        name: As results and tables print it.
        score_type: Its scores.
        records_type: Its predictions in a result.
        decoders: Name of a decoder, as presets and manifests give it -> `package.module:function`; see `Decode`.
        needs_reference: Whether a model is scored against its float model's predictions.
        finding_type: What a prediction is shown as; `None` if there is nothing to show of it.
        show_from: Score from which findings are shown; what is scored does not depend on it.
        max_unreadable: Share of the images that may be unreadable.
        source: Where the truth about the images comes from.
        items: The images, not read yet.
        names: What results call each.
    """

    name: ClassVar[str]
    score_type: ClassVar[type[Score]]
    records_type: ClassVar[type[PredictionRecords]]
    decoders: ClassVar[Mapping[str, str]] = {}
    needs_reference: ClassVar[bool] = False
    finding_type: ClassVar[type[Finding] | None] = None
    show_from: ClassVar[float] = 0.3
    max_unreadable: ClassVar[float] = MAX_UNREADABLE

    def __init__(self, source: Path, items: Sequence[Item], names: Sequence[str]) -> None:
        self.source = source
        self.items = items
        self.names = names

    @classmethod
    @abstractmethod
    def from_files(cls, annotations: Path | None, images_dir: Path, engine: str) -> Self:
        """Returns the task on the images of a folder.

        Args:
            annotations: The file or folder that tells the truth about the images.
            images_dir: Folder of the images.
            engine: COCO evaluator, for the task that has several.

        Raises:
            InputError: the data set cannot be used.
            MissingDependencyError: the evaluator is not installed.
        """

    @classmethod
    def from_split(cls, split: Split, engine: str) -> Self:
        """Returns the task on a part of a data set of any format.

        Args:
            split: The images, and what is known about them.
            engine: See `from_files`.

        Raises:
            InputError: it does not tell what the task needs.
            MissingDependencyError: the evaluator is not installed.
        """
        raise InputError(f"{cls.name}: reads no `data`; give `annotations` and `images`")

    @functools.cached_property
    def paths(self) -> Sequence[Path]:
        """The image files; of images in memory their names."""
        return tuple(map(path_of, self.items))

    def item_digest(self, number: int) -> str:
        """Returns what tells an item from others, by its position; raises `InputError` if it cannot be read."""
        return self.items[number].digest()

    @classmethod
    def decoder_names(cls) -> Sequence[str]:
        """Returns the names of the task's decoders, as presets and manifests give them."""
        return tuple(cls.decoders)

    @classmethod
    def find_decoder(cls, name: str) -> Decode | None:
        """Returns the decoder of that name; `None` if it is none of this task's.

        Raises:
            InputError: it is one of this task's and cannot be loaded.
        """
        decode: Decode | None = load_object("decoder", cls.decoders[name]) if name in cls.decoders else None
        return decode

    @abstractmethod
    def check(self, artifact: Artifact) -> None:
        """Raises what would keep an artifact from being scored, as far as that shows before an image is read."""

    def check_reference(self, artifact: Artifact, reference: Artifact) -> None:
        """Raises what would keep an artifact from being compared with its float model; for tasks that want one."""

    def check_image(self, number: int, image: NDArray[np.uint8]) -> None:
        """Raises `InputError` where an image `(H, W, 3)` is not the one that the data set is about."""

    @classmethod
    @abstractmethod
    def to_arrays(cls, prediction: Prediction) -> Mapping[str, np.ndarray]:
        """Returns a prediction as named arrays, each of one of the dtypes of `edgeq.packing`: how a device sends it."""

    @classmethod
    @abstractmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Prediction:
        """Returns the prediction that `to_arrays` took apart.

        Args:
            arrays: What came from a device: finite numbers, and nothing else is sure.

        Raises:
            ValueError: the arrays are not of this task, or contradict each other.
        """

    @classmethod
    def are_alike(cls, first: Prediction, other: Prediction) -> bool:
        """Returns whether two predictions can be of one model, by their form."""
        return True

    @classmethod
    def findings(cls, artifact: Artifact, prediction: Prediction) -> Sequence[Finding]:
        """Returns what a prediction says, for people and other programs, best first; asked if `finding_type` is set.

        Args:
            artifact: The model.
            prediction: What it says about one image.
        """
        raise NotImplementedError(f"{cls.name} has nothing to show")

    def true_findings(self, number: int, artifact: Artifact) -> Sequence[Finding]:
        """Returns what is true of an image, by its position; nothing if the task cannot show that."""
        return ()

    def shown(self, artifact: Artifact, predictions: Mapping[int, Prediction]) -> tuple[ShownImage, ...]:
        """Returns what pictures show of evenly spaced images, for reports, which have neither images nor annotations.

        Args:
            artifact: The model.
            predictions: What it says about each image that could be read.
        """
        if self.records_type.finding_type is None:
            return ()
        images = []
        for number in evenly_spaced(sorted(predictions), _SHOWN_IMAGES):
            width, height = size_of(self.items[number])
            seen = from_threshold(self.findings(artifact, predictions[number]), _SHOWN_FROM)
            truth = tuple(self.true_findings(number, artifact))
            images.append(ShownImage(self.names[number], width, height, seen, truth))
        return tuple(images)

    @classmethod
    def draw(cls, canvas: Canvas, findings: Sequence[Finding]) -> None:
        """Draws findings over an image, see `edgeq.tasks.drawn_findings`.

        Args:
            canvas: What is drawn on.
            findings: What `findings`, `true_findings` or `compare` returned, or a part of it.
        """
        draw_findings(canvas, findings)

    @classmethod
    def compare(
        cls, reference: Sequence[Finding], other: Sequence[Finding], truth: Sequence[Finding] | None
    ) -> tuple[Sequence[Finding], Sequence[Finding]]:
        """Returns the findings of two files on one image, marked by what became of them.

        Those of one class that overlap by half are shared, see `edgeq.tasks.agreement`.

        Args:
            reference: Those of the reference.
            other: Those of the other file.
            truth: What is true of the image; `None` if that is not known.
        """
        return compare_findings(reference, other, truth)

    @classmethod
    def result_files(cls) -> Mapping[str, type[ResultFile]]:
        """Returns name -> writer of each format in which other programs read findings."""
        return {}

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

    def suspicions(
        self, artifact: Artifact, predictions: Mapping[int, Prediction], score: Score
    ) -> Sequence[Suspicion]:
        """Returns what is odd about predictions and their score, as a wrong preset makes it; by default nothing.

        Args:
            artifact: The model.
            predictions: What it says about each image that could be read.
            score: What `score` returned.
        """
        return ()

    def one_answer(self, artifact: Artifact, numbers: Sequence[int]) -> Mapping[int, Prediction] | None:
        """Returns the one answer to all images that is right most often, for each of them; `None` if there is none.

        Args:
            artifact: The model.
            numbers: Positions of the images.
        """
        return None

    @abstractmethod
    def per_image(
        self, artifact: Artifact, predictions: Mapping[int, Prediction], reference: Mapping[int, Prediction]
    ) -> PredictionRecords:
        """Returns what reports and gates need of each image; takes what `score` takes."""


class ArrayTask(Task[NDArray[Any]]):
    """A task with one decoder, whose predictions are arrays of one dtype and, for one model, of one shape.

    Attributes:
        decoder: Name of the decoder.
        dtype: Of the predictions.
        axes: Number of their axes.
    """

    decoder: ClassVar[str]
    dtype: ClassVar[str]
    axes: ClassVar[int] = 1

    @staticmethod
    @abstractmethod
    def decode(outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement) -> NDArray[Any]:
        """Returns what a model's outputs say about one image, see `Decode`."""

    @classmethod
    def decoder_names(cls) -> Sequence[str]:
        """Returns the name of the decoder."""
        return (cls.decoder,)

    @classmethod
    def find_decoder(cls, name: str) -> Decode | None:
        """Returns `decode` by its name."""
        return cls.decode if name == cls.decoder else None

    @classmethod
    def to_arrays(cls, prediction: NDArray[Any]) -> Mapping[str, np.ndarray]:
        """Returns the array under the name `array`."""
        return {"array": prediction}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> NDArray[Any]:
        """Returns the array.

        Raises:
            ValueError: there are others, or it is of another dtype or number of axes.
        """
        if arrays.keys() != {"array"}:
            raise ValueError(f"the arrays {', '.join(arrays)}")
        array = arrays["array"]
        if array.dtype != cls.dtype or array.ndim != cls.axes:
            raise ValueError(f"an array {array.dtype} {array.shape}")
        return array

    @classmethod
    def are_alike(cls, first: NDArray[Any], other: NDArray[Any]) -> bool:
        """Returns whether both are of one shape."""
        return first.shape == other.shape


@dataclass(frozen=True)
class Decoder:
    """How the outputs of a model are read.

    Attributes:
        task: The task that the decoder belongs to.
        decode: From outputs to the task's prediction.
    """

    task: type[Task[Any]]
    decode: Decode
