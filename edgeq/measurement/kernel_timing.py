"""Times kernels in one engine, on this machine or on a device: `time_kernels`.

Each precision has a fresh process: some INT8 kernels of OpenVINO are slower in a process that has compiled a float
network before. Networks of one precision share a process, which gives the same times as a process for each of them.
The processes take turns in several rounds; a network's time is that of its fastest run, and counts only if other rounds
come near it: what disturbs a run makes it slower, never faster.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgeq.boundary import Count
from edgeq.errors import EngineError
from edgeq.exporting.costs.kernel import MOVING, Kernel, Tensor
from edgeq.exporting.costs.probe_nets import Precision, ProbeNet, kernel_net, read_in_int8, tensor_net, write_probe
from edgeq.exporting.costs.table import KernelCost
from edgeq.progress import Advance
from edgeq.runtimes.child import RunnerProcess

TIMER = ("-m", "edgeq.runtimes.kernel_timer")
_TIMEOUT_S = 300.0
_ROUNDS, _MIN_ROUNDS = 9, 5
_RUNS = 5
_MAX_RUN_S = 0.002
_WAKE_S = 0.002
"""How long several threads of an engine run before they are timed: they sleep while other processes have their turn."""

_ENOUGH_S, _MAX_S = 8.0, 40.0
"""Seconds of timing after which `_MIN_ROUNDS` rounds are enough, and after which the machine counts as too busy."""

_TURN = 4
"""Networks that one process times before the next process has its turn."""

_SENT = 16
"""Networks that are written, and opened, at the same time."""

_NEAR = 1.1
_WANTED_NEAR = 3
"""A network's fastest run is its time if so many rounds came within this factor of it."""

_REPEATS = 12
"""How often a network is timed again at most, if they did not."""

_MOST_DOUBTFUL = 0.05
"""Share of networks whose time may stay in doubt."""

_SMALLEST = Tensor(16, 1, 1)
"""Neighbours of this tensor take about no time: what is left is the engine's call."""


class _Started(msgspec.Struct):
    engine: str


class _Timed(msgspec.Struct):
    best_us: list[float]


class _Opened(msgspec.Struct):
    count: Count


@dataclass(frozen=True)
class Engine:
    """An engine whose kernels are timed.

    Attributes:
        runtime: Name of the runtime.
        threads: Its CPU threads.
        has_bf16: Whether its BF16 is timed too.
    """

    runtime: str
    threads: int
    has_bf16: bool

    @property
    def pairs_behind(self) -> bool:
        """Whether an INT8 layer needs a pair behind it."""
        return self.runtime == "onnxruntime"

    @property
    def channels_last(self) -> bool:
        """Whether its kernels take `(1, H, W, C)` as it is."""
        return self.runtime == "openvino"


@dataclass(frozen=True)
class TimerPlace:
    """A machine that times kernels.

    Attributes:
        command: Argument list that starts `edgeq.runtimes.kernel_timer` there.
        send: Files here -> their paths there, where they lie from then on.
    """

    command: Sequence[str] = (sys.executable, *TIMER)
    send: Callable[[Sequence[Path]], Sequence[str]] = lambda paths: [str(path) for path in paths]


HERE = TimerPlace()


def time_kernels(
    engine: Engine, kernels: Sequence[Kernel], advance: Advance, place: TimerPlace = HERE
) -> dict[Kernel, KernelCost]:
    """Returns what each kernel costs.

    Args:
        engine: What times them.
        kernels: What to time.
        advance: Is told of each kernel that is done.
        place: The machine; by default this one.

    Raises:
        EngineError: the engine refuses a network, a process died, or the machine is too busy to time anything.
    """
    with tempfile.TemporaryDirectory(prefix="edgeq-kernels-") as folder, contextlib.ExitStack() as stack:
        plan = _Plan.of(kernels, has_bf16=engine.has_bf16)
        timers = {
            precision: stack.enter_context(_Timer(engine, precision, nets, Path(folder), place))
            for precision, nets in plan.nets.items()
        }
        _time_all(list(timers.values()), len(kernels), advance)
        times = {precision: timer.times() for precision, timer in timers.items()}
    return {kernel: _cost(kernel, times) for kernel in kernels}


