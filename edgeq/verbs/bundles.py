"""`edgeq eval` and `edgeq bench` of bundles: what a model in parts answers, and how fast."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeq.bundles.manifest import MANIFEST_NAME, Bundle, is_bundle
from edgeq.errors import EngineError, InputError
from edgeq.files import sha256_file, write_text
from edgeq.generation.answers import AnswerOptions, answered
from edgeq.generation.benchmark import GenerationSampling, bench_bundles
from edgeq.generation.model import GeneratingModel
from edgeq.generation.parts import OpenParts, precision_of
from edgeq.generation.prompts import PromptMaker
from edgeq.generation.tokenizer import tokenizer_of
from edgeq.progress import labelled, progress_bar
from edgeq.results.environment import Environment, parse_environment
from edgeq.results.measurement import BenchResult
from edgeq.tasks import get_task
from edgeq.tasks.language.questions_task import QuestionsTask
from edgeq.verbs.score import ScoredAnswers, question_tasks, score_answers


def open_bundles(paths: Sequence[Path]) -> list[Bundle]:
    """Returns the bundles of folders.

    Raises:
        InputError: a path is no bundle, or two bundles have one name.
        MismatchError: a file of one is not the one that its manifest describes.
    """
    if others := [path for path in paths if not is_bundle(path)]:
        raise InputError(
            f"{others[0]}: is not a bundle; wanted folders with {MANIFEST_NAME}, and no other files with them"
        )
    bundles = [Bundle.load(path) for path in paths]
    names = [_name(bundle) for bundle in bundles]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"several bundles are called {twice[0]!r}; rename a folder, so that results can be told apart")
    return bundles


def evaluate_bundles(
    paths: Sequence[Path],
    task: str,
    questions: Path,
    *,
    images: Path | None = None,
    answers: Path,
    runtime: str | None = None,
    threads: int | None = None,
    template: str = "",
    options: AnswerOptions | None = None,
) -> list[ScoredAnswers]:
    """Returns the score of what each bundle answers; the first one is what the others are compared with.

    Args:
        paths: Folders of bundles.
        task: Name of a task of questions.
        questions: See `edgeq.tasks.language.questions.load_questions`.
        images: Folder of the images; by default that of `questions`.
        answers: Folder for the files of answers, `NAME.jsonl` each, as `edgeq score` reads them.
        runtime: `onnxruntime` or `openvino`; by default the first one of a bundle's target.
        threads: CPU threads.
        template: The prompt, with `{question}` and `<image>`; by default the image, then the question.
        options: How questions are answered.

    Raises:
        InputError: the task is not about questions, a file cannot be used, or a prompt is too long for the model.
        EngineError: an engine cannot run a part.
    """
    kind: Any = get_task(task)
    if not issubclass(kind, QuestionsTask):
        raise InputError(f"`task` {task!r} is not about questions; known: {', '.join(question_tasks())}")
    folder = images or (questions if questions.is_dir() else questions.parent)
    opened: QuestionsTask[Any] = kind.from_files(questions, folder, "")
    bundles = open_bundles(paths)
    answers.mkdir(parents=True, exist_ok=True)
    given = []
    for bundle in bundles:
        with labelled(_name(bundle)):
            given.append(_answer(bundle, opened, answers, runtime, threads, template, options or AnswerOptions()))
    scored = score_answers([each.path for each in given], task, questions, images=folder)
    return [_as_of_bundle(*each) for each in zip(scored, bundles, given, strict=True)]


def time_bundles(
    paths: Sequence[Path],
    runtimes: Sequence[str] = (),
    *,
    threads: int | None = None,
    sampling: GenerationSampling | None = None,
) -> list[BenchResult]:
    """Returns times and memory of bundles; see `edgeq.generation.benchmark.bench_bundles`."""
    return bench_bundles(open_bundles(paths), runtimes, threads=threads, sampling=sampling)


@dataclasses.dataclass(frozen=True)
class _Given:
    """Answers of one bundle.

    Attributes:
        path: Their file.
        runtime: The engine.
        environment: What its session reports.
        per_s: Questions per second.
    """

    path: Path
    runtime: str
    environment: Environment
    per_s: float


def _name(bundle: Bundle) -> str:
    return bundle.folder.resolve().name


def _answer(
    bundle: Bundle,
    task: QuestionsTask[Any],
    folder: Path,
    runtime: str | None,
    threads: int | None,
    template: str,
    options: AnswerOptions,
) -> _Given:
    maker = PromptMaker.of(bundle, tokenizer_of(bundle), template)
    with OpenParts.open(bundle, runtime, threads) as parts:
        model = GeneratingModel(parts)
        lines, seen, started = [], set[str](), time.perf_counter()
        with progress_bar(len(task.questions), "answer", unit="questions") as advance:
            for line in answered(task, model, maker, options):
                lines.append(line)
                advance(line["id"] not in seen)
                seen.add(line["id"])
        taken = time.perf_counter() - started
        facts = parts.sessions["decoder"].environment()
        head = {"model": bundle.name, "precision": precision_of(bundle), "runtime": parts.runtime}
        path = folder / f"{_name(bundle)}.jsonl"
        write_text(path, "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in (head, *lines)))
        environment = parse_environment(facts, source=bundle.folder, error=EngineError)
        return _Given(path, parts.runtime, environment, len(task.questions) / taken)


def _as_of_bundle(scored: ScoredAnswers, bundle: Bundle, given: _Given) -> ScoredAnswers:
    """Returns the score of a file of answers as that of the bundle that gave them."""
    result = dataclasses.replace(
        scored.result,
        artifact=_name(bundle),
        digest=sha256_file(bundle.folder / MANIFEST_NAME),
        source_digest=bundle.source_digest,
        target=bundle.target,
        environment=given.environment,
        eval_images_per_s=given.per_s,
    )
    return dataclasses.replace(scored, result=result)
