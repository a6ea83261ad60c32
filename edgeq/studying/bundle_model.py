"""A model in parts whose layers trials change: it answers questions, in batches.

What costs time is shared: prompts are prepared once, parts that a trial does not change stay open, and what the parts
before the decoder give for a batch of images is remembered as long as their weights are the same. Trials are run in an
order in which that is so for as many as possible.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from edgeq.bundles.manifest import Bundle
from edgeq.exporting.artifact import Artifact
from edgeq.files import sha256_json
from edgeq.generation.answers import AnswerOptions
from edgeq.generation.model import GeneratingModel, Prompt
from edgeq.generation.parts import OpenParts, artifact_of
from edgeq.generation.prompts import PromptMaker
from edgeq.generation.search import Limits
from edgeq.runtimes import get_runtime
from edgeq.runtimes.base import Arrays, Session
from edgeq.studying.assembly import Assembler
from edgeq.studying.bundle_weights import PartsBank, within
from edgeq.studying.layers import StudyLayer
from edgeq.studying.model import RUNTIME, Work
from edgeq.studying.trials import StudyTrial
from edgeq.tasks.language.answers_task import AnswersTask
from edgeq.tuning.journal import TrialJournal, journal_of
from edgeq.tuning.store import Store

_DECODER = "decoder"
_REMEMBERED = ("vision", "connector")
"""Parts whose outputs are remembered: they read the same for each trial."""

_MOST_BYTES = 1 << 29
"""What prompts, and outputs of a part, may take of the memory; more is computed again."""

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
    """

    bundle: Bundle
    assemblers: Mapping[str, Assembler]
    layers: tuple[StudyLayer, ...]
    task: AnswersTask
    maker: PromptMaker
    options: AnswerOptions
    pieces: Sequence[Sequence[int]]
    threads: int | None = None
    _prompts: dict[int, Prompt] = field(default_factory=dict)

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
        with contextlib.ExitStack() as stack:
            opened = _Opened(self)
            stack.callback(opened.close)
            for index in ordered:
                trial, piece = work[index]
                model = GeneratingModel(opened.parts_of(trial, stored[index]))
                yield index, self._answers(model, self.pieces[piece])

    def image_s(self) -> float:
        """Returns the time of one question in a batch, measured, in seconds."""
        numbers = self.pieces[0][: self.options.batch]
        with OpenParts.open(self.bundle, RUNTIME, self.threads) as parts:
            model = GeneratingModel(parts)
            self._answers(model, numbers)
            started = time.perf_counter()
            self._answers(model, numbers)
            return (time.perf_counter() - started) / len(numbers)

    def _answers(self, model: GeneratingModel, numbers: Sequence[int]) -> dict[int, Any]:
        limits = Limits(self.bundle.tokens.eos, self.options.max_tokens)
        found = {}
        for begin in range(0, len(numbers), self.options.batch):
            some = numbers[begin : begin + self.options.batch]
            for number, tokens in zip(some, model.generate([self._prompt(each) for each in some], limits), strict=True):
                found[number] = self.maker.tokenizer.decode(tokens)
        return found

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


class _Opened:
    """The open parts of one trial after another.

    Args:
        model: The model.
    """

    def __init__(self, model: BundleModel) -> None:
        self._model = model
        self._stored: dict[str, Stored] = {}
        self._sessions: dict[str, Session] = {}
        self._shown: dict[str, Any] = {}
        for part in model.bundle.parts:
            if part.name not in model.assemblers:
                self._put(str(part.name), artifact_of(model.bundle, part))

    def parts_of(self, trial: StudyTrial | None, stored: Mapping[str, Stored]) -> OpenParts:
        """Returns the parts of a trial; of those of the trial before, what is stored alike stays open.

        Args:
            trial: The trial; `None` for FP32.
            stored: Name of a part -> how the trial stores its layers.
        """
        for part, assembler in self._model.assemblers.items():
            if self._stored.get(part) == stored[part]:
                continue
            if trial is None:
                self._put(part, assembler.float_file)
            else:
                written = assembler.write(within(trial, part), 0)
                try:
                    self._put(part, written)
                finally:
                    written.path.unlink(missing_ok=True)
            self._stored[part] = stored[part]
        return OpenParts(self._model.bundle, RUNTIME, self._shown)

    def close(self) -> None:
        """Frees all sessions."""
        for session in self._sessions.values():
            session.close()

    def _put(self, part: str, artifact: Artifact) -> None:
        if part in self._sessions:
            self._sessions.pop(part).close()
        session = self._sessions[part] = get_runtime(RUNTIME)(artifact, self._model.threads)
        self._shown[part] = _Remembering(session) if part in _REMEMBERED else session


class _Remembering:
    """A session that runs each input once.

    Args:
        session: The session.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._known: dict[bytes, Arrays] = {}
        self._bytes = 0

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Returns the outputs of the session, which must not be changed."""
        digest = hashlib.sha256()
        for name, array in sorted(inputs.items()):
            digest.update(f"{name} {array.shape} {array.dtype}".encode() + np.ascontiguousarray(array).tobytes())
        key = digest.digest()
        if key not in self._known:
            found = self._session.run(inputs)
            self._bytes += sum(array.nbytes for array in found.values())
            if self._bytes > _MOST_BYTES:
                return found
            self._known[key] = found
        return self._known[key]
