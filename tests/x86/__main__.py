"""`python -m tests.x86 [qemu] ARGUMENTS`: pytest as on an AVX2 CPU without VNNI.

By the trap for engines, or by QEMU if asked for or if there is no compiler; without either, every test is skipped by
name.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.packages import EmulatorUnavailableError
from tests.x86 import qemu, trap
from tests.x86.absent import REASON


def main() -> None:
    """Ends as pytest does."""
    arguments = sys.argv[1:]
    ways = [trap.set_up, qemu.set_up]
    if arguments[:1] == ["qemu"]:
        arguments, ways = arguments[1:], ways[1:]
    reasons: list[str] = []
    python: Path | None = None
    for set_up in ways:
        try:
            python = set_up()
            break
        except EmulatorUnavailableError as error:
            reasons.append(str(error))
    if python is None:
        os.environ[REASON] = f"AVX2 without VNNI is not emulated here: {'; '.join(reasons)}"
        print(f"NOTHING IS RUN AS ON A CPU WITHOUT VNNI. {os.environ[REASON]}", file=sys.stderr)
        arguments = ["-p", "tests.x86.absent", *arguments]
    done = subprocess.run([python or sys.executable, "-m", "pytest", *arguments], check=False)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
