"""What tasks of questions share: their file of questions, and predictions that another program wrote."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, Literal, TypeVar

from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact
from edgeq.files import sha256_json
from edgeq.inputs.items import EncodedImage, image_files
from edgeq.tasks.base import Task
from edgeq.tasks.language.questions import Question, load_questions

if TYPE_CHECKING:
    from typing_extensions import Self

Prediction = TypeVar("Prediction")


@dataclass(frozen=True)
class Given(Generic[Prediction]):
    """What a model said to each question, as a file states it.

    Attributes:
        predictions: Position of a question -> the prediction.
        model: What gave them; empty if the file does not say.
        precision: Its precision.
        runtime: The engine that it ran in.
    """

    predictions: dict[int, Prediction]
    model: str = ""
    precision: str = ""
    runtime: str = ""


class QuestionsTask(Task[Prediction], Generic[Prediction]):
    """A task whose items are questions, with an image each or without.

    Attributes:
        questions: The questions, in the order of their file.
        asks_for: What a model that writes text is asked for: a text, its likeliest next words, how likely it finds a
            given text, or vectors, which it does not give.
    """

    asks_for: ClassVar[Literal["text", "next words", "likelihood", "vectors"]] = "text"

    def __init__(self, source: Path, questions: Sequence[Question], images_dir: Path) -> None:
        # A question without an image is known by its file, which is never opened as an image.
        paths = [images_dir / each.image if each.image else source for each in questions]
        items = [
            item if each.encoded is None else EncodedImage(f"{source}: image of {each.name!r}", each.encoded)
            for item, each in zip(image_files(paths), questions, strict=True)
        ]
        super().__init__(source, items, [each.name for each in questions])
        self.questions = questions

    @classmethod
    def from_files(cls, annotations: Path | None, images_dir: Path, engine: str) -> Self:
        """Returns the task on a file of questions; see `edgeq.tasks.language.questions.load_questions`."""
        if annotations is None:
            raise InputError(f"{cls.name}: scored on questions with their answers; give `truth`")
        return cls(annotations, load_questions(annotations), images_dir)

    def item_digest(self, number: int) -> str:
        """Returns what tells a question from others: several may be about one image."""
        question = self.questions[number]
        return sha256_json([super().item_digest(number), question.name, question.prompt])

    def check(self, artifact: Artifact) -> None:
        """Raises nothing: what a model says shows only once it was asked."""

    @abstractmethod
    def read(self, path: Path) -> Given[Prediction]:
        """Returns what a model said, from a file that another program wrote.

        Raises:
            InputError: the file has another form.
            MismatchError: it is about other questions.
        """
