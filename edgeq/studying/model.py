"""What a study changes: a model that writes and predicts its own trials, here one in a single ONNX file.

`edgeq.studying.bundle_model` has models in parts.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, overload

import numpy as np

from edgeq.exporting.artifact import Artifact
from edgeq.exporting.onnx.writer import FloatModel
from edgeq.inputs import evenly_spaced
from edgeq.runtimes import open_session
from edgeq.studying.assembly import Assembler
from edgeq.studying.layers import StudyLayer
from edgeq.studying.trials import StudyTrial
from edgeq.studying.weights import Bank
from edgeq.tasks import Task
from edgeq.tuning.executors import Executor
from edgeq.tuning.journal import TrialJournal, open_journal
from edgeq.tuning.staged import StagedImages
from edgeq.tuning.store import Store

RUNTIME = "onnxruntime"
"""The engine of all trials, which maps the weights of a file where they lie."""

TARGET = "x86-ort"
"""The target whose float file trials change, and which an export of a point names."""

_RUNS = 8

_AT_ONCE = 2048
"""Images after which predictions are kept: what a kill may lose."""

Work = Sequence[tuple[StudyTrial | None, int]]
"""Trials, `None` for FP32, each with a piece of the images."""


class StudiedModel(Protocol):
    """A model whose layers trials change."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def digest(self) -> str:
        """Digest of its float weights and graph."""

    @property
    def layers(self) -> tuple[StudyLayer, ...]:
        """The layers of the study."""

    @property
    def bank(self) -> Bank:
        """Their weights."""

    @property
    def pieces(self) -> Sequence[Sequence[int]]:
        """Positions of the images, in pieces."""

    @property
    def artifact(self) -> Artifact:
        """What a task is told of the model."""

    @property
    def size_bytes(self) -> int:
        """Size in FP32."""

    @property
    def facts(self) -> dict[str, Any]:
        """What a session says about itself."""

    def open_journal(self, store: Store) -> TrialJournal:
        """Returns what its trials have predicted so far."""

    def predict(self, work: Work) -> Iterator[tuple[int, dict[int, Any]]]:
        """Yields (index of a piece of work, position of an image -> what is said of it) as each is done.

        Images that cannot be read are left out.

        Raises:
            InputError: a file cannot be written.
            EngineError: a file cannot be run.
        """

    def image_s(self) -> float:
        """Returns the time of one image, measured, in seconds."""


def in_pieces(available: int, most: int | None) -> list[list[int]]:
    """Returns the positions of the images to score on, evenly spaced, in pieces.

    Args:
        available: Images of the data set.
        most: The most to take; by default all.
    """
    numbers = evenly_spaced(range(available), most or available)
    return [numbers[begin : begin + _AT_ONCE] for begin in range(0, len(numbers), _AT_ONCE)]


@dataclass(frozen=True, eq=False)
class FileModel:
    """A model in one ONNX file; see `StudiedModel`.

    Attributes:
        model: The float model.
        assembler: Writes the files of trials.
        task: The images, with their truth.
        pieces: Positions of the images, in pieces.
        threads: CPU threads of the engine.
        executor: Who predicts images; by default this process.
    """

    model: FloatModel
    assembler: Assembler
    task: Task[Any]
    pieces: Sequence[Sequence[int]]
    threads: int | None = None
    executor: Executor | None = None

    @property
    def name(self) -> str:
        """The model's."""
        return self.model.name

    @property
    def digest(self) -> str:
        """The model's."""
        return self.model.digest

    @property
    def layers(self) -> tuple[StudyLayer, ...]:
        """The layers of the study."""
        return self.assembler.layers

    @property
    def bank(self) -> Bank:
        """Their weights."""
        return self.assembler.bank

    @property
    def artifact(self) -> Artifact:
        """The float file."""
        return self.assembler.float_file

    @property
    def size_bytes(self) -> int:
        """Size of the float file."""
        return self.artifact.size_bytes

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What a session says about itself."""
        with open_session(self.artifact, RUNTIME, self.threads) as session:
            return session.environment()

    def open_journal(self, store: Store) -> TrialJournal:
        """Returns what its trials have predicted so far."""
        return open_journal(store, self.model, self.task, RUNTIME, self.facts, self.artifact.target)

    def predict(self, work: Work) -> Iterator[tuple[int, dict[int, Any]]]:
        """Yields predictions; see `StudiedModel`."""
        left = Counter(trial.name for trial, _ in work if trial is not None)
        files = _Files(work, self.artifact, self.assembler.write)
        try:
            for index, predicted in self._images.predict_many(files):
                trial, _ = work[index]
                if trial is not None:
                    left[trial.name] -= 1
                    if not left[trial.name]:
                        files.remove(trial)
                yield index, predicted
        finally:
            files.close()

    def image_s(self) -> float:
        """Returns the median time of one run, in seconds."""
        spec = self.artifact.inputs[0]
        feed = {spec.name: np.zeros([1 if length is None else length for length in spec.shape], spec.dtype)}
        with open_session(self.artifact, RUNTIME, self.threads) as session:
            session.run(feed)
            times = []
            for _ in range(_RUNS):
                started = time.perf_counter()
                session.run(feed)
                times.append(time.perf_counter() - started)
        return float(np.median(times))

    @cached_property
    def _images(self) -> StagedImages:
        """The images, whose inputs are kept from trial to trial."""
        return StagedImages(self.task, self.pieces, RUNTIME, self.threads, self.executor)


class _Files(Sequence[tuple[Artifact, int]]):
    """Files and pieces of images; a file is written when it is first asked for.

    Args:
        work: Trials, `None` for FP32, each with a piece.
        float_file: The file of FP32.
        write: Writes the file of a trial, which a number names.
    """

    def __init__(self, work: Work, float_file: Artifact, write: Callable[[StudyTrial, int], Artifact]) -> None:
        self._work = work
        self._float_file = float_file
        self._write = write
        self._written: dict[str, Artifact] = {}

    def __len__(self) -> int:
        return len(self._work)

    @overload
    def __getitem__(self, index: int) -> tuple[Artifact, int]: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[tuple[Artifact, int]]: ...

    def __getitem__(self, index: int | slice) -> tuple[Artifact, int] | Sequence[tuple[Artifact, int]]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        trial, piece = self._work[index]
        if trial is None:
            return self._float_file, piece
        if trial.name not in self._written:
            self._written[trial.name] = self._write(trial, index)
        return self._written[trial.name], piece

    def remove(self, trial: StudyTrial) -> None:
        """Removes the file of a trial that is scored."""
        self._written.pop(trial.name).path.unlink(missing_ok=True)

    def close(self) -> None:
        """Removes all files."""
        for artifact in self._written.values():
            artifact.path.unlink(missing_ok=True)
