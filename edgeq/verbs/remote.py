"""`edgeq bench` and `edgeq eval` on devices, several at the same time; one that fails does not end the others."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import edgeq
from edgeq.devices.config import LOCAL, Device
from edgeq.devices.remote import RemoteDevice, named_errors
from edgeq.devices.transfer import SentFile
from edgeq.errors import DeviceError, EdgeqError, InputError
from edgeq.export.artifact import Artifact
from edgeq.foreign import open_artifact
from edgeq.progress import labelled, progress_bar
from edgeq.runtimes.child import LOCAL_RUNNER, RunnerProcess
from edgeq.verbs.bench import Sampling, bench_artifacts, bench_jobs, make_jobs
from edgeq.verbs.evaluate import evaluate_artifacts
from edgeq.verbs.journal import Entry, Journal
from edgeq.verbs.kept import KeptResults
from edgeq.verbs.predict import Job, SkippedImages
from edgeq.verbs.tasks import DetectionTask, Task
from edgeq.verbs.wire import unpack_prediction

_PREDICTOR = ("-m", "edgeq.verbs.predictor")
# An emulated CPU may take minutes for an image.
_TIMEOUT_S = 600.0
# Images named in one command: a line has at most a megabyte, and a path 4096 bytes.
_IMAGES_A_COMMAND = 200

Results = list[dict[str, Any]]
OnResults = Callable[[Results], None]
"""Told, whenever a device is done, the results of all devices so far."""


@dataclass(frozen=True)
class Outcome:
    """What came of one device.

    Attributes:
        device: Its name.
        results: One for each artifact, runtime and compute precision; none where it failed.
        error: Why it failed.
    """

    device: str
    results: Results = field(default_factory=list)
    error: EdgeqError | None = None


def bench_on_devices(
    devices: Sequence[Device],
    paths: Sequence[Path],
    runtimes: Sequence[str] = (),
    *,
    compute_precisions: Sequence[str] = (),
    threads: int | None = None,
    cpus: Sequence[int] | None = None,
    sampling: Sampling | None = None,
    on_results: OnResults = lambda _: None,
) -> list[Outcome]:
    """Returns what `edgeq.verbs.bench.bench_artifacts` measures on each device, in their order.

    The artifacts of one device run in turns, as they do here. Every result has `device`, the device's name. Where one
    of several devices fails, the next run with the same arguments takes what the others have measured.

    Args:
        devices: Where files are run.
        paths: See `bench_artifacts`.
        runtimes: See `bench_artifacts`; by default those that the device states, or the first of the file's target.
        compute_precisions: See `bench_artifacts`.
        threads: CPU threads of each engine; by default what the device states, or one a physical core there.
        cpus: CPUs that each process is pinned to; by default those that the device states, or all.
        sampling: How long is measured.
        on_results: Told the results so far, whenever a device is done.

    Raises:
        EdgeqError: of the one device, if there is but one.
    """
    sampling = sampling or Sampling()

    def work(device: Device, remote: RemoteDevice | None) -> Results:
        if remote is None:
            return bench_artifacts(
                paths, runtimes, compute_precisions=compute_precisions, threads=threads, cpus=cpus, sampling=sampling
            )
        jobs = make_jobs(paths, runtimes, compute_precisions, remote.choose_runtimes)
        remote.prepare([job.runtime for job in jobs])
        sent = _send_artifacts(remote, [job.artifact for job in jobs])
        return bench_jobs(
            jobs,
            threads=threads or remote.count_threads(),
            cpus=cpus or device.cpus or None,
            sampling=sampling,
            runner=remote.python(*LOCAL_RUNNER[1:]),
            locate=lambda artifact: sent[artifact.path],
        )

    if len(devices) == 1:
        return _on_devices(devices, work, on_results)
    asked = {
        "edgeq": edgeq.__version__,
        "artifacts": [open_artifact(path).to_json() for path in paths],
        "runtimes": list(runtimes),
        "compute_precisions": list(compute_precisions),
        "threads": threads,
        "cpus": None if cpus is None else list(cpus),
        "sampling": dataclasses.asdict(sampling),
    }
    kept = {device: KeptResults(device.name, {**asked, "device": dataclasses.asdict(device)}) for device in devices}
    outcomes = _on_devices(devices, work, on_results, kept)
    if not any(outcome.error for outcome in outcomes):
        for results in kept.values():
            results.forget()
    return outcomes


def evaluate_on_devices(
    devices: Sequence[Device],
    paths: Sequence[Path],
    annotations: Path | None,
    images_dir: Path,
    *,
    on_results: OnResults = lambda _: None,
    **options: Any,
) -> list[Outcome]:
    """Returns what `edgeq.verbs.evaluate.evaluate_artifacts` finds on each device, in their order.

    Devices infer and decode, this machine scores. What a device has found is kept here as it comes, until a whole run
    ended well: the next run goes on where one was cut. Every result has `device`, the device's name.

    Args:
        devices: Where files are run.
        paths: See `evaluate_artifacts`.
        annotations: See `evaluate_artifacts`.
        images_dir: See `evaluate_artifacts`.
        on_results: Told the results so far, whenever a device is done.
        options: All else that `evaluate_artifacts` takes.

    Raises:
        EdgeqError: of the one device, if there is but one.
    """
    places: list[_DevicePlace] = []

    def work(device: Device, remote: RemoteDevice | None) -> Results:
        if remote is None:
            return evaluate_artifacts(paths, annotations, images_dir, **options)
        if options.get("simulate") is not None:
            raise InputError(f"--simulate {options['simulate']}: computes the same everywhere; leave --device away")
        place = _DevicePlace(device, remote)
        places.append(place)
        return evaluate_artifacts(paths, annotations, images_dir, place=place, **options)

    outcomes = _on_devices(devices, work, on_results)
    if not any(outcome.error for outcome in outcomes):
        for place in places:
            place.forget()
    return outcomes


class _DevicePlace:
    """A device as a place of `edgeq.verbs.place`."""

    def __init__(self, device: Device, remote: RemoteDevice) -> None:
        self._device = device
        self._remote = remote
        self._journals: list[Journal] = []

    def choose_runtimes(self, artifact: Artifact, wished: Sequence[str]) -> list[str]:
        """Returns the runtimes to run an artifact in."""
        return self._remote.choose_runtimes(artifact, wished)

    def predict(self, jobs: Sequence[Job], task: Task[Any], threads: int | None) -> None:
        """Runs all images of a task through all jobs on the device."""
        self._remote.prepare([job.runtime for job in jobs])
        sent = _send_artifacts(self._remote, [job.artifact for job in jobs])
        images, absent = _read_digests(task.paths)
        runs = [_Run(job, task, self._journal(job, threads), images, absent) for job in jobs]
        wanted = {number for run in runs for number in run.rest}
        self._remote.push(images[number] for number in sorted(wanted))
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


class _Run:
    """The images of one job: those that a cut run left behind, and the rest.

    Attributes:
        job: What is run.
        rest: Positions in the task of the images that the device is to see.
    """

    def __init__(
        self,
        job: Job,
        task: Task[Any],
        journal: Journal,
        images: Mapping[int, SentFile],
        absent: Mapping[int, InputError],
    ) -> None:
        self.job = job
        self._task = task
        self._journal = journal
        self._images = images
        self._skipped = SkippedImages(task.paths)
        for number, error in absent.items():
            self._skipped.add(number, error)
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
            advance = stack.enter_context(progress_bar(len(paths), f"eval {job.artifact.name}"))
            done = False
            while not done:
                answer = process.ask(_TIMEOUT_S, "next")
                done = answer.get("done") is True
                self._note_environment(answer.get("environment"))
                entries = _list_of_objects(name, answer.get("found"))
                if not entries and not done:
                    raise DeviceError(f"{name}: the device tells of no image and goes on")
                for found in entries:
                    position = found.get("position")
                    if type(position) is not int or position not in left:
                        raise DeviceError(
                            f"{name}: the device tells of an image {str(position)[:40]!r} that is not due"
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
            raise DeviceError(f"{self.job.artifact.name}: the device tells an environment of {str(found)[:40]!r}")
        if found and not self.job.environment:
            self.job.environment = found
            self._journal.add_environment(found)

    def _receive(self, number: int, path: str, found: Mapping[str, Any]) -> None:
        try:
            entry = Entry.parse(found)
        except ValueError as error:
            raise DeviceError(f"{self._task.paths[number].name}: the device tells of it {error}") from error
        if entry.unreadable is not None:
            local = str(self._task.paths[number])
            entry = Entry(None, 0.0, 0.0, None, entry.unreadable.replace(path, local))
        self._take(number, entry)
        self._journal.add(self._images[number].digest, entry)

    def _take(self, number: int, entry: Entry) -> None:
        if entry.unreadable is not None or entry.size_px is None:
            self._skipped.add(number, InputError(str(entry.unreadable)))
            return
        width, height = entry.size_px
        self._task.check_image(number, np.broadcast_to(np.uint8(0), (height, width, 3)))
        prediction = unpack_prediction(entry.prediction)
        if isinstance(self._task, DetectionTask) == isinstance(prediction, np.ndarray):
            raise DeviceError(f"{self._task.paths[number].name}: the device predicts what is not {self._task.name}")
        if isinstance(prediction, np.ndarray):
            first = next(iter(self.job.predictions.values()), prediction)
            if (prediction.dtype, prediction.shape) != (first.dtype, first.shape):
                raise DeviceError(f"{self._task.paths[number].name}: the device's prediction is of another size")
        self.job.add(number, prediction, entry.inference_s)
        self.job.total_s += entry.elapsed_s


def _send_artifacts(remote: RemoteDevice, artifacts: Sequence[Artifact]) -> dict[Path, str]:
    """Returns artifact's path here -> its path there."""
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
        raise DeviceError(f"{name}: the device tells {str(found)[:40]!r}, wanted a list of images")
    return found