Times = dict[ProbeNet, float]


@dataclass(frozen=True)
class _Plan:
    """Which networks each process runs: `f32`, `int8` and, if asked for, `bf16`."""

    nets: dict[str, tuple[ProbeNet, ...]]

    @classmethod
    def of(cls, kernels: Sequence[Kernel], *, has_bf16: bool) -> _Plan:
        tensors = list(dict.fromkeys([_SMALLEST, *(tensor for kernel in kernels for tensor in _tensors(kernel))]))
        moving = [kernel for kernel in kernels if kernel.operator in MOVING]
        floats = [
            *(tensor_net(tensor, "float", "float") for tensor in tensors),
            *(kernel_net(kernel, "float") for kernel in kernels),
        ]
        integers = [
            *(tensor_net(tensor, before, behind) for tensor in tensors for before, behind in _INT8_ENDS),
            *(kernel_net(kernel, "int8") for kernel in kernels),
            *(read_in_int8(kernel) for kernel in moving),
        ]
        nets = {"f32": tuple(floats), "int8": tuple(integers)}
        return cls(nets | ({"bf16": tuple(floats)} if has_bf16 else {}))


_INT8_ENDS: tuple[tuple[Precision, Precision], ...] = (("int8", "int8"), ("float", "int8"), ("int8", "float"))


class _Timer:
    """One process and its networks. A context manager."""

    def __init__(
        self, engine: Engine, precision: str, nets: Sequence[ProbeNet], folder: Path, place: TimerPlace
    ) -> None:
        self._nets = nets
        self._warm_s = _WAKE_S if engine.threads > 1 else 0.0
        self._samples: list[list[float]] = [[] for _ in nets]
        self._process = RunnerProcess(f"kernels of {engine.runtime} in {precision}", place.command)
        try:
            self._open(engine, precision, folder, place)
        except BaseException:
            self._process.close()
            raise

    def __enter__(self) -> _Timer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.close()

    def _open(self, engine: Engine, precision: str, folder: Path, place: TimerPlace) -> None:
        compute = "bf16" if precision == "bf16" else "f32"
        settings = {"runtime": engine.runtime, "threads": engine.threads, "compute_precision": compute}
        self._process.ask_for(_Started, _TIMEOUT_S, "start", **settings)
        for first in range(0, len(self._nets), _SENT):
            paths = []
            for index, net in enumerate(self._nets[first : first + _SENT], start=first):
                model = write_probe(net, pairs_behind=engine.pairs_behind, channels_last=engine.channels_last)
                paths.append(folder / f"{precision}{index}.onnx")
                paths[-1].write_bytes(model.SerializeToString())
            self._process.ask_for(_Opened, _TIMEOUT_S, "open", files=list(place.send(paths)))
            for path in paths:
                path.unlink()

    @property
    def all_nets(self) -> range:
        """Indices of the networks."""
        return range(len(self._nets))

    @property
    def doubtful(self) -> list[int]:
        """Indices of the networks whose fastest run few other rounds came near."""
        return [index for index, values in enumerate(self._samples) if _near(values) < _WANTED_NEAR]

    def take_turn(self, first: int, count: int) -> None:
        """Times some neighbouring networks once more."""
        fields = {"first": first, "count": count, "runs": _RUNS, "warm_s": self._warm_s, "max_s": _MAX_RUN_S}
        timed = self._process.ask_for(_Timed, _TIMEOUT_S, "time", **fields).best_us
        for values, time_us in zip(self._samples[first : first + count], timed, strict=True):
            values.append(time_us)

    def times(self) -> Times:
        """Returns network -> its time in microseconds."""
        return {net: min(values) for net, values in zip(self._nets, self._samples, strict=True)}


def _near(values: Sequence[float]) -> int:
    """Returns how many of a network's rounds came near the fastest one, itself included."""
    return sum(value <= _NEAR * min(values) for value in values)


