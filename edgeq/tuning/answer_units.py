"""Prompts that workers answer: a bundle in one version of its files, and prompts that were made here.

A worker needs neither the questions nor the tokenizer: prompts travel as files of tokens and prepared images, known by
their digests as files of models are, and answers come back as tokens. What a batch holds changes the last bits of what
it gives, so units are cut between batches alone: workers answer what one process does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from edgeq.boundary import Count, convert
from edgeq.bundles.manifest import Bundle
from edgeq.errors import EngineError
from edgeq.exporting.artifact import Artifact
from edgeq.files import sha256_bytes, write_bytes
from edgeq.generation.model import Prompt
from edgeq.generation.search import Tokens
from edgeq.tuning.answering import pack_prompt
from edgeq.tuning.executors import Executor, Found

BATCHES = 5
"""Batches of prompts in one unit: what a worker that dies loses."""

Version = Mapping[str, Artifact]
"""Name of a part -> its file."""


@dataclass(frozen=True)
class PromptFile:
    """A prompt as workers take it.

    Attributes:
        path: Where it lies on this machine.
        digest: SHA-256 of the file.
    """

    path: Path
    digest: str

    @classmethod
    def of(cls, prompt: Prompt, folder: Path) -> PromptFile:
        """Returns a prompt, written to a folder.

        Raises:
            InputError: it cannot be written, or its images are of a type that does not travel.
        """
        content = pack_prompt(prompt)
        path = folder / f"{sha256_bytes(content)}.prompt"
        write_bytes(path, content)
        return cls(path, path.stem)


@dataclass(frozen=True, eq=False)
class AnswerUnit:
    """What a worker is asked for: what a bundle answers to some prompts; see `edgeq.tuning.work_units.WorkUnit`.

    Attributes:
        bundle: The model.
        version: The files of its parts.
        runtime: The engine.
        threads: Its CPU threads.
        max_tokens: Most tokens of an answer.
        batch: Prompts that are read together.
        images: The prompts.
    """

    bundle: Bundle
    version: Version
    runtime: str
    threads: int | None
    max_tokens: int
    batch: int
    images: Sequence[PromptFile]

    @property
    def artifact(self) -> Artifact:
        """The first part: what it gives for images is what a worker keeps."""
        return next(iter(self.version.values()))

    @cached_property
    def files(self) -> Mapping[str, Path]:
        """Digest -> where the file lies, of the parts and of the prompts."""
        parts = {each.digest: each.path for each in self.version.values()}
        return {**parts, **{each.digest: each.path for each in self.images}}

    @property
    def command(self) -> dict[str, Any]:
        """The fields of the command `answer` of `edgeq.tuning.workers_server`."""
        return {
            "command": "answer",
            "bundle": self.bundle.to_json(),
            "parts": {part: {"file": each.digest, "manifest": each.to_json()} for part, each in self.version.items()},
            "runtime": self.runtime,
            "threads": self.threads,
            "max_tokens": self.max_tokens,
            "batch": self.batch,
            "prompts": [each.digest for each in self.images],
        }


class _Answer(msgspec.Struct):
    """What a worker says to a prompt."""

    position: Count
    tokens: list[int]


def answer_elsewhere(executor: Executor, units: Iterator[AnswerUnit]) -> Iterator[tuple[int, list[Tokens]]]:
    """Yields (number of a unit, the answers to its prompts) as each is done.

    Args:
        executor: The workers.
        units: The work; the next one is asked for shortly before a worker needs it.

    Raises:
        EngineError: no worker is left, or one answers something else than it was asked.
        EdgeqError: a file cannot be run.
    """
    given: list[AnswerUnit] = []

    def noted() -> Iterator[AnswerUnit]:
        for unit in units:
            given.append(unit)
            yield unit

    for number, found in executor.map(noted()):
        yield number, _tokens(given[number], found)


def _tokens(unit: AnswerUnit, found: Found) -> list[Tokens]:
    name = unit.bundle.name
    answers = convert(found, list[_Answer], source=name, kind="an answer", place="found", error=EngineError)
    if [each.position for each in answers] != list(range(len(unit.images))):
        raise EngineError(f"{name}: a worker answers other prompts than it was asked; try again")
    return [tuple(each.tokens) for each in answers]
