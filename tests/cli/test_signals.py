from __future__ import annotations

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
@pytest.mark.parametrize("is_clearing", [False, True])
def test_a_signal_ends_a_command_in_one_line(number: signal.Signals, is_clearing: bool, tmp_path: Path) -> None:
    """Also one that comes while an object is cleared away, where Python ignores exceptions."""
    pid = os.fork()
    if pid == 0:
        _run_until(number, is_clearing, tmp_path / "said")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    assert (tmp_path / "said").read_text() == "error: interrupted\n"


class _Cleared:
    def __init__(self, number: signal.Signals) -> None:
        self._number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self._number)
        time.sleep(0.01)


def _run_until(number: signal.Signals, is_clearing: bool, said: Path) -> NoReturn:
    def examine(**_: object) -> None:
        if is_clearing:
            _Cleared(number)
        else:
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
