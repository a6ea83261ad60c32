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
def test_a_signal_ends_a_command_in_one_line(number: signal.Signals, tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        _run_until(number, tmp_path / "said")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    assert (tmp_path / "said").read_text() == "error: interrupted\n"


def _run_until(number: signal.Signals, said: Path) -> NoReturn:
    def examine(**_: object) -> None:
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
