"""Questions with the answers of people, as files state them: JSON lines, or COCO captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from edgeq.boundary import parse_json, read_json, read_text
from edgeq.errors import InputError

_KIND = 'JSON lines of {"id", "image", "answers"}, or COCO captions'


@dataclass(frozen=True)
class Question:
    """Something that a model is asked.

    Attributes:
        name: Its id, as a text.
        image: File of the image within the folder of images; empty for a question without one.
        answers: What people answered, or the one right answer.
        prompt: What is asked, for a model that answers here; empty where another program has asked it.
        encoded: The image's file as bytes, if it is stored with the question.
    """

    name: str
    image: str
    answers: tuple[str, ...]
    prompt: str = ""
    encoded: memoryview | None = field(default=None, repr=False)


class _Person(msgspec.Struct):
    """An answer as VQA's annotations have it."""

    answer: str


class QuestionLine(msgspec.Struct):
    """A line of a file of questions; POPE calls the id `question_id`, the question `text` and the answer `label`."""

    id: str | int | None = None
    question_id: str | int | None = None
    image: str = ""
    answers: list[str | _Person] = msgspec.field(default_factory=list)
    answer: str | None = None
    label: str | None = None
    prompt: str = ""
    question: str = ""
    text: str = ""

    @property
    def name(self) -> str | int | None:
        """Its id."""
        return self.question_id if self.id is None else self.id

    @property
    def texts(self) -> tuple[str, ...]:
        """What people answered."""
        single = self.label if self.answer is None else self.answer
        several = tuple(each if isinstance(each, str) else each.answer for each in self.answers)
        return several or (() if single is None else (single,))

    @property
    def asked(self) -> str:
        """What is asked."""
        return self.prompt or self.question or self.text


class _CocoImage(msgspec.Struct):
    id: int
    file_name: str = ""


class _CocoCaption(msgspec.Struct):
    image_id: int
    caption: str


class _Coco(msgspec.Struct):
    images: list[_CocoImage]
    annotations: list[_CocoCaption]


def load_questions(source: Path) -> tuple[Question, ...]:
    """Returns the questions of a file, in its order.

    Args:
        source: JSON lines with `id` (or `question_id`), `image`, `prompt` (or `question`, `text`), and `answers`,
            `answer` or `label`; VQA's answers may be objects with an `answer`. A file that ends in `.json` holds COCO
            captions: a question per image. A folder is a data set that Hugging Face's `datasets` saved, see
            `edgeq.tasks.language.arrow_folder`.

    Raises:
        InputError: the file has another form, an id is missing or stated twice, or a question has no answer.
    """
    questions = _questions(source)
    seen: set[str] = set()
    for each in questions:
        if each.name in seen:
            raise InputError(f"{source}: states {each.name!r} twice; wanted one line per question")
        if not each.answers:
            raise InputError(f"{source}: {each.name!r} has no answer; expected {_KIND}")
        seen.add(each.name)
    if not questions:
        raise InputError(f"{source}: holds no questions; expected {_KIND}")
    return questions


def _questions(source: Path) -> tuple[Question, ...]:
    if source.is_dir():
        from edgeq.tasks.language.arrow_folder import read_arrow_folder

        return tuple(
            Question(str(line.name), line.image, line.texts, line.asked, encoded)
            for line, encoded in read_arrow_folder(source)
        )
    return _captions(source) if source.suffix.lower() == ".json" else _lines(source)


def _lines(source: Path) -> tuple[Question, ...]:
    found = []
    for number, text in numbered_lines(source, _KIND):
        line = parse_json(text.encode(), QuestionLine, source=f"{source}: line {number}", kind=_KIND)
        if line.name is None:
            raise InputError(f"{source}: line {number} has no 'id'; expected {_KIND}")
        found.append(Question(str(line.name), line.image, line.texts, line.asked))
    return tuple(found)


def numbered_lines(source: Path, kind: str) -> Sequence[tuple[int, str]]:
    """Returns the lines of a text file that are not empty, with their numbers from 1.

    Args:
        source: The file.
        kind: What it should be, for the error.

    Raises:
        InputError: it cannot be read.
    """
    lines = enumerate(read_text(source, kind=kind).split("\n"), start=1)
    return [(number, line) for number, line in lines if line.strip()]


def _captions(source: Path) -> tuple[Question, ...]:
    coco = read_json(source, _Coco, kind="COCO captions")
    captions: dict[int, list[str]] = {each.id: [] for each in coco.images}
    for each in coco.annotations:
        if each.image_id not in captions:
            raise InputError(f"{source}: a caption is about image {each.image_id}, which it does not list")
        captions[each.image_id].append(each.caption)
    return tuple(Question(str(each.id), each.file_name, tuple(captions[each.id])) for each in coco.images)
