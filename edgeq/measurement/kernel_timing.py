"""Times kernels in one engine on this machine: `time_kernels`.

Each precision has a fresh process: some INT8 kernels of OpenVINO are slower in a process that has compiled a float
network before. Networks of one precision share a process, which gives the same times as a process for each of them. The
processes take turns in several rounds; a network's time is the median over the rounds of the fastest of a few runs.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
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

_TIMER = (sys.executable, "-m", "edgeq.runtimes.kernel_timer")
_TIMEOUT_S = 300.0
_ROUNDS = 9
_RUNS = 5
_MAX_RUN_S = 0.002
_TURN = 4
"""Networks that one process times before the next process has its turn."""

_MAX_SPREAD = 1.5
"""Rounds that differ more than this, in the middle half of all networks, were disturbed."""

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


def time_kernels(engine: Engine, kernels: Sequence[Kernel], advance: Advance) -> dict[Kernel, KernelCost]:
    """Returns what each kernel costs.

    Args:
        engine: Where to time them.
        kernels: What to time.
        advance: Is told of each kernel that is done.

    Raises:
        EngineError: the engine refuses a network, a process died, or the machine is too busy to time anything.
    """
    with tempfile.TemporaryDirectory(prefix="edgeq-kernels-") as folder, contextlib.ExitStack() as stack:
        plan = _Plan.of(kernels, has_bf16=engine.has_bf16)
        timers = {
            precision: stack.enter_context(_Timer(engine, precision, nets, Path(folder)))
            for precision, nets in plan.nets.items()
        }
        _take_turns(list(timers.values()), len(kernels), advance)
        _require_calm(list(timers.values()))
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

    def __init__(self, engine: Engine, precision: str, nets: Sequence[ProbeNet], folder: Path) -> None:
        self._nets = nets
        self._rounds: list[list[float]] = []
        self._process = RunnerProcess(f"kernels of {engine.runtime} in {precision}", _TIMER)
        try:
            self._open(engine, precision, folder)
        except BaseException:
            self._process.close()
            raise

    def __enter__(self) -> _Timer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.close()

    def _open(self, engine: Engine, precision: str, folder: Path) -> None:
        compute = "bf16" if precision == "bf16" else "f32"
        settings = {"runtime": engine.runtime, "threads": engine.threads, "compute_precision": compute}
        self._process.ask_for(_Started, _TIMEOUT_S, "start", **settings)
        for index, net in enumerate(self._nets):
            path = folder / f"{precision}{index}.onnx"
            model = write_probe(net, pairs_behind=engine.pairs_behind, channels_last=engine.channels_last)
            path.write_bytes(model.SerializeToString())
            self._process.ask_for(_Opened, _TIMEOUT_S, "open", files=[str(path)])
            path.unlink()

    def turns(self) -> Iterator[int]:
        """Yields the first network of each turn of a new round."""
        self._rounds.append([])
        yield from range(0, len(self._nets), _TURN)

    def take_turn(self, first: int) -> None:
        """Times the networks of one turn."""
        count = min(_TURN, len(self._nets) - first)
        fields = {"first": first, "count": count, "runs": _RUNS, "max_s": _MAX_RUN_S}
        self._rounds[-1] += self._process.ask_for(_Timed, _TIMEOUT_S, "time", **fields).best_us

    def times(self) -> Times:
        """Returns network -> its time in microseconds."""
        return {net: statistics.median(values) for net, values in zip(self._nets, self._columns(), strict=True)}

    def spreads(self) -> list[float]:
        """Returns how many times as long the upper quartile of a network's rounds is as the lower one."""
        ordered = [sorted(values) for values in self._columns()]
        quarter = _ROUNDS // 4
        return [values[-1 - quarter] / values[quarter] for values in ordered]

    def _columns(self) -> list[tuple[float, ...]]:
        return list(zip(*self._rounds, strict=True))


def _take_turns(timers: Sequence[_Timer], kernels: int, advance: Advance) -> None:
    done = 0
    for number in range(_ROUNDS):
        waiting = [(timer, timer.turns()) for timer in timers]
        while waiting:
            for timer, turns in list(waiting):
                if (first := next(turns, None)) is None:
                    waiting.remove((timer, turns))
                else:
                    timer.take_turn(first)
        reached = kernels * (number + 1) // _ROUNDS
        advance(reached - done)
        done = reached


def _require_calm(timers: Sequence[_Timer]) -> None:
    spread = statistics.median(value for timer in timers for value in timer.spreads())
    if spread > _MAX_SPREAD:
        raise EngineError(
            f"this machine is too busy to time kernels (rounds differ {spread:.1f} times); try again when it is idle"
        )


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
