"""`edgeq eval` and `edgeq bench` of bundles: parse, call a verb, print."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import edgeq
from edgeq.cli.options import require_writable_json, write_json_file
from edgeq.cli.printing import say
from edgeq.cli.score import print_scored

if TYPE_CHECKING:
    from edgeq.results.measurement import BenchResult

_PANEL = "Bundles"

NOT_FOR_BUNDLES = "is for models in one file, not for bundles"
FOR_BUNDLES = "is for bundles, and none is named"

TaskOption = Annotated[
    str | None,
    typer.Option(
        "--task",
        help="What the bundles are asked: transcription, vqa, captioning, object-presence, last-word or perplexity. "
        "--data names the questions.",
        rich_help_panel=_PANEL,
    ),
]
PromptOption = Annotated[
    str,
    typer.Option(
        "--prompt",
        metavar="TEXT",
        help="Prompt with {question} and <image> in their places; by default the image, then the question.",
        rich_help_panel=_PANEL,
    ),
]
MaxTokens = Annotated[
    int, typer.Option("--max-tokens", min=1, help="Maximum tokens of an answer.", rich_help_panel=_PANEL)
]
Beams = Annotated[
    int, typer.Option("--beams", min=1, help="Width of beam search; 1 is greedy search.", rich_help_panel=_PANEL)
]
Batch = Annotated[
    int, typer.Option("--batch", min=1, help="Questions per greedy run of the model.", rich_help_panel=_PANEL)
]
Stride = Annotated[
    int | None,
    typer.Option(
        "--stride",
        min=1,
        metavar="TOKENS",
        help="Step of the windows over long texts, for perplexity; by default half of the model's context.",
        rich_help_panel=_PANEL,
    ),
]
AnswersDir = Annotated[
    Path,
    typer.Option("--answers", metavar="DIR", help="Folder for the answers of each bundle.", rich_help_panel=_PANEL),
]
PromptTokens = Annotated[
    int, typer.Option("--prompt-tokens", min=1, help="Tokens of the prompt.", rich_help_panel=_PANEL)
]
NewTokens = Annotated[int, typer.Option("--new-tokens", min=2, help="Tokens that follow it.", rich_help_panel=_PANEL)]


def any_bundle(paths: Sequence[Path]) -> bool:
    """Returns whether one of the paths is a bundle."""
    from edgeq.bundles.manifest import is_bundle

    return any(map(is_bundle, paths))


def evaluate_bundles(
    paths: Sequence[Path],
    *,
    task: str | None,
    data: Path | None,
    images: Path | None,
    runtimes: Sequence[str],
    threads: int | None,
    template: str,
    max_tokens: int,
    beams: int,
    batch: int,
    stride: int | None,
    answers: Path,
    json_file: Path | None,
) -> None:
    """Has bundles answer questions, and prints and writes their scores.

    Raises:
        InputError: `--task` or `--data` is missing, or there are several engines.
    """
    from edgeq.errors import InputError
    from edgeq.generation.answers import AnswerOptions
    from edgeq.results.serialization import to_json
    from edgeq.verbs import bundles

    if task is None or data is None:
        raise InputError("a bundle answers questions; give --task, and --data with the questions")
    if len(runtimes) > 1:
        raise InputError(f"--runtime {', '.join(runtimes)}: a bundle is scored in one engine at a time; name one")
    require_writable_json(json_file)
    options = AnswerOptions(max_tokens, beams, batch, stride)
    scored = bundles.evaluate_bundles(
        paths, task, data, images=images, answers=answers, runtime=next(iter(runtimes), None), threads=threads,
        template=template, options=options,
    )  # fmt: skip
    print_scored(scored)
    say(f"answers in {answers}")
    command = shlex.join(["edgeq", *sys.argv[1:]])
    results = [dataclasses.replace(each.result, edgeq=edgeq.__version__, command=command) for each in scored]
    write_json_file(json_file, to_json(results[0] if len(results) == 1 else results))


def print_speed(results: Sequence[BenchResult]) -> None:
    """Prints a row per bundle and engine."""
    from edgeq.cli.console import print_table

    parts = list(dict.fromkeys(name for each in results if each.generation for name in each.generation.part_bytes))
    rows = [
        (
            *("bundle", "runtime", "prefill ms", "image ms", "ms / token", "tokens / s", "time / FP32"),
            *("size MB", "memory MB", *(f"{part} MB" for part in parts)),
        )
    ]
    for each in results:
        speed = each.generation
        if speed is None:
            continue
        rows.append(
            (
                each.artifact,
                each.runtime,
                f"{speed.prefill_ms:.2f}",
                "-" if speed.images_ms is None else f"{speed.images_ms:.2f}",
                f"{'' if each.stable else '~'}{each.latency_ms.p50:.3f}",
                f"{speed.tokens_per_s:.1f}",
                "-" if each.ratio_to_fp32 is None else f"{each.ratio_to_fp32:.2f}",
                f"{(each.size_bytes or 0) / 1e6:.2f}",
                f"{(each.peak_rss_bytes or 0) / 1e6:.0f}",
                *(f"{speed.part_bytes.get(part, 0) / 1e6:.1f}" for part in parts),
            )
        )
    print_table(rows)
    first = next(each.generation for each in results if each.generation)
    say(
        f"{first.new_tokens} tokens after a prompt of {first.prompt_tokens}; memory: the process, and its growth as "
        "each part was opened"
    )
