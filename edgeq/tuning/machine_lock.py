"""One machine, one measurement: what is timed has the machine to itself, whoever else predicts images on it.

Only measurements exclude others. Who predicts lets a measurement begin before each image, so that two searches on one
machine wait for no more than an image, or for one batch of files that is timed.

Locks of files, which end with the process that holds them, however it ends. They hold between all processes of a user
on a machine: workers of several runs, and of a cluster. Whoever waits for longer than a moment is told for whom, once,
and again if that process was stopped: it would wait without end.

`python -m edgeq.tuning.machine_lock` holds a machine for somebody else: it waits until it has it alone, answers the
command `{"command": "hold", "seconds": 5}` once it has, or by then with whom it waits for, and holds the machine to the
end of its stdin. So whoever measures on a device behind ssh shares it with nobody, from whichever machine they come.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import contextvars
import logging
import math
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from edgeq.errors import EngineError
from edgeq.runtimes.commands import answer_by, field, serve
from edgeq.tuning.lock_holders import Holder, holders_of

try:
    import fcntl
except ImportError:  # Windows: nothing is exclusive there
    fcntl = None  # type: ignore[assignment]

_GATE, _MACHINE = "gate", "machine"
_PATIENCE_S = 3.0
"""How long to wait without a word, and how often to look for whom it is."""

_LOOK_S = 0.5
"""How often to look whether a wait should end."""

_log = logging.getLogger(__name__)
_told: set[str] = set()
_until_s: contextvars.ContextVar[float] = contextvars.ContextVar("until_s", default=math.inf)


class BusyMachineError(EngineError):
    """Somebody else had the machine until there was no time left."""


@contextlib.contextmanager
def shared_machine() -> Iterator[None]:
    """Computes next to others for the time of the block; waits while somebody has the machine alone.

    Raises:
        BusyMachineError: the time of `waiting_until` is over.
    """
    with _locked(_GATE, alone=False):
        entered = contextlib.ExitStack()
        entered.enter_context(_locked(_MACHINE, alone=False))
    with entered:
        yield


@contextlib.contextmanager
def machine_alone() -> Iterator[None]:
    """Has the machine alone for the time of the block: waits until nobody computes, and lets nobody begin.

    Raises:
        BusyMachineError: the time of `waiting_until` is over.
    """
    # Who waits here holds the gate: otherwise there might always be somebody who computes.
    with _locked(_GATE, alone=True), _locked(_MACHINE, alone=True):
        yield


@contextlib.contextmanager
def waiting_until(at_s: float) -> Iterator[None]:
    """Lets nobody wait for the machine in the block after a time of `time.monotonic`; infinite for no limit."""
    token = _until_s.set(at_s)
    try:
        yield
    finally:
        _until_s.reset(token)


class Waiting:
    """A wait for the machine. It says for whom it is, unless it is short.

    Args:
        name: The lock that is waited for; that of who wants to compute by default.

    Attributes:
        holders: For whom it is, as last looked for; `None` as long as it is short.
    """

    def __init__(self, name: str = _GATE) -> None:
        self.holders: list[Holder] | None = None
        self._name = name
        self._look_s = time.monotonic() + _PATIENCE_S

    def look(self) -> None:
        """Looks for whom the wait is, if it is time to, and logs other processes that were not logged before."""
        if time.monotonic() < self._look_s:
            return
        self._look_s = time.monotonic() + _PATIENCE_S
        self.holders = _blockers(self._name)
        for holder in self.holders:
            if holder.pid != os.getpid():
                tell_once(str(holder))

    def require_time(self) -> None:
        """Checks that there is time to wait on.

        Raises:
            BusyMachineError: that of `waiting_until` is over.
        """
        if time.monotonic() >= _until_s.get():
            others = "; ".join(map(str, _blockers(self._name))) or _unseen()
            raise BusyMachineError(f"no time is left, and the machine was not free: {others}")


def tell_once(text: str) -> None:
    """Logs for whom this process waits, unless it was logged before."""
    if text not in _told:
        _told.add(text)
        _log.warning("%s", text)


def _blockers(name: str) -> list[Holder]:
    """Returns who keeps others from a lock. Who has the gate may wait in turn, for a process that is stopped."""
    holders = holders_of(_path(_MACHINE))
    if name == _MACHINE:
        return holders
    blocking = [each for each in holders if each.alone or each.is_stopped]
    return blocking or [each for each in holders_of(_path(_GATE)) if each.alone or each.is_stopped]


def _unseen() -> str:
    return f"waiting for a process that is not seen from here; on its system, `lsof {_path(_MACHINE)}` names it"


def _path(name: str) -> Path:
    user = os.getuid() if hasattr(os, "getuid") else 0
    return Path(tempfile.gettempdir()).resolve() / f"edgeq-{name}-{user}.lock"


@contextlib.contextmanager
def _locked(name: str, *, alone: bool) -> Iterator[None]:
    if fcntl is None:
        yield
        return
    descriptor = os.open(_path(name), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        operation = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        try:
            fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            _wait(descriptor, operation, Waiting(name))
        if alone:
            os.utime(descriptor)  # others are told since when
        yield
    finally:
        os.close(descriptor)


def _wait(descriptor: int, operation: int, waiting: Waiting) -> None:
    """Locks a file in a thread of its own, so that Ctrl-C and a deadline end the wait at once.

    If they do, the thread gets the lock later, and gives it back by closing the last descriptor of the file.
    """
    copy, locked = os.dup(descriptor), concurrent.futures.Future[None]()

    def lock() -> None:
        try:
            fcntl.flock(copy, operation)
            locked.set_result(None)
        except OSError as error:
            locked.set_exception(error)
        finally:
            os.close(copy)

    threading.Thread(target=lock, daemon=True).start()
    while not concurrent.futures.wait([locked], _LOOK_S).done:
        waiting.require_time()
        if waiting.holders == []:
            tell_once(_unseen())
        waiting.look()
    locked.result()


class _Held:
    """The machine, taken for somebody else by a thread that waits for it."""

    def __init__(self) -> None:
        self._taken = concurrent.futures.Future[None]()
        self._waiting = Waiting()
        self._thread = threading.Thread(target=self._take, daemon=True)

    def hold(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Returns whether the machine is held, after so many seconds at the latest, and for whom it waits if not."""
        if self._thread.ident is None:
            self._thread.start()
        if concurrent.futures.wait([self._taken], field(command, "seconds", int, float)).done:
            self._taken.result()
            return {"held": True, "waits_for": []}
        self._waiting.look()
        return {"held": False, "waits_for": [str(holder) for holder in self._waiting.holders or ()]}

    def _take(self) -> None:
        try:
            with machine_alone():
                self._taken.set_result(None)
                threading.Event().wait()
        except OSError as error:
            self._taken.set_exception(error)


def main() -> NoReturn:
    """Holds the machine for who drives this process."""
    held = _Held()
    serve(lambda line: answer_by({"hold": held.hold}, line), lambda: False)


if __name__ == "__main__":
    main()
