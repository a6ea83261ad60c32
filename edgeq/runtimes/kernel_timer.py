"""`python -m edgeq.runtimes.kernel_timer`: times many small networks in one process, driven by JSON lines.

`edgeq.runtimes.runner` runs one artifact as users run it, with checks and copies that take longer than a small kernel.
Here inputs and outputs are bound to a network once, and only the engine's call is timed.

    {"command": "start", "runtime": "openvino", "threads": 1, "compute_precision": "f32"}
        imports the engine -> engine, its name and version
    {"command": "open", "files": ["a.onnx", "b.onnx"]}
        loads further networks and runs each once -> count, how many are open
    {"command": "time", "first": 0, "count": 2, "runs": 5, "warm_s": 0.0, "max_s": 0.002}
        runs each of these networks once and for `warm_s`, and then up to `runs` times or until `max_s` -> best_us, the
        fastest of each
    {"command": "quit"}
        ends the process
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np

from edgeq.errors import EngineError, InputError
from edgeq.runtimes import get_runtime
from edgeq.runtimes.base import first_line
from edgeq.runtimes.commands import answer_by, field, serve

Run = Callable[[], Any]

_NS_PER_US = 1e3
_NS_PER_S = 1e9
_LOG_FATAL = 4


class KernelTimer:
    """Carries out the commands.

    Attributes:
        quitting: Whether the last command was to quit.
    """

    def __init__(self) -> None:
        self._open_file: Callable[[str], Run] | None = None
        self._runs: list[Run] = []
        self.quitting = False
        self._commands = {"start": self._start, "open": self._open, "time": self._time, "quit": self._quit}

    def answer(self, line: bytes) -> dict[str, Any]:
        """Returns the answer to one line of input; errors that are the user's to act on are answers too."""
        return answer_by(self._commands, line)

    def _start(self, command: Mapping[str, Any]) -> dict[str, Any]:
        runtime, threads = field(command, "runtime", str), field(command, "threads", int)
        if runtime not in _OPENERS:
            raise InputError(f"runtime {runtime!r}: kernels are timed in {', '.join(_OPENERS)} only")
        engine = get_runtime(runtime).import_engine()
        self._open_file = _OPENERS[runtime](engine, threads, field(command, "compute_precision", str))
        return {"engine": f"{runtime} {engine.__version__.partition('-')[0]}"}

    def _open(self, command: Mapping[str, Any]) -> dict[str, Any]:
        if self._open_file is None:
            raise InputError("no engine is started; send the command start first")
        for path in field(command, "files", list):
            try:
                run = self._open_file(path)
                run()
            except Exception as error:
                raise EngineError(f"{path}: the engine cannot run it ({first_line(error)})") from error
            self._runs.append(run)
        return {"count": len(self._runs)}

    def _time(self, command: Mapping[str, Any]) -> dict[str, Any]:
        first, count = field(command, "first", int), field(command, "count", int)
        runs = field(command, "runs", int)
        warm_s, max_s = field(command, "warm_s", float, int), field(command, "max_s", float, int)
        return {"best_us": [_best_us(run, runs, warm_s, max_s) for run in self._runs[first : first + count]]}

    def _quit(self, _command: Mapping[str, Any]) -> dict[str, Any]:
        self.quitting = True
        return {}


def _best_us(run: Run, runs: int, warm_s: float, max_s: float) -> float:
    """Returns the fastest of some runs, behind others that bring back the caches and wake the engine's threads."""
    clock = time.perf_counter_ns
    warm = clock() + warm_s * _NS_PER_S
    run()
    while clock() < warm:
        run()
    best, elapsed, count = float("inf"), 0, 0
    while count < runs and (count == 0 or elapsed < max_s * _NS_PER_S):
        begun = clock()
        run()
        taken = clock() - begun
        best, elapsed, count = min(best, taken), elapsed + taken, count + 1
    return best / _NS_PER_US


def _input(shape: Any) -> np.ndarray:
    return np.random.default_rng(0).random([int(length) for length in shape], dtype=np.float32)


def _openvino(engine: Any, threads: int, compute_precision: str) -> Callable[[str], Run]:
    core = engine.Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": compute_precision,
    }

    def open_file(path: str) -> Run:
        compiled = core.compile_model(path, "CPU", settings)
        request = compiled.create_infer_request()
        for port in compiled.inputs:
            request.set_tensor(port, engine.Tensor(_input(port.shape)))
        infer: Run = request.infer
        return infer

    return open_file


def _onnxruntime(engine: Any, threads: int, _compute_precision: str) -> Callable[[str], Run]:
    options = engine.SessionOptions()
    if threads > 1:
        # One pool for all sessions: a pool spins for a while after a run, on the cores that the next session needs.
        engine.set_global_thread_pool_sizes(threads, 1)
        options.use_per_session_threads = False
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = _LOG_FATAL

    def open_file(path: str) -> Run:
        session = engine.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        for each in session.get_inputs():
            binding.bind_ortvalue_input(each.name, engine.OrtValue.ortvalue_from_numpy(_input(each.shape)))
        for each in session.get_outputs():
            binding.bind_output(each.name)
        return lambda: session.run_with_iobinding(binding)

    return open_file


_OPENERS: dict[str, Callable[[Any, int, str], Callable[[str], Run]]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}
"""Runtime -> (its package, threads, precision of float layers) -> opens a file and returns what runs it once."""


def main() -> NoReturn:
    """Answers commands until told to quit."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    timer = KernelTimer()
    serve(timer.answer, lambda: timer.quitting)


if __name__ == "__main__":
    main()
