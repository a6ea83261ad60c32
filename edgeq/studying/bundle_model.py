"""A model in parts whose layers trials change: it answers questions, in batches.

What costs time is shared: prompts are prepared once, parts that a trial does not change stay open, and what the parts
before the decoder give for a batch of images is remembered as long as their weights are the same. Trials are run in an
order in which that is so for as many as possible.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from edgeq.bundles.manifest import Bundle
from edgeq.exporting.artifact import Artifact
from edgeq.files import sha256_json
from edgeq.generation.answers import AnswerOptions
from edgeq.generation.exchanged_parts import ExchangedParts
from edgeq.generation.model import Prompt
from edgeq.generation.parts import OpenParts, artifact_of
from edgeq.generation.prompts import PromptMaker
from edgeq.runtimes import get_runtime
from edgeq.studying.assembly import Assembler
from edgeq.studying.bundle_weights import PartsBank, within
from edgeq.studying.layers import StudyLayer
from edgeq.studying.model import RUNTIME, Work
from edgeq.studying.trials import StudyTrial
from edgeq.tasks.language.answers_task import AnswersTask
from edgeq.tuning.answer_units import BATCHES, AnswerUnit, PromptFile, answer_elsewhere
from edgeq.tuning.answering import answers_of
from edgeq.tuning.executors import Executor
from edgeq.tuning.journal import TrialJournal, journal_of
from edgeq.tuning.store import Store

_DECODER = "decoder"
_MOST_BYTES = 1 << 29
"""What prompts may take of the memory; more are made again."""

Stored = tuple[tuple[str, str], ...]


@dataclass(frozen=True, eq=False)
class BundleModel:
    """A model in parts; see `edgeq.studying.model.StudiedModel`.

    Attributes:
        bundle: The model, in FP32.
        assemblers: Name of a part whose layers trials change -> what writes its files.
        layers: The layers of the study.
        task: The questions, with their answers.
        maker: Makes prompts of questions.
        options: How questions are answered.
        pieces: Positions of the questions, in pieces.
        threads: CPU threads of the engine.
        executor: Who answers; by default this process.
    """

    bundle: Bundle
    assemblers: Mapping[str, Assembler]
    layers: tuple[StudyLayer, ...]
    task: AnswersTask
    maker: PromptMaker
    options: AnswerOptions
    pieces: Sequence[Sequence[int]]
    threads: int | None = None
    executor: Executor | None = None
    _prompts: dict[int, Prompt] = field(default_factory=dict)
    _files: dict[int, PromptFile] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The bundle's."""
        return self.bundle.name

    @property
    def digest(self) -> str:
        """The bundle's."""
        return self.bundle.source_digest

    @cached_property
    def bank(self) -> PartsBank:
        """The weights of all parts."""
        return PartsBank({part: each.bank for part, each in self.assemblers.items()})

    @property
    def artifact(self) -> Artifact:
        """The decoder."""
        return artifact_of(self.bundle, self.bundle.require_part(_DECODER))

    @property
    def size_bytes(self) -> int:
        """Size of all parts."""
        return sum(part.size_bytes for part in self.bundle.parts)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the decoder's session says about itself."""
        with get_runtime(RUNTIME)(self.artifact, self.threads) as session:
            return session.environment()

    def open_journal(self, store: Store) -> TrialJournal:
        """Returns what its trials have answered so far."""
        options = [self.options.max_tokens, self.options.batch, self.maker.template]
        identity = sha256_json([self.digest, [part.model.sha256 for part in self.bundle.parts], options])
        return journal_of(store, self.name, identity, self.task, RUNTIME, self.facts, self.bundle.target)

    def predict(self, work: Work) -> Iterator[tuple[int, dict[int, Any]]]:
        """Yields answers; see `edgeq.studying.model.StudiedModel`."""
        stored = [{part: _stored(trial, part) for part in self.assemblers} for trial, _ in work]
        ordered = sorted(range(len(work)), key=lambda index: ([*stored[index].values()], index))
        files = _Files(self, work, [stored[index] for index in ordered], ordered)
        try:
            yield from (self._here if self.executor is None else self._elsewhere)(work, ordered, files)
        finally:
            files.close()

    def image_s(self) -> float:
        """Returns the time of one question in a batch, measured, in seconds."""
        prompts = [self._prompt(number) for number in self.pieces[0][: self.options.batch]]
        with OpenParts.open(self.bundle, RUNTIME, self.threads) as parts:
            self._answers(parts, prompts)
            started = time.perf_counter()
            self._answers(parts, prompts)
            return (time.perf_counter() - started) / len(prompts)

    def _here(self, work: Work, ordered: Sequence[int], files: _Files) -> Iterator[tuple[int, dict[int, Any]]]:
        """Yields answers of this process."""
        parts = ExchangedParts(self.bundle, RUNTIME, self.threads)
        with contextlib.closing(parts):
            for index in ordered:
                numbers = self.pieces[work[index][1]]
                opened = parts.opened(files.version(index))
                texts = self._answers(opened, [self._prompt(number) for number in numbers])
                files.done(index)
                yield index, dict(zip(numbers, texts, strict=True))

    def _elsewhere(self, work: Work, ordered: Sequence[int], files: _Files) -> Iterator[tuple[int, dict[int, Any]]]:
        """Yields answers of the workers."""
        executor, options = self.executor, self.options
        assert executor is not None  # noqa: S101 - asked by `predict`
        shares: list[tuple[int, Sequence[int]]] = []
        left: dict[int, int] = {}

        def units() -> Iterator[AnswerUnit]:
            for index in ordered:
                numbers = self.pieces[work[index][1]]
                size = options.batch * BATCHES
                parts = [numbers[begin : begin + size] for begin in range(0, len(numbers), size)]
                left[index] = len(parts)
                for part in parts:
                    shares.append((index, part))
                    prompts = [self._prompt_file(number, executor.folder) for number in part]
                    yield AnswerUnit(
                        self.bundle, files.version(index), RUNTIME, self.threads, options.max_tokens, options.batch,
                        prompts,
                    )  # fmt: skip

        found: dict[int, dict[int, Any]] = {}
        for number, answers in answer_elsewhere(executor, units()):
            index, part = shares[number]
            texts = map(self.maker.tokenizer.decode, answers)
            found.setdefault(index, {}).update(zip(part, texts, strict=True))
            left[index] -= 1
            if not left[index]:
                files.done(index)
                yield index, dict(sorted(found.pop(index).items()))

    def _answers(self, parts: OpenParts, prompts: Sequence[Prompt]) -> list[str]:
        answers = answers_of(parts, prompts, self.options.max_tokens, self.options.batch)
        return [self.maker.tokenizer.decode(tokens) for tokens in answers]

    def _prompt_file(self, number: int, folder: Path) -> PromptFile:
        """Returns the prompt of a question as a file, which is written once."""
        if number not in self._files:
            self._files[number] = PromptFile.of(self._prompt(number), folder)
        return self._files[number]

    def _prompt(self, number: int) -> Prompt:
        """Returns the prompt of a question, which is prepared once."""
        if number in self._prompts:
            return self._prompts[number]
        question = self.task.questions[number]
        has_image = question.image or question.encoded is not None
        prompt = self.maker.make(question, self.task.items[number] if has_image else None)
        size = sum(array.nbytes for array in prompt.images.values())
        if size * len(self._prompts) <= _MOST_BYTES:
            self._prompts[number] = prompt
        return prompt


