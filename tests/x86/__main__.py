"""`python -m tests.x86 ARGUMENTS`: pytest on an emulated CPU; where there is none, every test is skipped by name."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.packages import EmulatorUnavailableError
from tests.x86.absent import REASON
from tests.x86.emulator import set_up


def main() -> None:
    """Ends as pytest does."""
    try:
        python, plugin = str(set_up()), []
    except EmulatorUnavailableError as error:
        python, plugin = sys.executable, ["-p", "tests.x86.absent"]
        os.environ[REASON] = f"AVX2 without VNNI is not emulated here: {error}"
        print(f"NOTHING IS RUN AS ON A CPU WITHOUT VNNI. {os.environ[REASON]}", file=sys.stderr)
    sys.exit(subprocess.run([python, "-m", "pytest", *plugin, *sys.argv[1:]], check=False).returncode)


if __name__ == "__main__":
    main()
