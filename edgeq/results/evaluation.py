"""`EvalResult`: how well one file does in one engine on one device, with the `Score` of its task."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, TypeVar

from edgeq.boundary import Count, Positive
from edgeq.exporting.signal.ratio import LayerSignal
from edgeq.results.environment import Environment
from edgeq.results.serialization import INLINE, OMIT_EMPTY, RESULTS_VERSION


@dataclass(frozen=True)
class ScoreColumn:
    """A column of tables that holds a number of a task's scores.

    Attributes:
        name: The number's name in a result.
        title: Heading of the column.
        in_report: Whether `edgeq report` shows it, too, and not only `edgeq eval`.
    """

    name: str
    title: str
    in_report: bool = True


@dataclass(frozen=True)
class ClassFigures:
    """Scores of one class, as tables and comparisons take them.

    Attributes:
        name: Name of the class.
        support: How often it occurs; `None` if the result does not say.
        values: Its scores, 0..1, in the order of the titles behind the first of `Score.class_titles`. The first one is
            what a class is compared by; `None` if there is nothing to count.
    """

    name: str
    support: int | None
    values: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class Score:
    """What the scores of all tasks have in common; each task has its own subclass, next to its `edgeq.tasks.base.Task`.

    The fields of a subclass are the keys of a result. What tables, reports and gates need to know about them is in the
    class attributes.

    Attributes:
        task: Name of the task.
        main: Name of the number that files are compared by.
        figures: What a sentence calls the numbers ("AP and AR").
        columns: The numbers that tables show, in order; `main` is among them.
        lower_is_better: Whether `main` is an error, of which a better file has less.
        perfect: What `main` is for a file that equals FP32, if it is a comparison with FP32 already.
        parts: Names of numbers that are `main` over a part of the data; reports show their drops, too.
        parts_by: What tells the parts apart ("size of the boxes").
        class_titles: What a class is counted in ("boxes"), and the titles of its scores; empty for a task without
            classes.
    """

    task: ClassVar[str]
    main: ClassVar[str]
    figures: ClassVar[str]
    columns: ClassVar[tuple[ScoreColumn, ...]]
    lower_is_better: ClassVar[bool] = False
    perfect: ClassVar[float | None] = None
    parts: ClassVar[tuple[str, ...]] = ()
    parts_by: ClassVar[str] = ""
    class_titles: ClassVar[tuple[str, ...]] = ()

    @property
    def numbers(self) -> dict[str, float | None]:
        """Every number by its name in a result; `None` if there is nothing to count."""
        values = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if value is None or isinstance(value, (int, float))}

    @property
    def main_value(self) -> float | None:
        """The number that files are compared by."""
        return self.numbers[self.main]

    @property
    def classes(self) -> tuple[ClassFigures, ...]:
        """The scores of each class; empty for a task without classes."""
        return ()

    @classmethod
    def title(cls, name: str) -> str:
        """Returns what people call a number."""
        titles = {column.name: column.title for column in cls.columns}
        return titles.get(name, name.replace("_", " "))


@dataclass(frozen=True, kw_only=True)
class ReferenceModel:
    """The float model that embeddings are compared with.

    Attributes:
        artifact: File name.
        digest: SHA-256 of the file.
        runtime: Name of the runtime that ran it.
    """

    artifact: str
    digest: str
    runtime: str


@dataclass(frozen=True, kw_only=True)
class Suspicion:
    """Something odd about the figures of a file, most often a preset that does not fit.

    Attributes:
        text: What is odd, the likely cause, and what to do next.
        meaningless: Whether the figures are certainly meaningless.
    """

    text: str
    meaningless: bool = False


ScoreT_co = TypeVar("ScoreT_co", bound=Score, covariant=True)


@dataclass(frozen=True, kw_only=True)
class EvalResult(Generic[ScoreT_co]):
    """One file, in one engine, on one device, scored on images.

    Attributes:
        artifact: File name.
        digest: SHA-256 of the file.
        source_digest: Digest of the float graph that it was made from.
        target: Target that it was written for; empty for a file of another tool.
        runtime: Name of the runtime.
        precision: Precision of the file, as its manifest states it.
        task: Name of the task: one of `edgeq.tasks.TASKS`, such as `detection`, or one that was added.
        images: How many images were scored.
        score: The numbers of the task; their keys are part of the result.
        reference: The float model that embeddings are compared with; only for embeddings.
        suspicions: What is odd about the figures; absent if nothing is.
        skipped_images: Names of the images that could not be read.
        inference_images_per_s: Images per second in the engine alone; `None` unless measured.
        eval_images_per_s: Images per second from file to prediction; `None` unless measured.
        annotations: Name of the file or folder that holds the truth.
        environment: Engine, settings and machine.
        signal: How much of the float model's signal is left at each of its layers, as its manifest states it; absent if
            it states nothing.
        obtained: `measured`, `simulated` or `emulated`.
        device: Name of the device; absent if the file was run from Python.
        edgeq: Version of edgeq that scored it.
        command: The command that scored it.
        results_version: Version of this form.
        diagnosis: In what the file is wrong: kinds of error, confused classes, precision by recall and
            reliability (`edgeq.tasks.evidence.Diagnosis`); only from `edgeq eval --save-worst`.
        predictions: What was found in each image and the truth, packed by `edgeq.tasks.prediction_records`; `None`
            without them.
    """

    artifact: str
    digest: str = ""
    source_digest: str = ""
    target: str = ""
    runtime: str
    precision: str
    task: str = ""
    images: Count | None = None
    score: ScoreT_co = field(metadata=INLINE)
    reference: ReferenceModel | None = field(default=None, metadata=OMIT_EMPTY)
    suspicions: tuple[Suspicion, ...] = field(default=(), metadata=OMIT_EMPTY)
    skipped_images: tuple[str, ...] = ()
    inference_images_per_s: float | None = None
    eval_images_per_s: float | None = None
    annotations: str | None = None
    environment: Environment = field(default_factory=Environment)
    signal: tuple[LayerSignal, ...] = field(default=(), metadata=OMIT_EMPTY)
    obtained: Literal["measured", "simulated", "emulated"] = "measured"
    device: str | None = field(default=None, metadata=OMIT_EMPTY)
    edgeq: str | None = field(default=None, metadata=OMIT_EMPTY)
    command: str | None = field(default=None, metadata=OMIT_EMPTY)
    results_version: Positive = RESULTS_VERSION
    diagnosis: Mapping[str, Any] | None = field(default=None, metadata=OMIT_EMPTY)
    predictions: Mapping[str, Any] | None = field(default=None, metadata=OMIT_EMPTY)
