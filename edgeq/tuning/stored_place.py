"""This machine as a place where `edgeq eval` runs images, whose predictions are kept in a store.

What the store has of a file, an engine and an image is not computed again: after an interruption, in a later
evaluation, or with other images of which some are the same.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeq.errors import InputError
from edgeq.evaluation.execution_site import HERE
from edgeq.evaluation.inference import Images, Job, SomeImages
from edgeq.evaluation.prediction_codec import decode_prediction, encode_prediction
from edgeq.exporting.artifact import Artifact
from edgeq.files import sha256_file, sha256_json
from edgeq.inputs import ImageFile, InputCache
from edgeq.inputs.images import image_size
from edgeq.machine import read_machine
from edgeq.runtimes import open_session
from edgeq.tuning.store import Store, TrialKey

_AT_ONCE = 32
"""Predictions that a kill may lose."""

_LOCATION = re.compile(rb"\x0a\x08location\x12([\x01-\x7f])")
"""Where an ONNX file names a file with weights: a key and a value of Protocol Buffers, each behind its length."""

_ELSEWHERE = frozenset({"usable_cpus", "system", "board", "python"})
"""What a session says of its environment that its outputs do not depend on."""


class StoredPlace:
    """A place of `edgeq.evaluation.execution_site`.

    Args:
        store: Where predictions are kept.
    """

    is_here = True

    def __init__(self, store: Store) -> None:
        self._store = store

    def choose_runtimes(self, artifact: Artifact, wished: Sequence[str]) -> list[str]:
        """Returns the runtimes to run an artifact in."""
        return HERE.choose_runtimes(artifact, wished)

    def predict(self, jobs: Sequence[Job], images: Images, threads: int | None, inputs: InputCache) -> None:
        """Takes from the store what it has, runs the other images, and keeps what is new as it comes."""
        names = [stored_name(images, number) for number in range(len(images.items))]
        groups: dict[tuple[int, ...], list[_KeptJob]] = {}
        for job in jobs:
            trial = self._trial(job, threads)
            kept = self._store.predictions(trial, {name for name in names if name is not None})
            for number, name in enumerate(names):
                if name in kept:
                    self._take(job, number, kept[name])
            rest = tuple(number for number in range(len(names)) if number not in job.predictions)
            groups.setdefault(rest, []).append(self._kept_job(job, trial, [names[number] for number in rest]))
        for rest, group in groups.items():
            if rest:
                most = min(1.0, images.max_unreadable * len(names) / len(rest))
                HERE.predict(
                    group, SomeImages(images, rest, most), threads, InputCache(0) if len(groups) > 1 else inputs
                )
            for job in group:
                job.finish(rest)

    def _trial(self, job: Job, threads: int | None) -> int:
        """Returns the number of the trial of a file in its engine; the job then has the environment of a session."""
        with open_session(job.artifact, job.runtime, threads, job.compute_precision) as session:
            job.environment = session.environment()
        artifact, machine = job.artifact, read_machine()
        stated = artifact.to_json()
        parts = ("digest", "inputs", "outputs", "labels")
        post = dataclasses.asdict(job.postprocessing)
        engine = {name: value for name, value in job.environment.items() if name not in _ELSEWHERE}
        key = TrialKey(
            model=sha256_json([artifact.source_digest or artifact.digest, job.preprocessing.digest, post]),
            plan=sha256_json([*(stated[name] for name in parts), weight_digests(artifact)]),
            data=sha256_json(job.decoder.task.name),
            engine=sha256_json([job.runtime, job.compute_precision, threads, engine]),
            machine=sha256_json([machine.architecture, sorted(machine.cpu_features)]),
        )
        facts = {
            "model": artifact.name,
            "plan": artifact.precision or "as it is",
            "target": artifact.target,
            "engine": f"{job.environment.get('engine')}, {job.environment.get('threads')} threads",
            "machine": str(job.environment.get("cpu") or machine.architecture),
        }
        return self._store.trial(key, facts)

    def _take(self, job: Job, number: int, content: bytes) -> None:
        try:
            job.predictions[number] = decode_prediction(job.decoder.task, content)
        except InputError:
            return  # it is computed again
        job.reused += 1

    def _kept_job(self, job: Job, trial: int, names: list[str | None]) -> _KeptJob:
        return _KeptJob(
            job.artifact, job.preprocessing, job.postprocessing, job.runtime, job.compute_precision,
            whole=job, names=names, keep=lambda found: self._store.add_predictions(trial, found),
        )  # fmt: skip


@dataclass(eq=False)
class _KeptJob(Job):
    """The images that the store does not have of a job.

    Attributes:
        whole: The job.
        names: What the store calls the images.
        keep: Adds predictions to the store.
        new: Name of an image -> its prediction, not in the store yet.
    """

    whole: Job = field(kw_only=True)
    names: Sequence[str | None] = field(kw_only=True)
    keep: Callable[[dict[str, bytes]], None] = field(kw_only=True)
    new: dict[str, bytes] = field(default_factory=dict, kw_only=True)

    def add(self, number: int, prediction: Any, inference_s: float) -> None:
        """Takes what was found in an image, and keeps it with others."""
        super().add(number, prediction, inference_s)
        if (name := self.names[number]) is not None:
            self.new[name] = encode_prediction(self.decoder.task, prediction)
        if len(self.new) >= _AT_ONCE:
            self._flush()

    def finish(self, rest: Sequence[int]) -> None:
        """Gives the job what was found, in the order of its images; `rest` are their positions there."""
        self._flush()
        whole = self.whole
        found = {rest[position]: each for position, each in self.predictions.items()}
        whole.predictions = dict(sorted((whole.predictions | found).items()))
        whole.skipped, whole.inference_s, whole.total_s = self.skipped, self.inference_s, self.total_s

    def _flush(self) -> None:
        if self.new:
            self.keep(self.new)
            self.new = {}


def stored_name(images: Images, number: int) -> str | None:
    """Returns what the store calls an image; `None` if it has to be run.

    That is so of one that cannot be read, that is not the one that the truth is about, or that the truth wants turned
    otherwise than its EXIF data says: running it says what is wrong, or turns it.
    """
    item = images.items[number]
    try:
        width, height = image_size(item.path) if isinstance(item, ImageFile) else item.read().shape[1::-1]
        images.check_image(number, np.broadcast_to(np.uint8(0), (height, width, 3)))
        stated = item.size_px if isinstance(item, ImageFile) else None
        return item.digest() if stated is None or not all(stated) or stated == (width, height) else None
    except InputError:
        return None


def weight_digests(artifact: Artifact) -> list[str]:
    """Returns the digests of the files with weights that an ONNX file names, without missing ones."""
    if artifact.format != "onnx":
        return []
    content = artifact.path.read_bytes()
    names = [content[each.end() : each.end() + each[1][0]] for each in _LOCATION.finditer(content)]
    files = [artifact.path.parent / name.decode(errors="replace") for name in dict.fromkeys(names)]
    return [sha256_file(file) for file in files if file.is_file()]
