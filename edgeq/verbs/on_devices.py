"""`edgeq bench` and `edgeq eval` on devices, several at the same time; one that fails does not end the others."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgeq
from edgeq.devices.config import LOCAL, Device
from edgeq.devices.remote import RemoteDevice, named_errors
from edgeq.errors import DeviceError, EdgeqError, InputError
from edgeq.evaluation.device_site import DevicePlace, send_artifacts
from edgeq.evaluation.evaluate import evaluate_artifacts
from edgeq.evaluation.execution_site import HERE, Place
from edgeq.measurement.benchmark import bench_jobs, make_jobs, open_artifacts
from edgeq.measurement.device_result_cache import KeptResults
from edgeq.measurement.partly_measured import PartlyMeasuredError
from edgeq.measurement.timed_file import Sampling
from edgeq.progress import labelled
from edgeq.results.reading import Result
from edgeq.runtimes.base import LATENCY
from edgeq.runtimes.child import LOCAL_RUNNER
from edgeq.tuning.store import Store
from edgeq.tuning.stored_place import StoredPlace

Results = Sequence[Result]
OnResults = Callable[[Results], None]
"""Told, whenever a device is done, the results of all devices so far."""


@dataclass(frozen=True)
class Outcome:
    """What came of one device.

    Attributes:
        device: Its name.
        results: One for each artifact, runtime and compute precision; where it failed, what was measured nevertheless.
        error: Why it failed.
    """

    device: str
    results: Results = ()
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
    hint: str = LATENCY,
    on_results: OnResults = lambda _: None,
) -> list[Outcome]:
    """Returns what `edgeq.measurement.benchmark.bench_artifacts` measures on each device, in their order.

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
        hint: What engines are tuned for, `latency` or `throughput`.
        on_results: Told the results so far, whenever a device is done.

    Raises:
        EdgeqError: of the one device, if there is but one and nothing was measured on it.
    """
    artifacts = open_artifacts(paths)
    sampling = sampling or Sampling()

    def work(device: Device, remote: RemoteDevice | None) -> Results:
        if remote is None:
            jobs = make_jobs(artifacts, runtimes, compute_precisions, hint=hint)
            return bench_jobs(jobs, threads=threads, cpus=cpus, sampling=sampling)
        jobs = make_jobs(artifacts, runtimes, compute_precisions, remote.choose_runtimes, hint)
        remote.prepare([job.runtime for job in jobs])
        sent = send_artifacts(remote, [job.artifact for job in jobs])
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
        "artifacts": [artifact.to_json() for artifact in artifacts],
        "runtimes": list(runtimes),
        "compute_precisions": list(compute_precisions),
        "threads": threads,
        "cpus": None if cpus is None else list(cpus),
        "sampling": dataclasses.asdict(sampling),
        "hint": hint,
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
    annotations: Path | None = None,
    images_dir: Path | None = None,
    *,
    store: Path | None = None,
    on_results: OnResults = lambda _: None,
    **options: Any,
) -> list[Outcome]:
    """Returns what `edgeq.evaluation.evaluate.evaluate_artifacts` finds on each device, in their order.

    Devices infer and decode, this machine scores. What a device has found is kept here as it comes, until a whole run
    ended well: the next run goes on where one was cut. Every result has `device`, the device's name.

    Args:
        devices: Where files are run.
        paths: See `evaluate_artifacts`.
        annotations: See `evaluate_artifacts`.
        images_dir: See `evaluate_artifacts`.
        store: File that predictions of this machine are kept in: what it has is not computed again.
        on_results: Told the results so far, whenever a device is done.
        options: All else that `evaluate_artifacts` takes.

    Raises:
        EdgeqError: of the one device, if there is but one.
    """
    places: list[DevicePlace] = []

    def work(device: Device, remote: RemoteDevice | None) -> Results:
        if remote is None:
            with contextlib.nullcontext() if store is None else Store(store) as opened:
                place: Place = HERE if opened is None else StoredPlace(opened)
                return evaluate_artifacts(paths, annotations, images_dir, place=place, **options)
        if options.get("simulate") is not None:
            raise InputError(f"`simulate` {options['simulate']}: computes the same everywhere; omit `device`")
        there = DevicePlace(device, remote)
        places.append(there)
        return evaluate_artifacts(paths, annotations, images_dir, place=there, **options)

    if store is not None and any(device.name != LOCAL for device in devices):
        raise InputError("`store` keeps what this machine computes; omit `device`")
    outcomes = _on_devices(devices, work, on_results)
    if not any(outcome.error for outcome in outcomes):
        for place in places:
            place.forget()
    return outcomes


Work = Callable[[Device, RemoteDevice | None], Results]


def _on_devices(
    devices: Sequence[Device], work: Work, on_results: OnResults, kept: Mapping[Device, KeptResults] | None = None
) -> list[Outcome]:
    """Returns what came of each device; one whose results were kept is not even connected to."""
    opened = _Opened()

    def work_on(device: Device) -> Results:
        results: Results | None = kept[device].read() if kept else None
        if results is None:
            results = _work_on(device, work, opened)
            if kept:
                kept[device].write(results)
        return results

    if len(devices) == 1:
        outcome = _attempt_one(devices[0], work_on)
        on_results(outcome.results)
        return [outcome]
    done: dict[int, Outcome] = {}
    pool = ThreadPoolExecutor(len(devices))
    try:
        futures = {
            pool.submit(contextvars.copy_context().run, _attempt, device, work_on): number
            for number, device in enumerate(devices)
        }
        for future in as_completed(futures):
            done[futures[future]] = future.result()
            if future.result().results:
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


def _attempt_one(device: Device, work_on: Callable[[Device], Results]) -> Outcome:
    """Returns what came of a device where a part of it is worth keeping; all other errors are the caller's."""
    try:
        return Outcome(device.name, work_on(device))
    except PartlyMeasuredError as error:
        return Outcome(device.name, error.results, error)


def _attempt(device: Device, work_on: Callable[[Device], Results]) -> Outcome:
    try:
        return _attempt_one(device, work_on)
    except EdgeqError as error:
        return Outcome(device.name, error=error)
    except Exception as error:
        return Outcome(device.name, error=DeviceError(f"{device.name}: unexpected {error!r}"))


def _work_on(device: Device, work: Work, opened: _Opened) -> Results:
    partly: PartlyMeasuredError | None = None
    remote = None if device.name == LOCAL else RemoteDevice(device)
    with contextlib.ExitStack() as stack:
        stack.enter_context(labelled(device.name))
        if remote is not None:
            stack.enter_context(named_errors(device.name))
            stack.enter_context(opened.noted(remote))
            stack.enter_context(remote)
        try:
            results = work(device, remote)
        except PartlyMeasuredError as error:
            partly = error
    if partly is not None:
        kept = [dataclasses.replace(result, device=device.name) for result in partly.results]
        raise PartlyMeasuredError(partly.errors, kept)
    return [dataclasses.replace(result, device=device.name) for result in results]
