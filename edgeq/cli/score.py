"""`edgeq score`: parses, calls a verb, prints. `edgeq.cli.app` registers it."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import edgeq
from edgeq.cli.options import JsonFile, require_writable_json, write_json_file
from edgeq.cli.printing import say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeq.verbs.score import ScoredAnswers


def score(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="ANSWERS...",
            help='JSON lines {"id", "answer"} of one model each, of retrieval .npz; the first is the reference.',
        ),
    ],
    task: Annotated[
        str,
        typer.Option(
            help="transcription, vqa, captioning, object-presence, last-word, perplexity or retrieval; docs/tasks.md "
            "says what the files of each hold."
        ),
    ],
    truth: Annotated[
        Path, typer.Option(metavar="FILE", help='JSON lines {"id", "image", "answers"}, or COCO captions.')
    ],
    images: Annotated[
        Path | None, typer.Option(help="Folder of the questions' images; by default that of FILE.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Score answers of language and vision-language models, with intervals of their differences."""
    from edgeq.results.serialization import to_json
    from edgeq.verbs.score import score_answers

    require_writable_json(json_file)
    scored = score_answers(files, task, truth, images=images)
    print_scored(scored)
    command = shlex.join(["edgeq", *sys.argv[1:]])
    results = [dataclasses.replace(each.result, edgeq=edgeq.__version__, command=command) for each in scored]
    write_json_file(json_file, to_json(results[0] if len(results) == 1 else results))


def print_scored(scored: Sequence[ScoredAnswers]) -> None:
    """Prints a row per file: its numbers, the interval of the first one, and how it differs from the first file."""
    from edgeq.cli.console import print_table

    columns = scored[0].result.score.columns
    main = scored[0].result.score.title(scored[0].result.score.main)
    rows = [("answers", *(column.title for column in columns), f"{main}, 95 %", "difference", "95 %")]
    for each in scored:
        numbers = each.result.score.numbers
        rows.append(
            (
                each.result.artifact,
                *(_number(numbers[column.name]) for column in columns),
                _range(each.low, each.high, ".4f"),
                "-" if each.difference is None else f"{each.difference:+.4f}",
                _range(each.difference_low, each.difference_high, "+.4f"),
            )
        )
    print_table(rows)
    result = scored[0].result
    say(
        f"{result.score.figures} over {result.images:,} questions of {result.annotations}; intervals by a paired "
        "bootstrap over the questions"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _range(low: float | None, high: float | None, form: str) -> str:
    return "-" if low is None or high is None else f"{low:{form}} to {high:{form}}"
