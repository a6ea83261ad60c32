"""A device as a place where `edgeq eval` runs images (`edgeq.evaluation.execution_site`).

Devices infer and decode, this machine scores. What a device has found is kept as it comes, image by image.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.devices.config import Device
from edgeq.devices.remote import RemoteDevice
from edgeq.devices.transfer import SentFile
from edgeq.errors import DeviceError, InputError
from edgeq.evaluation.inference import Images, Job, SkippedImages
from edgeq.evaluation.journal import Entry, Journal
from edgeq.evaluation.prediction_codec import unpack_prediction
from edgeq.exporting.artifact import Artifact
from edgeq.inputs import ImageFile, InputCache
from edgeq.progress import progress_bar
from edgeq.runtimes.child import RunnerProcess

_PREDICTOR = ("-m", "edgeq.evaluation.prediction_server")
# An emulated CPU may take minutes for an image.
_TIMEOUT_S = 600.0
# Images named in one command: a line has at most a megabyte, and a path 4096 bytes.
_IMAGES_A_COMMAND = 200


class DevicePlace:
    """A device as a place of `edgeq.evaluation.execution_site`."""

    is_here = False

    def __init__(self, device: Device, remote: RemoteDevice) -> None:
        self._device = device
        self._remote = remote
        self._journals: list[Journal] = []

    def choose_runtimes(self, artifact: Artifact, wished: Sequence[str]) -> list[str]:
        """Returns the runtimes to run an artifact in."""
        return self._remote.choose_runtimes(artifact, wished)

    def predict(self, jobs: Sequence[Job], images: Images, threads: int | None, inputs: InputCache) -> None:
        """Runs all images through all jobs on the device, which prepares them itself."""
        if not all(isinstance(item, ImageFile) for item in images.items):
            raise InputError("the images are arrays or frames, and devices are sent image files; omit `device`")
        self._remote.prepare([job.runtime for job in jobs])
        sent = send_artifacts(self._remote, [job.artifact for job in jobs])
        files, absent = _read_digests(images.paths)
        runs = [DeviceRun(job, images, self._journal(job, threads), files, absent) for job in jobs]
        wanted = {number for run in runs for number in run.rest}
        self._remote.push(files[number] for number in sorted(wanted))
        for run in runs:
            if run.rest:
                run.go_on(self._remote, sent[run.job.artifact.path], threads or self._device.threads)
            run.finish()

    def forget(self) -> None:
        """Removes what was kept for a run that is cut."""
        for journal in self._journals:
            journal.remove()

    def _journal(self, job: Job, threads: int | None) -> Journal:
        key = {
            "device": [self._device.name, self._device.destination, self._device.port],
            "software": self._remote.identity,
            "artifact": job.artifact.to_json(),
            "runtime": job.runtime,
            "compute_precision": job.compute_precision,
            "threads": threads or self._device.threads,
        }
        self._journals.append(Journal(key))
        return self._journals[-1]


class DeviceRun:
    """The images of one job: those that a cut run left behind, and the rest.

    Attributes:
        job: What is run.
        rest: Positions in the task of the images that the device is to see.
    """

    def __init__(
        self,
        job: Job,
        task: Images,
        journal: Journal,
        images: Mapping[int, SentFile],
        absent: Mapping[int, InputError],
    ) -> None:
        self.job = job
        self._task = task
        self._journal = journal
        self._images = images
        self._skipped = SkippedImages(task)
        for number, error in absent.items():
            self._skipped.add(number, ImageFile(task.paths[number]), error)
        known, environment = journal.read()
        self.rest = [number for number, image in images.items() if not environment or image.digest not in known]
        job.environment = environment
        for number in images.keys() - set(self.rest):
            self._take(number, known[images[number].digest])

    def go_on(self, remote: RemoteDevice, artifact: str, threads: int | None) -> None:
        """Has the device see the rest, and keeps what comes, image by image."""
        job, paths = self.job, [remote.path_of(self._images[number]) for number in self.rest]
        left = set(range(len(paths)))
        with contextlib.ExitStack() as stack:
            name = f"{job.artifact.name} in {job.runtime}"
            process = stack.enter_context(RunnerProcess(name, remote.python(*_PREDICTOR)))
            process.ask(
                _TIMEOUT_S,
                "open",
                artifact=artifact,
                manifest=job.artifact.to_json(),
                runtime=job.runtime,
                threads=threads,
                compute_precision=job.compute_precision,
            )
            for start in range(0, len(paths), _IMAGES_A_COMMAND):
                process.ask(_TIMEOUT_S, "images", paths=paths[start : start + _IMAGES_A_COMMAND])
            advance = stack.enter_context(progress_bar(len(paths), f"inference {job.artifact.name}"))
            done = False
            while not done:
                answer = process.ask(_TIMEOUT_S, "next")
                done = answer.get("done") is True
                self._note_environment(answer.get("environment"))
                entries = _list_of_objects(name, answer.get("found"))
                if not entries and not done:
                    raise DeviceError(f"{name}: the device returned no image but did not finish")
                for found in entries:
                    position = found.get("position")
                    if type(position) is not int or position not in left:
                        raise DeviceError(
                            f"{name}: the device returned an image {str(position)[:40]!r} that was not asked for"
                        )
                    left.remove(position)
                    self._receive(self.rest[position], paths[position], found)
                    advance(1)
        if left:
            raise DeviceError(f"{name}: the device ended with {len(left)} images left; try again")

    def finish(self) -> None:
        """Brings the predictions into the task's order, which must not depend on what an earlier run has left."""
        self.job.predictions = dict(sorted(self.job.predictions.items()))
        self.job.skipped = self._skipped.names

    def _note_environment(self, found: Any) -> None:
        if not isinstance(found, dict):
            raise DeviceError(f"{self.job.artifact.name}: the device reports the environment {str(found)[:40]!r}")
        if found and not self.job.environment:
            self.job.environment = found
            self._journal.add_environment(found)

    def _receive(self, number: int, path: str, found: Mapping[str, Any]) -> None:
        try:
            entry = Entry.parse(found)
        except ValueError as error:
            raise DeviceError(f"{self._task.paths[number].name}: the device returned {error}") from error
        if entry.unreadable is not None:
            local = str(self._task.paths[number])
            entry = Entry(None, 0.0, 0.0, None, entry.unreadable.replace(path, local))
        self._take(number, entry)
        self._journal.add(self._images[number].digest, entry)

    def _take(self, number: int, entry: Entry) -> None:
        if entry.unreadable is not None or entry.size_px is None:
            self._skipped.add(number, ImageFile(self._task.paths[number]), InputError(str(entry.unreadable)))
            return
        width, height = entry.size_px
        self._task.check_image(number, np.broadcast_to(np.uint8(0), (height, width, 3)))
        try:
            prediction = unpack_prediction(self.job.decoder.task, entry.prediction)
        except InputError as error:
            raise DeviceError(f"{self._task.paths[number].name}: the device returned {error}") from error
        first = next(iter(self.job.predictions.values()), prediction)
        if not self.job.decoder.task.are_alike(first, prediction):
            raise DeviceError(f"{self._task.paths[number].name}: the device's prediction is of another size")
        self.job.add(number, prediction, entry.inference_s)
        self.job.total_s += entry.elapsed_s


def send_artifacts(remote: RemoteDevice, artifacts: Sequence[Artifact]) -> dict[Path, str]:
    """Returns artifact's path here -> its path there.

    Raises:
        InputError: the weights of one lie in a file of their own, which devices do not take.
    """
    for artifact in artifacts:
        if artifact.weights_path is not None:
            raise InputError(
                f"{artifact.name}: its weights are in {artifact.weights_path.name}, and only single files are sent to "
                "devices; run it on this machine"
            )
    files = {artifact.path: SentFile.of(artifact.path) for artifact in artifacts}
    remote.push(files.values())
    return {path: remote.path_of(file) for path, file in files.items()}


def _read_digests(paths: Sequence[Path]) -> tuple[dict[int, SentFile], dict[int, InputError]]:
    """Returns position -> image, and position -> why it cannot be sent."""
    images, absent = {}, {}
    for number, path in enumerate(paths):
        try:
            images[number] = SentFile.of(path)
        except InputError as error:
            absent[number] = error
    return images, absent


def _list_of_objects(name: str, found: Any) -> list[dict[str, Any]]:
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise DeviceError(f"{name}: the device returned {str(found)[:40]!r}, wanted a list of images")
    return found