def _stored(trial: StudyTrial | None, part: str) -> Stored:
    """Returns how a trial stores the layers of a part; FP32 comes before all others."""
    return () if trial is None else (("", ""), *within(trial, part).identity)


class _Files:
    """The files of the parts of trials: each version of a part is written once, and goes when no trial needs it.

    Args:
        model: The model.
        work: The work.
        stored: How each piece of work stores the layers of each part, in the order in which it is done.
        ordered: The indices of the work in that order.
    """

    def __init__(
        self, model: BundleModel, work: Work, stored: Sequence[Mapping[str, Stored]], ordered: Sequence[int]
    ) -> None:
        self._model = model
        self._work = work
        self._stored = dict(zip(ordered, stored, strict=True))
        self._left = Counter(key for each in stored for key in each.items())
        self._written: dict[tuple[str, Stored], Artifact] = {}
        self._number = 0

    def version(self, index: int) -> dict[str, Artifact]:
        """Returns name of a part -> its file for a piece of work, in the order in which parts run."""
        found = {}
        for part in self._model.bundle.parts:
            name = str(part.name)
            is_changed = name in self._model.assemblers
            found[name] = self._file(name, index) if is_changed else artifact_of(self._model.bundle, part)
        return found

    def done(self, index: int) -> None:
        """Removes the files that no further piece of work needs."""
        for key in self._stored[index].items():
            self._left[key] -= 1
            if not self._left[key] and key in self._written:
                self._written.pop(key).path.unlink(missing_ok=True)

    def close(self) -> None:
        """Removes all files."""
        for artifact in self._written.values():
            artifact.path.unlink(missing_ok=True)

    def _file(self, part: str, index: int) -> Artifact:
        trial, assembler = self._work[index][0], self._model.assemblers[part]
        if trial is None:
            return assembler.float_file
        key = part, self._stored[index][part]
        if key not in self._written:
            self._number += 1
            self._written[key] = assembler.write(within(trial, part), self._number)
        return self._written[key]
