"""Which of two engines of a model is the better one: the faster at equal accuracy."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeq.exporting.artifact import Artifact
from edgeq.runtimes import is_installed, open_session
from edgeq.runtimes.latency import interleaved_ratio
from edgeq.runtimes.tensorrt.facts import BuildFacts
from edgeq.runtimes.tensorrt.session import TensorRtSession

# Two engines are equally accurate where the error of one is at most this much larger; errors are relative.
_EQUAL_FACTOR, _EQUAL_OFFSET = 1.1, 0.001
_WARMUP_RUNS, _WARMUP_S = 10, 0.2
_ROUNDS, _RUNS_A_ROUND = 20, 10
_NS_PER_MS = 1e6

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RouteResult:
    """One of two engines that were compared.

    Attributes:
        route: How it was built.
        relative_error: Root mean square difference from the float model in ONNX Runtime, over that of its outputs, the
            largest of all outputs; `None` where ONNX Runtime is not installed.
        ratio: Median ratio of its GPU time to that of the first engine, timed in turns.
    """

    route: str
    relative_error: float | None
    ratio: float


def compare_engines(
    engines: Sequence[Artifact], source: Artifact, inputs: Sequence[Mapping[str, np.ndarray]]
) -> tuple[RouteResult, ...]:
    """Returns accuracy and speed of engines of one model; they take turns, so that only the ratio of times counts.

    Args:
        engines: The engines; ratios are to the first.
        source: The float ONNX file, whose outputs in ONNX Runtime are the truth.
        inputs: What they are run on; the first is timed.

    Raises:
        EngineError: one of them fails.
    """
    with contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(contextlib.closing(TensorRtSession(engine))) for engine in engines]
        errors: list[float | None] = [None] * len(engines)
        if is_installed("onnxruntime"):
            with open_session(source, "onnxruntime") as reference:
                wanted = [reference.run(each) for each in inputs]
            errors = [_error([session.run(each) for each in inputs], wanted) for session in sessions]
        else:
            _log.warning("%s: ONNX Runtime is not installed, so accuracy is not compared", source.name)
        rounds = _time(sessions, inputs[0])
    return tuple(
        RouteResult(BuildFacts.of(engine).route, error, interleaved_ratio(taken, rounds[0]))
        for engine, error, taken in zip(engines, errors, rounds, strict=True)
    )


def better(compared: Sequence[RouteResult]) -> int:
    """Returns the number of the faster engine, or of the more accurate one where the faster one loses accuracy."""
    by_speed = sorted(range(len(compared)), key=lambda number: compared[number].ratio)
    fast = by_speed[0]
    errors = [result.relative_error for result in compared]
    known = [error for error in errors if error is not None]
    error = errors[fast]
    if error is None or error <= _EQUAL_FACTOR * min(known) + _EQUAL_OFFSET:
        return fast
    return errors.index(min(known))


def _error(outputs: Sequence[Mapping[str, np.ndarray]], wanted: Sequence[Mapping[str, np.ndarray]]) -> float:
    """Returns the largest relative root mean square error of an output."""
    largest = 0.0
    for name in wanted[0]:
        squares = sum(float(np.sum(np.square(each[name], dtype=np.float64))) for each in wanted)
        off = sum(
            float(np.sum(np.square(found[name].astype(np.float64) - each[name])))
            for found, each in zip(outputs, wanted, strict=True)
        )
        largest = max(largest, (off / squares) ** 0.5 if squares else float(off > 0))
    return largest


def _time(sessions: Sequence[TensorRtSession], inputs: Mapping[str, np.ndarray]) -> list[list[list[int]]]:
    """Returns GPU times in nanoseconds by session and round."""
    for session in sessions:
        begun, runs = time.perf_counter(), 0
        while runs < _WARMUP_RUNS or time.perf_counter() - begun < _WARMUP_S:
            session.run(inputs)
            runs += 1
    rounds: list[list[list[int]]] = [[] for _ in sessions]
    for _ in range(_ROUNDS):
        for session, taken in zip(sessions, rounds, strict=True):
            taken.append([_gpu_ns(session, inputs) for _ in range(_RUNS_A_ROUND)])
    return rounds


def _gpu_ns(session: TensorRtSession, inputs: Mapping[str, np.ndarray]) -> int:
    session.run(inputs)
    assert session.device_times is not None  # noqa: S101 - it has just run
    return max(1, round(session.device_times.compute_ms * _NS_PER_MS))
