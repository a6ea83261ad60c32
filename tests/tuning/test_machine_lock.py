"""Waits for a machine that another process has: for whom is said, also of a stopped one, and a wait can be ended."""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeq.tuning import machine_lock
from edgeq.tuning.candidate import Candidate
from edgeq.tuning.journal import Trial
from edgeq.tuning.lock_holders import holders_of
from edgeq.tuning.machine_lock import BusyMachineError, Waiting, machine_alone, shared_machine, waiting_until
from edgeq.tuning.search_halving import Contender, Deadline, halve

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not say who holds a lock")

HOLD = """
import fcntl, os, sys
for path in sys.argv[2:]:
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, getattr(fcntl, sys.argv[1]))
print("ready", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def process(*paths: Path, kind: str = "LOCK_EX") -> Iterator[subprocess.Popen[str]]:
    """Yields a process that holds locks until its stdin ends."""
    command = [sys.executable, "-S", "-E", "-c", HOLD, kind, *map(str, paths)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as found:
        assert found.stdout is not None
        assert found.stdout.readline() == "ready\n"
        try:
            yield found
        finally:
            found.kill()


@pytest.fixture
def locks(tmp_path, monkeypatch) -> tuple[Path, Path]:
    """The files of the locks, in a folder of this test; who waits is told at once."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(machine_lock, "_PATIENCE_S", 0.02)
    monkeypatch.setattr(machine_lock, "_LOOK_S", 0.01)
    monkeypatch.setattr(machine_lock, "_told", set())
    return machine_lock._path("gate"), machine_lock._path("machine")


@pytest.fixture
def said(monkeypatch) -> queue.Queue[str]:
    """What is logged, as it comes."""
    found: queue.Queue[str] = queue.Queue()
    monkeypatch.setattr(machine_lock._log, "warning", lambda form, *values: found.put(form % values))
    return found


def in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


@on_linux
def test_who_waits_is_told_for_whom_and_that_it_was_stopped(locks, said):
    done = threading.Event()

    def predict() -> None:
        with shared_machine():
            done.set()

    with process(*locks) as holder:
        waiting = in_thread(predict)
        first = said.get(timeout=60)
        assert first.startswith(f"waiting for process {holder.pid} (")
        assert "has been measuring since " in first
        assert "stopped" not in first
        holder.send_signal(signal.SIGSTOP)
        second = said.get(timeout=60)
        assert second == f"{first} and is stopped now: continue it (kill -CONT {holder.pid}) or end it (kill -KILL " + (
            f"{holder.pid})"
        )
        time.sleep(0.1)
        assert said.empty(), "each is said once"
        assert not done.is_set()
        holder.kill()
        waiting.join(timeout=60)
    assert done.is_set()


@on_linux
def test_a_stopped_process_is_named_instead_of_who_waits_for_it_in_turn(locks, said):
    gate, machine = locks
    with process(machine, kind="LOCK_SH") as computing, process(gate) as next_one:
        waiting = Waiting()
        for culprit in (next_one, computing):
            waiting._look_s = 0.0
            waiting.look()
            assert said.get(timeout=0).startswith(f"waiting for process {culprit.pid} (")
            computing.send_signal(signal.SIGSTOP)
            until = time.monotonic() + 60
            while time.monotonic() < until and not any(each.is_stopped for each in holders_of(machine)):
                time.sleep(0.01)


@on_linux
def test_nobody_is_a_holder_by_an_open_file_or_by_what_a_file_says(locks):
    gate, machine = locks
    machine.write_text(f"{os.getpid()}\n")
    with process(gate) as holder, machine.open():
        assert holders_of(machine) == []
        (found,) = holders_of(gate)
        assert (found.pid, found.alone, found.is_stopped) == (holder.pid, True, False)
        assert abs(found.since_s - time.time()) < 600
    assert holders_of(gate) == []


def test_a_wait_ends_with_the_time_and_with_ctrl_c_and_leaves_the_lock_free(locks, said):
    with process(*locks):
        late = waiting_until(time.monotonic() + 0.05)
        with late, pytest.raises(BusyMachineError, match=r"no time is left, .* waiting for "), machine_alone():
            pass
        main = threading.main_thread().ident
        assert main is not None
        threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt), shared_machine():
            pass
    with waiting_until(time.monotonic() + 60), machine_alone():
        pass


def test_a_search_takes_the_best_so_far_if_others_have_the_machine_until_its_time_is_over():
    def predict_many(_work: object) -> Iterator[tuple[int, dict[int, int]]]:
        yield 0, {0: 1}
        raise BusyMachineError("no time is left")

    file: Any = SimpleNamespace()
    files = [Contender(name, Candidate(), Trial(name, name), file, 0.0, 1.0) for name in "ab"]
    images: Any = SimpleNamespace(stages=[[0]], predict_many=predict_many)
    scoring: Any = SimpleNamespace(
        images=images, known=lambda *_: None, float_predictions={}, journal=SimpleNamespace(add_predictions=print)
    )
    assert not halve(scoring, files, None, Deadline())
    assert [each.predictions for each in files] == [{0: 1}, {}]


@on_linux
def test_who_holds_a_machine_for_another_one_says_for_whom_it_waits(locks, said):
    held = machine_lock._Held()
    with process(*locks) as holder:
        assert not held.hold({"seconds": 0.0})["held"]
        assert said.get(timeout=60).startswith(f"waiting for process {holder.pid} (")
        (text,) = held.hold({"seconds": 0.0})["waits_for"]
        assert text.startswith(f"waiting for process {holder.pid} (")
        holder.kill()
        assert held.hold({"seconds": 60.0}) == {"held": True, "waits_for": []}
