"""The other end of `edgeq.runtimes.runner`: starts it, asks it, and leaves no process behind."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import IO, Any, TypeVar, cast

from edgeq.boundary import convert, parse_json
from edgeq.errors import EdgeqError, EngineError, InputError, MismatchError, ModelError
from edgeq.machine import peak_rss_bytes

T = TypeVar("T")

LOCAL_RUNNER = (sys.executable, "-m", "edgeq.runtimes.runner")

_ERRORS: dict[str, type[EdgeqError]] = {
    error.__name__: error for error in (EngineError, InputError, MismatchError, ModelError)
}
# What a runner may answer in one line: 64 predictions with masks take a tenth of it.
MAX_ANSWER_BYTES = 64 << 20
# Numbers, texts, lists and objects of one answer: 100,000 samples, times three. Each takes up to 64 bytes of memory.
MAX_ANSWER_VALUES = 1 << 20
# Answers that wait to be asked for; behind them the pipe is full, and the process waits.
_MAX_WAITING = 2
# Of what a process writes to stderr, its last lines, each up to this length.
STDERR_LINES = 5
MAX_STDERR_LINE = 400
_CLOSE_S = 2.0


class NoAnswerError(EngineError):
    """A runner's process did not answer.

    Attributes:
        peak_bytes: The most memory that it held; `None` if the system does not report it.
    """

    def __init__(self, message: str, peak_bytes: int | None) -> None:
        super().__init__(message)
        self.peak_bytes = peak_bytes


class LateAnswerError(NoAnswerError):
    """It did not answer in time."""


class EndedProcessError(NoAnswerError):
    """It ended instead of answering."""


class RunnerProcess:
    """A runner in a process of its own. A context manager: its end is the end of the process, whatever happened.

    Args:
        name: What it runs, for errors.
        command: Argument list that starts the runner, here or over ssh.
    """

    def __init__(self, name: str, command: Sequence[str] = LOCAL_RUNNER) -> None:
        self._name = name
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=safe_environment(),
            # Ctrl-C in a terminal goes to the whole group; ending the runners is this process's business.
            start_new_session=True,
        )
        self._stdin = cast(IO[bytes], self._process.stdin)
        self._answers: queue.Queue[bytes] = queue.Queue(_MAX_WAITING)
        self._log: collections.deque[str] = collections.deque(maxlen=STDERR_LINES)
        self._listening = _start(_queue_lines, self._process.stdout, self._answers)
        self._logging = _start(_keep_lines, self._process.stderr, self._log)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def ask(self, timeout_s: float, command: str, **fields: Any) -> dict[str, Any]:
        """Returns the runner's answer to a command.

        Args:
            timeout_s: How long to wait for it.
            command: Name of the command, see `edgeq.runtimes.runner`.
            fields: Its fields.

        Raises:
            EdgeqError: the runner reports an error; of the class that it names.
            LateAnswerError: the process does not answer in time.
            EndedProcessError: it died.
            EngineError: it answers something else.
        """
        if self._answers.qsize() and self._answers.queue[0]:
            raise EngineError(f"{self._name}: its process answers what it was not asked; {self._last_words()}")
        with contextlib.suppress(BrokenPipeError):  # it died; the missing answer says so with the reason
            self._stdin.write(json.dumps({"command": command, **fields}).encode() + b"\n")
            self._stdin.flush()
        try:
            line = self._answers.get(timeout=timeout_s)
        except queue.Empty:
            raise LateAnswerError(
                f"{self._name}: no answer to {command!r} within {timeout_s:g} s; {self._last_words()}",
                peak_rss_bytes(self.pid),
            ) from None
        if not line:
            peak = self._await_end()
            raise EndedProcessError(f"{self._name}: its process ended ({self._exit()}); {self._last_words()}", peak)
        answer = self._parse(line)
        if not answer["ok"]:
            raise error_of(answer)
        return answer

    def ask_for(self, wanted: type[T], timeout_s: float, command: str, **fields: Any) -> T:
        """Returns the runner's answer to a command as a value of a type; see `ask`.

        Raises:
            EngineError: also where the answer is not of that type.
        """
        answer = self.ask(timeout_s, command, **fields)
        kind = f"the answer of a runner to {command!r}"
        return convert(answer, wanted, source=self._name, kind=kind, place="answer", error=EngineError)

    def close(self) -> None:
        """Ends the process: the end of its stdin asks it to, and a signal makes it."""
        with contextlib.suppress(OSError):
            self._stdin.close()
        if self._answers.full():  # it writes without being asked, and may never read its stdin
            self._process.kill()
        try:
            self._process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        finally:
            if self._process.poll() is None:  # Ctrl-C while waiting
                self._process.kill()
                self._process.wait()
        until = time.monotonic() + _CLOSE_S
        while self._listening.is_alive() and time.monotonic() < until:  # it may wait for somebody to take its answer
            with contextlib.suppress(queue.Empty):
                self._answers.get(timeout=0.05)
        for thread in (self._listening, self._logging):
            # Where something that it started (an ssh master) lives on and holds the pipe, the thread goes on reading.
            thread.join(_CLOSE_S)

    def __enter__(self) -> RunnerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _parse(self, line: bytes) -> dict[str, Any]:
        if len(line) >= MAX_ANSWER_BYTES or sum(map(line.count, (b",", b"[", b"{"))) > MAX_ANSWER_VALUES:
            raise EngineError(
                f"{self._name}: its process answered more than {MAX_ANSWER_BYTES >> 20} MiB or {MAX_ANSWER_VALUES:,} "
                f"values; {self._last_words()}"
            )
        try:
            answer = parse_json(line, dict[str, Any], source=self._name, kind="the answer of a runner")
            if isinstance(answer.get("ok"), bool):
                return cast(dict[str, Any], printable(answer) if b"\\u" in line else answer)
        except InputError:
            pass
        raise EngineError(
            f"{self._name}: its process answered {line[:80]!r}, wanted a JSON object; {self._last_words()}"
        )

    def _await_end(self) -> int | None:
        """Returns the most memory that the ended process held, in bytes; `None` where it lives or nobody tells."""
        if not hasattr(os, "wait4"):
            return None
        until = time.monotonic() + _CLOSE_S
        while self._process.returncode is None and time.monotonic() < until:
            try:
                pid, status, usage = os.wait4(self._process.pid, os.WNOHANG)
            except ChildProcessError:  # somebody else has taken its end
                return None
            if pid:
                # `Popen` can wait no more for what ended here.
                self._process.returncode = os.waitstatus_to_exitcode(status)
                return int(usage.ru_maxrss) * (1 if sys.platform == "darwin" else 1024)
            time.sleep(0.01)
        return None

    def _exit(self) -> str:
        try:
            code = self._process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            return "closed its output"
        return f"killed by signal {-code}" if code < 0 else f"exit code {code}"

    def _last_words(self) -> str:
        self._logging.join(0.2)  # what it wrote last may be on the way
        words = printable(" | ".join(self._log))
        return f"it last wrote: {words}" if words else "it wrote nothing to stderr"


def error_of(answer: Mapping[str, Any]) -> EdgeqError:
    """Returns the error that an answer reports, of the class that it names."""
    return _ERRORS.get(str(answer.get("error")), EngineError)(str(answer.get("message")))


def printable(value: Any) -> Any:
    """Returns a JSON value without the characters in its texts that would drive a terminal."""
    if isinstance(value, str):
        return "".join(character for character in value if character.isprintable() or character in "\n\t")
    if isinstance(value, list):
        return [printable(each) for each in value]
    if isinstance(value, dict):
        return {printable(key): printable(each) for key, each in value.items()}
    return value


def safe_environment() -> dict[str, str]:
    """Returns the environment for a child `python -m` or `-c` that does not import from the working folder.

    Python would put that folder first on the path, and a file of the user's there may be called onnxruntime.py. Python
    3.10 ignores the setting.
    """
    return os.environ | {"PYTHONSAFEPATH": "1"}


def _start(target: Callable[..., None], *arguments: Any) -> threading.Thread:
    thread = threading.Thread(target=target, args=arguments, daemon=True)
    thread.start()
    return thread


def _queue_lines(stream: IO[bytes], lines: queue.Queue[bytes]) -> None:
    with stream:
        while line := stream.readline(MAX_ANSWER_BYTES):
            lines.put(line)
            if len(line) == MAX_ANSWER_BYTES:  # what follows is no answer, and as long as the process likes
                break
    lines.put(b"")


def _keep_lines(stream: IO[bytes], lines: collections.deque[str]) -> None:
    with stream:
        while line := stream.readline(MAX_STDERR_LINE):
            if text := line.decode(errors="replace").strip():
                lines.append(text)
