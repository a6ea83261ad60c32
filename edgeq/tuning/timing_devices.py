"""Devices behind ssh that time the files of a search. Several of one kind share them, each file on one of them.

Each takes a batch of files, and the next one when it is done. A device that is lost hands its batch to the others.
Where TensorRT runs the files of the target, the device builds their engines first.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from edgeq.devices.config import LOCAL, Device, find_devices
from edgeq.devices.remote import RemoteDevice, named_errors
from edgeq.errors import DeviceError, EdgeqError, EngineError, InputError, MismatchError
from edgeq.evaluation.device_site import send_artifacts
from edgeq.exporting.artifact import Artifact, parse_manifest
from edgeq.measurement.benchmark import bench_jobs
from edgeq.measurement.timed_file import Sampling
from edgeq.progress import labelled
from edgeq.results.environment import Environment, parse_environment
from edgeq.results.measurement import BenchResult
from edgeq.runtimes import SIMULATED, get_runtime
from edgeq.runtimes.answers import Opened, Power
from edgeq.runtimes.base import LATENCY
from edgeq.runtimes.child import LOCAL_RUNNER, RunnerProcess
from edgeq.runtimes.tensorrt.library import TENSORRT
from edgeq.targets import Target
from edgeq.tuning.machine_lock import tell_once
from edgeq.tuning.staged import compute_precision
from edgeq.tuning.timing_site import ASK_S, Surveyed, Timed, in_words, is_of, jobs_of, no_energy

_BUILDER = ("-m", "edgeq.runtimes.tensorrt.build_worker")
_OPEN_S, _BUILD_S = 600.0, 3600.0
_WAIT_S = 3600.0
"""How long somebody else may measure on a device before it counts as lost."""

_LOOK_S = 5.0
"""How often to look for whom that is."""

_log = logging.getLogger(__name__)


class _Hold(msgspec.Struct):
    """What `edgeq.tuning.machine_lock` answers."""

    held: bool
    waits_for: list[str]


class _Built(msgspec.Struct):
    """What `edgeq.runtimes.tensorrt.build_worker` answers."""

    file: str
    manifest: dict[str, Any]


@dataclass(frozen=True)
class Facts:
    """What a device said of itself.

    Attributes:
        runtime: The engine that files are timed in.
        threads: Its CPU threads.
        environment: Engine and machine.
        power: How it tells its power.
    """

    runtime: str
    threads: int
    environment: Environment
    power: Power

    @property
    def surveyed(self) -> Surveyed:
        """The same in words: devices with the same words are of one kind."""
        return Surveyed(in_words(self.environment), f"{self.environment.engine}, {self.threads} threads")


def find_timing_devices(wished: Sequence[str]) -> list[Device]:
    """Returns devices by their names and addresses; none for this machine.

    Raises:
        InputError: a name is unknown or named twice, or this machine is one of several.
    """
    found = find_devices(wished)
    if [device.name for device in found] == [LOCAL]:
        return []
    if any(device.name == LOCAL for device in found):
        raise InputError(f"`device` {', '.join(wished)}: only devices of one kind share timings; name {LOCAL} alone")
    return found


def engine_builder(target: Target) -> str | None:
    """Returns the runtime whose engines a target's files become on the device; `None` if they run as they are."""
    first = target.runtimes[0]
    return None if any(form in get_runtime(first).formats for form in target.formats) else first


def require_target(target: Target, devices: Sequence[Device]) -> None:
    """Checks that devices can have what runs the files of a target.

    Raises:
        InputError: nothing builds their engines on a device.
    """
    if engine_builder(target) not in (None, TENSORRT.runtime):
        names = ", ".join(device.name for device in devices)
        raise InputError(
            f"`device` {names}: no engine of {target.runtimes[0]} is built on a device, so a search cannot time files "
            f"of {target.name}; omit `device`, and build and bench the recommended file"
        )


def require_reachable(devices: Sequence[Device]) -> None:
    """Connects to devices, before any long work.

    Raises:
        DeviceError: one does not answer, or is none that edgeq runs on.
    """
    for device in devices:
        with named_errors(device.name), RemoteDevice(device):
            pass


