"""`python -m edgeq.runtimes.runner`: one artifact in one fresh process, driven by JSON lines.

A process of its own, because peak memory is counted by process and never falls, because threads and affinity count only
if they are set before an engine loads, and because an engine that crashes should take nothing else along. It needs
numpy, the engine and this package, so it runs on a device behind ssh as it runs here.

One JSON object a line comes in on stdin, and one goes out on stdout for each:

    {"command": "open", "artifact": "net.onnx", "manifest": null, "runtime": "openvino", "threads": 1,
     "compute_precision": null, "hint": "latency", "cpus": [0]}
        loads the file and runs it once -> cold_start_ms {start, import, load, first}, environment; `manifest` is the
        content of a manifest where none lies beside the file
    {"command": "run", "untimed_runs": 1, "min_runs": 3, "min_s": 0.2, "max_s": 60.0}
        runs once, and on until both minima or the maximum are reached -> samples_ns, window_ns [begin, end] of the
        timed runs by the monotonic clock, clock_mhz [before, after] of what computes and energy_j by RAPL (null where
        the machine does not tell); from engines on a device beside the CPU also device_ns {compute, enqueue}, see
        `edgeq.runtimes.base.DeviceTimes`, and gpu_j, the energy of a discrete GPU
    {"command": "report"}
        -> baseline_rss_bytes (peak before the file was loaded), peak_rss_bytes
    {"command": "call", "function": "package.module:function", "arguments": {}}
        -> result, what the function returns for the open session and the arguments, as JSON values
    {"command": "sense"}
        -> sensors, see `edgeq.sensors.read_sensors`; load_average
    {"command": "power", "seconds": 2.0}
        -> kind, source, watts, see `edgeq.sensors.sampler.measure_power`
    {"command": "watch", "leave_cpus": [0]} and {"command": "unwatch"}
        begin and end a time series of the sensors -> entries, power, cpu_share, see `edgeq.sensors.sampler.Sampler`;
        `leave_cpus` are those of the measurement, for this process to stay off
    {"command": "quit"}
        ends the process

An answer has `ok`; where that is false, `error` is the class and `message` the line for the user. The end of stdin ends
the process at once, in the midst of a run too: who asked is gone, and a process on a device has no other way to know.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact, Preprocessing, parse_manifest
from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.exporting.unchanged import require_unchanged
from edgeq.machine import peak_rss_bytes
from edgeq.registry import load_object
from edgeq.runtimes import get_runtime
from edgeq.runtimes.base import LATENCY, Arrays, DeviceTimes, Session
from edgeq.runtimes.commands import answer_by, field, serve
from edgeq.runtimes.watcher import Watcher
from edgeq.sensors import rapl
from edgeq.sensors.cpu_clock import CpuClock
from edgeq.sensors.jetson_gpu import GpuClock
from edgeq.sensors.nvidia_gpu import GpuEnergy, open_gpu_energy

_INPUT_SEED = 0
_NS_PER_S = 1_000_000_000
_NS_PER_MS = 1e6


class Runner:
    """Carries out the commands; holds the one open session.

    Args:
        start_ms: Age of the process when it could take its first command, or `None` if the system does not report it.
        root: Folder that holds `proc` and `sys`, for sensors.

    Attributes:
        quitting: Whether the last command was to quit.
    """

    def __init__(self, start_ms: float | None, root: Path = Path("/")) -> None:
        self._start_ms = start_ms
        self._root = root
        self._session: Session | None = None
        self._inputs: Arrays = {}
        self._clock: CpuClock | GpuClock | None = None
        self._gpu_energy: GpuEnergy | None = None
        self._baseline_rss_bytes: int | None = None
        self.quitting = False
        self._commands = {
            "open": self._open,
            "run": self._run,
            "report": self._report,
            "call": self._call,
            "quit": self._quit,
            **Watcher(root).commands,
        }

    def answer(self, line: bytes) -> dict[str, Any]:
        """Returns the answer to one line of input; errors that are the user's to act on are answers too."""
        return answer_by(self._commands, line)

    def _open(self, command: Mapping[str, Any]) -> dict[str, Any]:
        if self._session is not None:
            raise InputError("an artifact is open already; start another process for the next one")
        threads = field(command, "threads", int, type(None))
        compute_precision = field(command, "compute_precision", str, type(None))
        hint = field(command, "hint", str, type(None)) or LATENCY
        cpus = field(command, "cpus", list, type(None))
        path, manifest = Path(field(command, "artifact", str)), field(command, "manifest", dict, type(None))
        artifact = Artifact.load(path) if manifest is None else parse_manifest(path, manifest)
        runtime = get_runtime(field(command, "runtime", str))
        inputs = make_inputs(artifact)
        if cpus is not None:
            _pin(cpus)

        begun = time.perf_counter_ns()
        runtime.import_engine()
        imported = time.perf_counter_ns()
        self._baseline_rss_bytes = peak_rss_bytes()
        load_begun = time.perf_counter_ns()
        session = runtime(artifact, threads, compute_precision, hint)
        loaded = time.perf_counter_ns()
        session.run(inputs)
        finished = time.perf_counter_ns()
        require_unchanged(artifact)

        self._session, self._inputs = session, inputs
        self._clock = self._find_clock(session)
        self._gpu_energy = open_gpu_energy(self._root) if session.device_times is not None else None
        return {
            "cold_start_ms": {
                "start": self._start_ms,
                "import": (imported - begun) / _NS_PER_MS,
                "load": (loaded - load_begun) / _NS_PER_MS,
                "first": (finished - loaded) / _NS_PER_MS,
            },
            "environment": session.environment(),
        }

    def _find_clock(self, session: Session) -> CpuClock | GpuClock:
        """Returns the clock of what computes: a CPU that only hands runs over to a GPU slows down as it likes."""
        if session.device_times is not None:
            return GpuClock(self._root)
        return CpuClock(self._root, os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None)

    def _run(self, command: Mapping[str, Any]) -> dict[str, Any]:
        session, inputs = self._opened(), self._inputs
        min_runs = field(command, "min_runs", int)
        min_ns = field(command, "min_s", float, int) * _NS_PER_S
        max_ns = field(command, "max_s", float, int) * _NS_PER_S
        for _ in range(field(command, "untimed_runs", int)):
            session.run(inputs)
        samples: list[int] = []
        device: list[DeviceTimes] = []
        elapsed = 0
        clock = time.perf_counter_ns
        meters = self._read_meters()
        begun_ns = time.monotonic_ns()
        gc.disable()  # as timeit does: a collection in one sample is no part of an inference
        try:
            while not samples or ((len(samples) < min_runs or elapsed < min_ns) and elapsed < max_ns):
                before = clock()
                outputs = session.run(inputs)
                samples.append(clock() - before)
                del outputs  # freed outside the timer
                if session.device_times is not None:
                    device.append(session.device_times)
                elapsed += samples[-1]
        finally:
            gc.enable()
        answer = {"samples_ns": samples, "window_ns": [begun_ns, time.monotonic_ns()], **self._differences(*meters)}
        if not device:
            return answer
        compute, enqueue = ([round(ms * _NS_PER_MS) for ms in times] for times in zip(*device, strict=True))
        return {**answer, "device_ns": {"compute": compute, "enqueue": enqueue}}

    def _read_meters(self) -> tuple[float | None, dict[str, Any] | None, float | None]:
        """Returns the clock and the energy counters, those last: the energy is that between two calls."""
        mhz = self._clock.read_mhz() if self._clock is not None else None
        return mhz, rapl.read(self._root), self._read_gpu_j()

    def _read_gpu_j(self) -> float | None:
        return None if self._gpu_energy is None else self._gpu_energy.read_j()

    def _differences(self, mhz: float | None, energy: dict[str, Any] | None, gpu_j: float | None) -> dict[str, Any]:
        after_gpu_j = self._read_gpu_j()
        energy_j = rapl.joules(energy, rapl.read(self._root)) if energy is not None else None
        after_mhz = self._clock.read_mhz() if self._clock is not None else None
        return {
            "clock_mhz": None if mhz is None or after_mhz is None else [mhz, after_mhz],
            "energy_j": energy_j,
            **({} if gpu_j is None or after_gpu_j is None else {"gpu_j": after_gpu_j - gpu_j}),
        }

    def _report(self, _command: Mapping[str, Any]) -> dict[str, Any]:
        self._opened()
        return {"baseline_rss_bytes": self._baseline_rss_bytes, "peak_rss_bytes": peak_rss_bytes()}

    def _call(self, command: Mapping[str, Any]) -> dict[str, Any]:
        # Work that needs more than an engine is named by who asks for it: this package knows nothing above it.
        function = load_object("function", field(command, "function", str))
        return {"result": function(self._opened(), **(field(command, "arguments", dict, type(None)) or {}))}

    def _quit(self, _command: Mapping[str, Any]) -> dict[str, Any]:
        self.quitting = True
        return {}

    def _opened(self) -> Session:
        if self._session is None:
            raise InputError("no artifact is open; send the command open first")
        return self._session


