"""A connection to a device, by the user's own OpenSSH: their configuration, agent, jump hosts and host keys hold.

One master connection, which everything else goes through. It lives as long as this process: the master runs a command
on the device that reads until the end of its input, which comes when this process ends, however it ends.
"""

from __future__ import annotations

import collections
import contextlib
import os
import queue
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast

from edgeq.boundary import parse_json
from edgeq.devices.config import Device
from edgeq.errors import DeviceError, InputError, MissingDependencyError

Feed = Callable[[IO[bytes]], None]
"""Writes what a command on the device is to read from its stdin."""

_CONNECT_S = 30
_ALIVE_S = 15
_BEAT_S = 10.0
_SILENCE_S = 90.0
_CLOSE_S = 5.0
_READY = b"edgeq"
_MAX_ANSWER_BYTES = 4 << 20
_MAX_SAID = 300
_STDERR_LINES = 5
# The path of a Unix socket has at most 107 bytes, and ssh adds 17 while it makes one.
_MAX_SOCKET_PATH = 88
# ssh's options expand % and ~, and end at a space or quote.
_PLAIN_PATH = re.compile(r"[A-Za-z0-9_./-]+")
# What ssh itself exits with when it fails.
_SSH_FAILED = 255
_NOT_FOUND = 127


class Connection:
    """An open connection to a device. A context manager: its end is the end of everything that runs through it.

    Args:
        device: The device; not this machine.

    Attributes:
        device: The device.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self._folder: Path | None = None
        self._master: subprocess.Popen[bytes] | None = None
        self._said: _Collected | None = None
        self._watch: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Connection:
        if shutil.which("ssh") is None:
            raise MissingDependencyError("openssh-client", None, "Reaching a device")
        self._folder = _socket_folder()
        try:
            self._connect()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Process id of the master."""
        return self._opened().pid

    def command(self, arguments: Sequence[str]) -> list[str]:
        """Returns the argument list that runs a command on the device, each of its arguments unharmed."""
        self._opened()
        return self._ssh("no", remote_command(arguments))

    def run(self, arguments: Sequence[str], feed: Feed | None = None, *, timeout_s: float) -> bytes:
        """Returns what a command on the device writes to stdout.

        Args:
            arguments: The command.
            feed: Writes its stdin; by default that is empty.
            timeout_s: How long it may take.

        Raises:
            DeviceError: it failed, took too long or answered more than 4 MiB, or the connection is lost.
        """
        process = _start(self.command(arguments))
        output, said = _Collected(process.stdout, _MAX_ANSWER_BYTES), _Collected(process.stderr, _MAX_ANSWER_BYTES)
        feeding = threading.Thread(target=_feed, args=(process, feed), daemon=True)
        feeding.start()
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise DeviceError(f"{self.device.name}: did not answer within {timeout_s:g} s") from None
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            feeding.join(_CLOSE_S)
        answer, words = output.finish(), said.finish()
        if code:
            raise self._failed(arguments[0], code, words)
        if len(answer) > _MAX_ANSWER_BYTES:
            raise DeviceError(f"{self.device.name}: answered more than {_MAX_ANSWER_BYTES >> 20} MiB")
        return answer

    def ask(self, arguments: Sequence[str], feed: Feed | None = None, *, timeout_s: float) -> dict[str, Any]:
        """Returns the JSON object that a command on the device writes.

        Raises:
            DeviceError: as `run`, or it writes something else.
        """
        answer = self.run(arguments, feed, timeout_s=timeout_s)
        return parse_answer(self.device.name, answer)

    def keep_watched(self, script: str) -> None:
        """Has the device end the connection by itself once it hears nothing for a while: the network may be gone.

        Args:
            script: Source of `edgeq/devices/on_device/watch.py`.
        """
        # `exec`, so that its parent is sshd and not the login shell.
        command = self.command(["exec", self.device.python, "-c", script, str(_SILENCE_S)])
        quiet = subprocess.DEVNULL
        self._watch = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True
        )
        threading.Thread(target=_beat, args=(self._watch,), daemon=True).start()

    def close(self) -> None:
        """Ends the connection."""
        if self._watch is not None:
            _end(self._watch)
            self._watch = None
        if self._master is not None:
            _end(self._master)
            self._master = None
        if self._said is not None:
            self._said.finish()
            self._said = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _connect(self) -> None:
        waiting = remote_command(["sh", "-c", f"echo {_READY.decode()}; read line"])
        self._master = _start(self._ssh("yes", waiting))
        self._said = _Collected(self._master.stderr, _MAX_ANSWER_BYTES, keep_last=True)
        ready: queue.SimpleQueue[bool] = queue.SimpleQueue()
        threading.Thread(target=_await_ready, args=(self._master.stdout, ready), daemon=True).start()
        try:
            connected = ready.get(timeout=_CONNECT_S + _ALIVE_S)
        except queue.Empty:
            raise DeviceError(f"{self.device.name}: no connection within {_CONNECT_S + _ALIVE_S} s") from None
        if not connected:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._master.wait(_CLOSE_S)
            said_last = _one_line(self._said.finish()) or "ssh said nothing"
            raise DeviceError(f"{self.device.name}: cannot be reached: {said_last}; try: {self._hint()}")

    def _ssh(self, master: str, command: str) -> list[str]:
        device = self.device
        options = {
            "BatchMode": "yes",
            "ControlMaster": master,
            "ControlPath": f"{self._folder}/m",
            "ControlPersist": "no",
            "ConnectTimeout": str(_CONNECT_S),
            "ServerAliveInterval": str(_ALIVE_S),
            "LogLevel": "ERROR",
        }
        if master == "no":
            # Where the master's socket is gone, ssh would open a connection of its own, which nothing ends.
            options["ProxyCommand"] = "false"
        arguments = ["ssh", "-T", "-x", "-a"]
        arguments += [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
        arguments += ["-p", str(device.port)] if device.port else []
        return [*arguments, "--", device.destination, command]

    def _hint(self) -> str:
        port = f" -p {self.device.port}" if self.device.port else ""
        return f"ssh{port} {self.device.destination}"

    def _opened(self) -> subprocess.Popen[bytes]:
        if self._master is None or self._master.poll() is not None:
            raise DeviceError(f"{self.device.name}: the connection is lost; try again")
        return self._master

    def _failed(self, program: str, code: int, said: bytes) -> DeviceError:
        words = _one_line(said)
        if code == _SSH_FAILED or self._master is None or self._master.poll() is not None:
            return DeviceError(f"{self.device.name}: the connection is lost{f' ({words})' if words else ''}; try again")
        if code == _NOT_FOUND:
            return DeviceError(
                f"{self.device.name}: has no {program} ({words}); name its interpreter with `python` in devices.toml"
            )
        return DeviceError(f"{self.device.name}: {program} failed with exit code {code}: {words or 'it said nothing'}")


def remote_command(arguments: Sequence[str]) -> str:
    """Returns what the shell on a device takes for exactly these arguments.

    Raises:
        DeviceError: an argument holds a null character, which no argument can.
    """
    if any("\0" in argument for argument in arguments):
        raise DeviceError("a null character in a file name or option; rename the file")
    return shlex.join(arguments)


def parse_answer(name: str, answer: bytes) -> dict[str, Any]:
    """Returns the JSON object that a device answered.

    Raises:
        DeviceError: it is none, or an object that states an error.
    """
    try:
        document = parse_json(answer, dict[str, Any], source=name, kind="an answer")
    except InputError:
        raise DeviceError(
            f"{name}: answered {answer[:80]!r}, wanted a JSON object; does its shell print something at login?"
        ) from None
    if "error" in document:
        raise DeviceError(f"{name}: {_one_line(str(document['error']).encode(errors='replace'))}")
    return document


class _Collected:
    """Reads a stream in a thread, so that nobody waits for a full pipe, and keeps a bounded part of it."""

    def __init__(self, stream: IO[bytes] | None, max_bytes: int, *, keep_last: bool = False) -> None:
        self._stream = cast(IO[bytes], stream)
        self._max = max_bytes
        self._blocks: collections.deque[bytes] = collections.deque()
        self._keep_last = keep_last
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def finish(self) -> bytes:
        """Returns what came, at most a block more than the limit."""
        # A command that a killed ssh left behind holds the pipe until the master ends.
        self._thread.join(_CLOSE_S)
        return b"".join(self._blocks)

    def _read(self) -> None:
        size = 0
        with self._stream:
            while block := os.read(self._stream.fileno(), 1 << 16):
                if size <= self._max:
                    self._blocks.append(block)
                    size += len(block)
                elif self._keep_last:
                    self._blocks.append(block)
                    self._blocks.popleft()


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    # Ctrl-C in a terminal goes to the whole group; ending the connection is this process's business.
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        cast(IO[bytes], process.stdin).close()
    try:
        process.wait(_CLOSE_S)
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _beat(process: subprocess.Popen[bytes]) -> None:
    stdin = cast(IO[bytes], process.stdin)
    with contextlib.suppress(OSError, ValueError):
        while True:
            try:
                process.wait(_BEAT_S)
                return
            except subprocess.TimeoutExpired:
                stdin.write(b"\n")
                stdin.flush()


def _feed(process: subprocess.Popen[bytes], feed: Feed | None) -> None:
    stdin = cast(IO[bytes], process.stdin)
    with contextlib.suppress(OSError, ValueError):  # it ended before it had read everything, and says why itself
        if feed is not None:
            feed(stdin)
    with contextlib.suppress(OSError, ValueError):
        stdin.close()


def _await_ready(stdout: IO[bytes], ready: queue.SimpleQueue[bool]) -> None:
    """Says whether the device is there, behind whatever its shell prints at login; reads on to the end."""
    for line in iter(lambda: stdout.readline(1 << 16), b""):
        if line.strip() == _READY:
            ready.put(True)
    ready.put(False)
    stdout.close()


def _one_line(said: bytes) -> str:
    """Returns the last lines of what a device said, fit for a terminal: printable, in one line, not long."""
    lines = said.decode(errors="replace").strip().splitlines()[-_STDERR_LINES:]
    text = " | ".join(" ".join(line.split()) for line in lines if line.strip())
    return "".join(character for character in text if character.isprintable())[-_MAX_SAID:]


def _socket_folder() -> Path:
    """Returns a new folder that only this user can enter, under a name that is short and plain enough for a socket."""
    places = [os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"]  # noqa: S108 - mkdtemp makes it private
    for place in _each(places):
        with contextlib.suppress(OSError):
            folder = Path(tempfile.mkdtemp(prefix="edgeq-", dir=place))
            if len(os.fsencode(folder)) < _MAX_SOCKET_PATH - len("/m") and _PLAIN_PATH.fullmatch(str(folder)):
                return folder
            folder.rmdir()
    raise DeviceError(f"no folder for ssh's control socket in {', '.join(_each(places))}; free space or set TMPDIR")


def _each(places: Sequence[str | None]) -> Iterator[str]:
    return (place for place in places if place)