@contextlib.contextmanager
def alone(remote: RemoteDevice) -> Iterator[None]:
    """Has a device alone for the time of the block, wherever others come from who measure on it.

    Raises:
        EngineError: others do not let go of it.
    """
    name, until_s = remote.device.name, time.monotonic() + _WAIT_S
    with RunnerProcess(f"the lock of {name}", remote.python("-m", "edgeq.tuning.machine_lock")) as lock:
        while not (answer := lock.ask_for(_Hold, ASK_S, "hold", seconds=_LOOK_S)).held:
            others = [f"{name}: {text}" for text in answer.waits_for]
            if time.monotonic() >= until_s:
                raise EngineError("; ".join(others) or f"{name}: somebody else has measured on it for an hour")
            for text in others:
                tell_once(text)
        yield


@dataclass(eq=False)
class Devices:
    """Devices of one kind.

    Attributes:
        devices: Them, at least one.
        target: Whose files they run.
        runtime: The engine that files are scored in; a device may state another one.
        threads: CPU threads of the engine; by default what the device states, or one per physical core there.
    """

    devices: Sequence[Device]
    target: Target
    runtime: str
    threads: int | None = None
    _facts: dict[str, Facts] = field(default_factory=dict, init=False)

    @property
    def name(self) -> str:
        """Their names."""
        return ", ".join(device.name for device in self.devices)

    @property
    def refusal(self) -> str:
        """Nothing: a device that cannot time files is an error."""
        return ""

    def survey(self, file: Artifact) -> Surveyed:
        """Returns what they are.

        Raises:
            DeviceError: one is lost, or cannot run the file.
            MismatchError: they are not of one kind, or none of the target's.
        """
        kinds = [self.facts(device, file).surveyed for device in self.devices]
        for device, kind in zip(self.devices, kinds, strict=True):
            if kind != kinds[0]:
                raise MismatchError(
                    f"`device` {device.name} is {kind.machine} with {kind.engine}, {self.devices[0].name} is "
                    f"{kinds[0].machine} with {kinds[0].engine}: only devices of one kind share timings; name one kind"
                )
        return kinds[0]

    def facts(self, device: Device, file: Artifact) -> Facts:
        """Returns what a device says of itself; it is asked once.

        Raises:
            DeviceError: it is lost, or cannot run the file.
            MismatchError: it is none of the target's.
        """
        if device.name not in self._facts:
            with named_errors(device.name), RemoteDevice(device) as remote:
                found = self._ask(device, remote, file)
            self._check(device, found)
            self._facts[device.name] = found
        return self._facts[device.name]

    def counts_energy(self, file: Artifact) -> str:
        """Returns why one of them does not count energy; empty if all do."""
        found = [(each, self.facts(each, file)) for each in self.devices]
        reasons = (no_energy(each.name, facts.power, facts.runtime) for each, facts in found)
        return next(filter(None, reasons), "")

    def bench(self, batches: Sequence[Sequence[Artifact]], sampling: Sampling) -> Iterator[Timed]:
        """Yields each batch with its results; a batch of a device that is lost goes to another one.

        Raises:
            DeviceError: all devices are lost.
        """
        with _Crew(self, batches, sampling) as crew:
            yield from crew.results()

    @contextlib.contextmanager
    def ready(self, device: Device, file: Artifact) -> Iterator[tuple[RemoteDevice, Facts]]:
        """Yields a connection to a device that has all that it needs to run files."""
        facts = self.facts(device, file)
        with named_errors(device.name), RemoteDevice(device) as remote:
            remote.prepare([facts.runtime])
            yield remote, facts

    def send(self, remote: RemoteDevice, files: Sequence[Artifact]) -> list[tuple[Artifact, str]]:
        """Returns what runs of some files on a device, in their order, each with its path there; after `prepare`."""
        sent = send_artifacts(remote, files)
        if engine_builder(self.target) is None:
            return [(file, sent[file.path]) for file in files]
        found = []
        with RunnerProcess(f"the builder of {remote.device.name}", remote.python(*_BUILDER)) as builder:
            for file in files:
                built = builder.ask_for(_Built, _BUILD_S, "build", file=sent[file.path], manifest=file.to_json())
                found.append((parse_manifest(file.path, built.manifest), built.file))
        return found

    def _ask(self, device: Device, remote: RemoteDevice, file: Artifact) -> Facts:
        runtime = self._choose(device, remote, file)
        remote.prepare([runtime])
        threads = self.threads or remote.count_threads()
        ((run, path),) = self.send(remote, [file])
        with RunnerProcess(f"{run.name} in {runtime}", remote.python(*LOCAL_RUNNER[1:])) as process:
            opened = process.ask_for(
                Opened, _OPEN_S, "open", artifact=path, manifest=run.to_json(), runtime=runtime, threads=threads,
                compute_precision=compute_precision(runtime), hint=LATENCY, cpus=list(device.cpus) or None,
            )  # fmt: skip
            power = process.ask_for(Power, ASK_S, "power", seconds=0.0)
        return Facts(
            runtime, threads, parse_environment(opened.environment, source=file.name, error=EngineError), power
        )

    def _choose(self, device: Device, remote: RemoteDevice, file: Artifact) -> str:
        builder = engine_builder(self.target)
        if builder is None:
            wished = () if device.runtimes or self.runtime in SIMULATED else (self.runtime,)
            return remote.choose_runtimes(file, wished)[0]
        if not remote.facts.tensorrt:
            raise DeviceError(
                f"{device.name}: its Python has no TensorRT, which builds and runs the files of {self.target.name}; "
                "name an interpreter that imports tensorrt with `python` in devices.toml"
            )
        return builder

    def _check(self, device: Device, facts: Facts) -> None:
        environment = facts.environment
        if environment.emulated or not is_of(self.target, environment.architecture, facts.runtime):
            kind = "an emulated CPU" if environment.emulated else str(environment.architecture)
            raise MismatchError(
                f"`device` {device.name} is {kind}, whose times are not those of {self.target.name}; name a device "
                "that the target is for, or choose another `target`"
            )