def make_inputs(artifact: Artifact) -> Arrays:
    """Returns input name -> random array as the manifest states it, the same ones in every process.

    Inputs of the size that pre-processing makes images of hold noise of 0..255 pre-processed. Other integers that stand
    for real numbers, and 8-bit ones of four dimensions, take every value of their type; all others are 0 or 1 (valid as
    an index and as a mask). Other floats are standard normal. Free dimensions are 1.
    """
    rng = np.random.default_rng(_INPUT_SEED)
    return {spec.name: _make_input(spec, artifact.preprocessing, rng) for spec in artifact.inputs}


def _make_input(spec: TensorSpec, preprocessing: Preprocessing | None, rng: np.random.Generator) -> np.ndarray:
    shape = tuple(1 if length is None else length for length in spec.shape)
    dtype = np.dtype(spec.dtype)
    is_real = np.issubdtype(dtype, np.floating) or spec.scale is not None
    if is_real and preprocessing is not None and (count := _count_images(spec, shape, preprocessing)) is not None:
        pixels = rng.integers(0, 256, (count, preprocessing.channels, preprocessing.height_px, preprocessing.width_px))
        mean, std = (np.reshape(values, (-1, 1, 1)) for values in (preprocessing.mean, preprocessing.std))
        return spec.encode((pixels * preprocessing.scale - mean) / std)
    if np.issubdtype(dtype, np.floating):
        return rng.standard_normal(shape).astype(dtype)
    if spec.scale is not None or (dtype.itemsize == 1 and dtype != np.bool_ and len(shape) == 4):
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    return rng.integers(0, 2, shape).astype(dtype)


