"""Files of questions and answers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import edgeq


def write_lines(path: Path, lines: Iterable[Any]) -> Path:
    """Returns a file of JSON lines."""
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def write_pair(
    folder: Path, questions: dict[str, Any], answers: dict[str, Any], name: str = "answers"
) -> tuple[Path, Path]:
    """Returns a file of answers and one of questions.

    Args:
        folder: Where they lie.
        questions: Id -> the answers of people.
        answers: Id -> the answer of a model.
        name: Name of the file of answers.
    """
    truth = write_lines(folder / "truth.jsonl", ({"id": key, "answers": people} for key, people in questions.items()))
    key = "answers" if any(isinstance(each, list) for each in answers.values()) else "answer"
    given = write_lines(folder / f"{name}.jsonl", ({"id": number, key: answer} for number, answer in answers.items()))
    return given, truth


def score_all(*arguments: Any) -> list[Any]:
    """Returns what `edgeq.score` does, with scores of any task."""
    return list(edgeq.score(*arguments))
