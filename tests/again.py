"""Runs the few tests that failed a second time, alone: `python -m tests.again`, which .ci/run calls after a failed run.

A test that passes then depends on the moment: on how busy the machine was, or on what ran at the same time. It is a
fault to mend, and its name is printed; but it says nothing about the change that is checked.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

FEW = 3
"""More failures than this are not chance; they are not run again."""


def read_failed(root: Path) -> list[str]:
    """Node ids of the tests whose last run in `root` failed, as pytest's cache keeps them; empty if none did."""
    file = root / ".pytest_cache" / "v" / "cache" / "lastfailed"
    return sorted(json.loads(file.read_bytes())) if file.is_file() else []


def run_again(root: Path) -> int:
    """0 if one to `FEW` tests of `root` failed and each passes alone, otherwise 1."""
    failed = read_failed(root)
    if not 0 < len(failed) <= FEW:
        print(f"{len(failed)} tests failed; 1 to {FEW} would be run again.", file=sys.stderr)
        return 1
    again = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "--rootdir", str(root), *failed], cwd=root, check=False
    )
    if again.returncode:
        return 1
    print(f"PASSED ONLY ALONE, TO BE MENDED: {', '.join(failed)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(run_again(Path.cwd()))