def _count_images(spec: TensorSpec, shape: tuple[int, ...], preprocessing: Preprocessing) -> int | None:
    """Returns how many images of the pre-processing's size an input takes; `None` if it takes something else."""
    channels, height, width = preprocessing.channels, preprocessing.height_px, preprocessing.width_px
    image = (channels, height, width) if spec.layout == "NCHW" else (height, width, channels)
    return shape[0] if shape[1:] == image else None


def process_age_ms() -> float | None:
    """Returns the time since this process was started, to the kernel's tick of 10 ms; `None` outside Linux."""
    if not (sys.platform == "linux" and Path("/proc/self/stat").exists()):
        return None
    # The second field is the program's name in parentheses and may hold spaces; starttime is field 22.
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started_s = int(fields[22 - 3]) / os.sysconf("SC_CLK_TCK")
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started_s) * 1000


def _pin(cpus: list[int]) -> None:
    if not hasattr(os, "sched_setaffinity"):
        raise InputError("this system cannot pin a process to CPUs; omit `cpus`")
    try:
        os.sched_setaffinity(0, cpus)
    except OSError as error:
        raise InputError(f"cannot run on CPUs {cpus} ({error.strerror}); this machine has {os.cpu_count()}") from error


def main(root: Path = Path("/")) -> NoReturn:
    """Answers commands until told to quit.

    Args:
        root: Folder that holds `proc` and `sys`, for sensors.
    """
    runner = Runner(process_age_ms(), root)
    # What ONNX Runtime sends home since 1.29 would run beside the measurement.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    serve(runner.answer, lambda: runner.quitting)


if __name__ == "__main__":
    main()
