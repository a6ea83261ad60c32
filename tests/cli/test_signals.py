from __future__ import annotations

import ctypes
import mmap
import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

import pytest

from edgeq.cli.app import main
from edgeq.verbs import doctor


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("when", ["running", "clearing", "stack gone"])
def test_a_signal_ends_a_command_in_one_line(number: signal.Signals, when: str, tmp_path: Path) -> None:
    """Also one that comes while Python clears an object away and ignores exceptions, or on a stack that is gone."""
    pid = os.fork()
    if pid == 0:
        _run_until(number, when, tmp_path / "said")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    assert (tmp_path / "said").read_text() == "error: interrupted\n"


class _Cleared:
    def __init__(self, number: signal.Signals) -> None:
        self._number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self._number)
        time.sleep(0.01)


class _Stack(ctypes.Structure):
    """`stack_t` of C."""

    _fields_ = (("place", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def _leave_stack_that_is_gone() -> None:
    """Gives signals a stack of their own, as OpenVINO does, in memory that nobody may touch."""
    memory = mmap.mmap(-1, 1 << 16)
    place = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    stack = _Stack(place, 0, 1 << 16)
    assert ctypes.CDLL(None).sigaltstack(ctypes.byref(stack), None) == 0
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(place), 1 << 16, 0) == 0


def _run_until(number: signal.Signals, when: str, said: Path) -> NoReturn:
    def examine(**_: object) -> None:
        if when == "clearing":
            _Cleared(number)
        else:
            if when == "stack gone":
                _leave_stack_that_is_gone()
            os.kill(os.getpid(), number)
        time.sleep(60)

    code = 1
    try:
        signal.signal(number, signal.SIG_DFL)
        sys.stderr = said.open("w")
        doctor.examine = examine  # type: ignore[assignment]
        sys.argv = ["edgeq", "doctor"]
        main()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.stderr.flush()
        os._exit(code)
