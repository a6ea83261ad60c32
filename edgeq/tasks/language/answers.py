"""Files of answers that another program let a model give: JSON lines, or COCO's results of captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgeq.boundary import parse_json, read_json
from edgeq.errors import InputError, MismatchError
from edgeq.tasks.language.questions import numbered_lines

_KIND = 'JSON lines of {"id", "answer"}, or a list of COCO results {"image_id", "caption"}'
_NAMED = 3


@dataclass(frozen=True)
class AnswersFile:
    """Answers of one model.

    Attributes:
        path: The file.
        answers: Name of a question -> the answer.
        model: What gave them, as the file says; empty if it does not.
        precision: Its precision.
        runtime: The engine that it ran in.
    """

    path: Path
    answers: Mapping[str, str]
    model: str = ""
    precision: str = ""
    runtime: str = ""

    def by_position(self, names: Sequence[str], source: Path) -> dict[int, str]:
        """Returns position of a question -> the answer.

        Args:
            names: Names of the questions, in their order.
            source: Their file, for the error.

        Raises:
            MismatchError: a question has no answer, or an answer no question.
        """
        wanted = set(names)
        for these, complaint in (
            (sorted(wanted - self.answers.keys()), f"{self.path}: does not answer"),
            (sorted(self.answers.keys() - wanted), f"{self.path}: answers what {source} does not ask:"),
        ):
            if these:
                more = f", ... ({len(these):,} in all)" if len(these) > _NAMED else ""
                named = ", ".join(map(repr, these[:_NAMED]))
                raise MismatchError(f"{complaint} {named}{more}; wanted an answer to each of {len(names):,} questions")
        return {position: self.answers[name] for position, name in enumerate(names)}


class _Line(msgspec.Struct):
    """A line: an answer, or in the first one what gave them. POPE calls the answer `text`, COCO `caption`."""

    id: str | int | None = None
    question_id: str | int | None = None
    image_id: str | int | None = None
    answer: str | None = None
    text: str | None = None
    caption: str | None = None
    answers: list[str] | None = None
    model: str = ""
    precision: str = ""
    runtime: str = ""

    @property
    def name(self) -> str | None:
        found = next((each for each in (self.id, self.question_id, self.image_id) if each is not None), None)
        return None if found is None else str(found)

    @property
    def said(self) -> str | None:
        if self.answers is not None:
            return "\n".join(self.answers)
        return next((each for each in (self.answer, self.text, self.caption) if each is not None), None)

    @property
    def is_head(self) -> bool:
        return self.name is None and bool(self.model or self.precision or self.runtime)


def load_answers(source: Path) -> AnswersFile:
    """Returns the answers of a file.

    Args:
        source: JSON lines of `id` (or `question_id`, `image_id`) and `answer` (or `text`, `caption`, or `answers`, a
            list with the likeliest first). A first line without an id may state `model`, `precision` and `runtime`. A
            file that ends in `.json` holds a list of such objects.

    Raises:
        InputError: the file has another form, or answers a question twice.
    """
    if source.suffix.lower() == ".json":
        lines = [(f"$[{number}]", line) for number, line in enumerate(read_json(source, list[_Line], kind=_KIND))]
    else:
        lines = [
            (f"line {number}", parse_json(text.encode(), _Line, source=f"{source}: line {number}", kind=_KIND))
            for number, text in numbered_lines(source, _KIND)
        ]
    head = lines[0][1] if lines and lines[0][1].is_head else _Line()
    answers: dict[str, str] = {}
    for place, line in lines[1:] if head.is_head else lines:
        if line.name is None or line.said is None:
            missing = "'id'" if line.name is None else "'answer'"
            raise InputError(f"{source}: {place} has no {missing}; expected {_KIND}")
        if line.name in answers:
            raise InputError(f"{source}: {place} answers {line.name!r} again; wanted one answer per question")
        answers[line.name] = line.said
    return AnswersFile(source, answers, head.model, head.precision, head.runtime)