Work = Callable[[Device, RemoteDevice | None], Results]


def _on_devices(
    devices: Sequence[Device], work: Work, on_results: OnResults, kept: Mapping[Device, KeptResults] | None = None
) -> list[Outcome]:
    """Returns what came of each device; one whose results were kept is not even connected to."""
    opened = _Opened()

    def work_on(device: Device) -> Results:
        results = kept[device].read() if kept else None
        if results is None:
            results = _work_on(device, work, opened)
            if kept:
                kept[device].write(results)
        return results

    if len(devices) == 1:
        outcomes = [Outcome(devices[0].name, work_on(devices[0]))]
        on_results(outcomes[0].results)
        return outcomes
    done: dict[int, Outcome] = {}
    pool = ThreadPoolExecutor(len(devices))
    try:
        futures = {pool.submit(_attempt, device, work_on): number for number, device in enumerate(devices)}
        for future in as_completed(futures):
            done[futures[future]] = future.result()
            if not future.result().error:
                on_results([result for _, outcome in sorted(done.items()) for result in outcome.results])
    except BaseException:
        opened.close()  # Ctrl-C comes to this thread only; without their connections the others end
        raise
    finally:
        pool.shutdown()
    return [done[number] for number in range(len(devices))]


class _Opened:
    """The devices that are in use at the moment, so that one thread can end what the others do."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._remotes: list[RemoteDevice] = []
        self._closed = False

    @contextlib.contextmanager
    def noted(self, remote: RemoteDevice) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise DeviceError(f"{remote.device.name}: interrupted")
            self._remotes.append(remote)
        try:
            yield
        finally:
            with self._lock:
                self._remotes.remove(remote)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for remote in self._remotes:
                remote.close()


def _attempt(device: Device, work_on: Callable[[Device], Results]) -> Outcome:
    try:
        return Outcome(device.name, work_on(device))
    except EdgeqError as error:
        return Outcome(device.name, error=error)
    except Exception as error:
        return Outcome(device.name, error=DeviceError(f"{device.name}: unexpected {error!r}"))


def _work_on(device: Device, work: Work, opened: _Opened) -> Results:
    if device.name == LOCAL:
        with labelled(LOCAL):
            results = work(device, None)
    else:
        remote = RemoteDevice(device)
        with labelled(device.name), named_errors(device.name), opened.noted(remote), remote:
            results = work(device, remote)
    return [{**result, "device": device.name} for result in results]