def _time_all(timers: Sequence[_Timer], kernels: int, advance: Advance) -> None:
    """Times all networks in rounds, and then those again that something has disturbed in most rounds.

    Raises:
        EngineError: that takes too long, or too many stay in doubt.
    """
    begun, done = time.monotonic(), 0
    for number in range(_ROUNDS):
        elapsed = time.monotonic() - begun
        if number >= _MIN_ROUNDS and elapsed > _ENOUGH_S:
            break
        if elapsed > _MAX_S:
            raise _too_busy(f"{number} rounds took {elapsed:.0f} s")
        turns = [[(timer, first) for first in timer.all_nets[::_TURN]] for timer in timers]
        for timer, first in filter(None, itertools.chain.from_iterable(itertools.zip_longest(*turns))):
            timer.take_turn(first, min(_TURN, len(timer.all_nets) - first))
        reached = kernels * (number + 1) // _ROUNDS
        advance(reached - done)
        done = reached
    advance(kernels - done)
    for timer in timers:
        for index in timer.doubtful * _REPEATS:
            if index in timer.doubtful:
                timer.take_turn(index, 1)
    doubtful = sum(len(timer.doubtful) for timer in timers)
    every = sum(len(timer.all_nets) for timer in timers)
    if doubtful > _MOST_DOUBTFUL * every:
        raise _too_busy(f"{doubtful} of {every} networks took another time in each round")


def _too_busy(why: str) -> EngineError:
    return EngineError(f"this machine is too busy to time kernels ({why})")


def _tensors(kernel: Kernel) -> tuple[Tensor, ...]:
    return (kernel.result,) if kernel.is_stem else (kernel.source, kernel.result)


def _cost(kernel: Kernel, times: dict[str, Times]) -> KernelCost:
    result = kernel.result
    quantize_us, dequantize_us = _conversions(result, times)
    return KernelCost(
        f32_us=_alone(kernel, times["f32"], "float"),
        int8_us=_alone(kernel, times["int8"], "int8"),
        bf16_us=_alone(kernel, times["bf16"], "float") if "bf16" in times else None,
        quantize_us=0.0 if kernel.is_stem else _conversions(kernel.source, times)[0],
        dequantize_us=dequantize_us,
        quantize_output_us=_quantized_apart(kernel, times) if kernel.operator in MOVING else quantize_us,
    )


def _alone(kernel: Kernel, times: Times, precision: str) -> float:
    """Returns a kernel's time without its neighbours and the engine's call; not below zero."""
    ends = ("int8", "int8") if precision == "int8" else ("float", "float")
    call = times[_net(_SMALLEST, ends)]

    def half(tensor: Tensor) -> float:
        return (times[_net(tensor, ends)] - call) / 2

    net = kernel_net(kernel, "int8" if precision == "int8" else "float")
    neighbours = net.branches + net.has_second_reader
    before = 0.0 if kernel.is_stem else neighbours * half(kernel.source)
    return max(0.0, times[net] - call - before - half(kernel.result))


def _net(tensor: Tensor, ends: tuple[str, str]) -> ProbeNet:
    before, behind = ends
    return tensor_net(tensor, "int8" if before == "int8" else "float", "int8" if behind == "int8" else "float")


def _conversions(tensor: Tensor, times: dict[str, Times]) -> tuple[float, float]:
    """Returns what it costs to convert a tensor between two layers, to INT8 and from it; not below zero."""
    floats, integers = times["f32"][_net(tensor, ("float", "float"))], times["int8"][_net(tensor, ("int8", "int8"))]
    mean = (floats + integers) / 2
    to_int8, from_int8 = (times["int8"][_net(tensor, ends)] for ends in (("float", "int8"), ("int8", "float")))
    return max(0.0, to_int8 - mean), max(0.0, from_int8 - mean)


def _quantized_apart(kernel: Kernel, times: dict[str, Times]) -> float:
    """Returns what it costs to convert the result of a kernel without weights to INT8; not below zero."""
    result = kernel.result
    readers = times["int8"][_net(result, ("int8", "int8"))] - times["f32"][_net(result, ("float", "float"))]
    kernels = times["int8"][read_in_int8(kernel)] - times["f32"][kernel_net(kernel, "float")]
    return max(0.0, kernels - readers / 2)