@dataclass(frozen=True)
class _Outcome:
    """What came of a batch on a device; without results the device was lost, and with it the batch that it had."""

    index: int | None
    results: list[BenchResult] | None
    error: Exception | None = None


class _Crew:
    """A thread for each device, which takes batches until there is none. A context manager: all end with it."""

    def __init__(self, site: Devices, batches: Sequence[Sequence[Artifact]], sampling: Sampling) -> None:
        self._site = site
        self._batches = batches
        self._sampling = sampling
        self._work: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._outcomes: queue.SimpleQueue[_Outcome] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._remotes: list[RemoteDevice] = []
        self._closed = False
        self._threads = [
            threading.Thread(target=contextvars.copy_context().run, args=(self._serve, device), daemon=True)
            for device in site.devices
        ]

    def __enter__(self) -> _Crew:
        for index in range(len(self._batches)):
            self._work.put(index)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for _thread in self._threads:
            self._work.put(None)
        if kind is not None:  # Ctrl-C comes to the main thread only; without their connections the others end
            with self._lock:
                self._closed = True
                for remote in self._remotes:
                    remote.close()
        for thread in self._threads:
            thread.join()

    def results(self) -> Iterator[Timed]:
        """Yields each batch with its results.

        Raises:
            DeviceError: no device is left.
        """
        left, done = len(self._site.devices), 0
        while done < len(self._batches):
            outcome = self._outcomes.get()
            if outcome.index is not None and outcome.results is not None:
                done += 1
                yield outcome.index, outcome.results
                continue
            left -= 1
            if outcome.index is not None:
                self._work.put(outcome.index)
            if not left:
                raise DeviceError(
                    f"{outcome.error}; what was measured before is in the store: rerun the command when the device is "
                    "back"
                ) from outcome.error
            _log.warning("%s; its files go to the other devices", outcome.error)

    def _serve(self, device: Device) -> None:
        index = None
        try:
            with labelled(device.name), self._site.ready(device, self._batches[0][0]) as (remote, facts):
                with self._lock:
                    if self._closed:
                        return
                    self._remotes.append(remote)
                while (index := self._work.get()) is not None:
                    results = self._run(device, remote, facts, self._batches[index])
                    self._outcomes.put(_Outcome(index, results))
        except Exception as error:
            lost = error if isinstance(error, EdgeqError) else DeviceError(f"{device.name}: unexpected {error!r}")
            self._outcomes.put(_Outcome(index, None, lost))

    def _run(self, device: Device, remote: RemoteDevice, facts: Facts, files: Sequence[Artifact]) -> list[BenchResult]:
        sent = self._site.send(remote, files)
        places = {run.path: path for run, path in sent}
        with alone(remote):
            return bench_jobs(
                jobs_of([run for run, _ in sent], facts.runtime),
                threads=facts.threads,
                cpus=device.cpus or None,
                sampling=self._sampling,
                runner=remote.python(*LOCAL_RUNNER[1:]),
                locate=lambda artifact: places[artifact.path],
            )
