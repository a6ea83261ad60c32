"""What trials found so far, in the store, so that a run that was cut resumes: noise, predictions per image, timings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from edgeq.errors import InputError
from edgeq.evaluation.prediction_codec import decode_prediction, encode_prediction
from edgeq.exporting.onnx.writer import FloatModel
from edgeq.files import sha256_json
from edgeq.inputs import Item
from edgeq.machine import read_machine
from edgeq.tasks import Task
from edgeq.tuning.screening import Noise
from edgeq.tuning.store import Store, Timing, TrialKey

_SNR = "snr_db"
_SHARE = "noise_share"


@dataclass(frozen=True)
class Trial:
    """A trial, as a store knows it.

    Attributes:
        plan: Digest of which layers run in INT8, and how.
        title: The same in words.
    """

    plan: str
    title: str


@dataclass(frozen=True, eq=False)
class TrialJournal:
    """The finished parts of the trials of one run.

    Attributes:
        store: Where they are kept.
        key: What all of them depend on; `plan` is that of each.
        facts: The same in words.
        task: The task whose predictions are kept.
    """

    store: Store
    key: TrialKey
    facts: Mapping[str, str]
    task: Task[Any]

    def has(self, trial: Trial) -> bool:
        """Returns whether a trial was begun."""
        return self.store.has(replace(self.key, plan=trial.plan))

    def noise(self, trial: Trial) -> Noise | None:
        """Returns the noise of a trial, if it was measured."""
        found = self.store.measures(self._number(trial))
        shares = [found[name] for name in sorted(found) if name.startswith(_SHARE)]
        snr_db = found.get(_SNR)
        return None if snr_db is None else Noise(tuple(shares), snr_db)

    def add_noise(self, trial: Trial, noise: Noise) -> None:
        """Keeps the noise of a trial; raises `InputError` if it cannot be written."""
        shares = {f"{_SHARE}.{number:04}": share for number, share in enumerate(noise.shares)}
        self.store.add_measures(self._number(trial), {_SNR: noise.snr_db, **shares})

    def predictions(self, trial: Trial, numbers: Iterable[int]) -> dict[int, Any]:
        """Returns position of an image -> what a trial says about it, of those of the images that are kept."""
        digests = {number: self._images[number] for number in numbers}
        kept = self.store.predictions(self._number(trial), list(digests.values()))
        found: dict[int, Any] = {}
        for number, digest in digests.items():
            if digest in kept:
                try:
                    found[number] = decode_prediction(type(self.task), kept[digest])
                except InputError:
                    continue  # it is computed again
        return found

    def add_predictions(self, trial: Trial, predictions: Mapping[int, Any]) -> None:
        """Keeps what a trial says about images; raises `InputError` if it cannot be written."""
        kind = type(self.task)
        packed = {self._images[number]: encode_prediction(kind, each) for number, each in predictions.items()}
        self.store.add_predictions(self._number(trial), packed)

    def add_score(self, trial: Trial, name: str, value: float, images: int) -> None:
        """Keeps a score over so many images; raises `InputError` if it cannot be written."""
        self.store.add_measures(self._number(trial), {f"{name} of {images} images": value})

    def timing(self, trial: Trial, machine: str, engine: str) -> Timing | None:
        """Returns the newest timing of a trial on one machine in one engine; `None` if there is none."""
        return self.store.timing(self._number(trial), machine, engine)

    def measures(self, trial: Trial) -> dict[str, float]:
        """Returns name -> value of all that was measured of a trial."""
        return self.store.measures(self._number(trial))

    def add_measures(self, trial: Trial, measures: Mapping[str, float]) -> None:
        """Keeps what was measured of a trial; raises `InputError` if it cannot be written."""
        self.store.add_measures(self._number(trial), measures)

    def add_timing(self, trial: Trial, timing: Timing) -> None:
        """Keeps how long the file of a trial takes; raises `InputError` if it cannot be written."""
        self.store.add_timing(self._number(trial), timing)

    def _number(self, trial: Trial) -> int:
        return self.store.trial(replace(self.key, plan=trial.plan), {**self.facts, "plan": trial.title})

    @cached_property
    def _images(self) -> list[str]:
        return task_digests(self.task)


def open_journal(
    store: Store,
    model: FloatModel,
    task: Task[Any],
    runtime: str,
    session: Mapping[str, Any],
    target: str,
    screened: Sequence[str] = (),
) -> TrialJournal:
    """Returns the journal of the trials of a model.

    Args:
        store: Where they are kept.
        model: The float model.
        task: The images that they are scored on.
        runtime: Name of the runtime that runs them.
        session: What a session of it says about itself.
        target: Name of the target whose rules they follow.
        screened: Digests of what they are screened on.
    """
    identity = sha256_json([model.digest, model.preprocessing.digest, repr(model.postprocessing)])
    return journal_of(store, model.name, identity, task, runtime, session, target, screened)


def journal_of(
    store: Store,
    name: str,
    identity: str,
    task: Task[Any],
    runtime: str,
    session: Mapping[str, Any],
    target: str,
    screened: Sequence[str] = (),
) -> TrialJournal:
    """Returns the journal of the trials of a model that is known by its name and a digest; see `open_journal`."""
    machine = read_machine()
    engine = {name: session.get(name) for name in ("engine", "threads", "compute_precision")}
    key = TrialKey(
        model=identity,
        plan="",
        data=sha256_json([task.name, task_digests(task), list(screened)]),
        engine=sha256_json([runtime, engine]),
        machine=sha256_json([machine.architecture, sorted(machine.cpu_features)]),
    )
    facts = {
        "model": name,
        "target": target,
        "data": task.source.name,
        "engine": f"{session.get('engine')}, {session.get('threads')} threads",
        "machine": str(session.get("cpu") or machine.architecture),
    }
    return TrialJournal(store, key, facts, task)


def task_digests(task: Task[Any]) -> list[str]:
    """Returns the digest of each item of a task; of one that cannot be read its position, which nothing else has."""
    return [_digest(partial(task.item_digest, position), position) for position in range(len(task.items))]


def image_digests(items: Iterable[Item]) -> list[str]:
    """Returns the digest of each image; of one that cannot be read its position, which nothing else has."""
    return [_digest(item.digest, position) for position, item in enumerate(items)]


def _digest(digest: Callable[[], str], position: int) -> str:
    try:
        return digest()
    except InputError:
        return f"unreadable {position}"
