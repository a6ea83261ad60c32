"""One machine, one measurement: what is timed has the machine to itself, whoever else predicts images on it.

Only measurements exclude others. Who predicts lets a measurement begin before each image, so that two searches on one
machine wait for no more than an image, or for one batch of files that is timed.

Locks of files, which end with the process that holds them, however it ends. They hold between all processes of a user
on a machine: workers of several runs, and of a cluster. `python -m edgeq.tuning.machine_lock` holds a machine for
somebody else: it waits until it has it alone, answers the command `{"command": "hold"}`, and holds it to the end of its
stdin. So whoever measures on a device behind ssh shares it with nobody, from whichever machine they come.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

try:
    import fcntl
except ImportError:  # Windows: nothing is exclusive there
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def shared_machine() -> Iterator[None]:
    """Computes next to others for the time of the block; waits while somebody has the machine alone."""
    with _locked("gate", alone=False):
        entered = contextlib.ExitStack()
        entered.enter_context(_locked("machine", alone=False))
    with entered:
        yield


@contextlib.contextmanager
def machine_alone() -> Iterator[None]:
    """Has the machine alone for the time of the block: waits until nobody computes, and lets nobody begin."""
    # Who waits here holds the gate: otherwise there might always be somebody who computes.
    with _locked("gate", alone=True), _locked("machine", alone=True):
        yield


@contextlib.contextmanager
def _locked(name: str, *, alone: bool) -> Iterator[None]:
    if fcntl is None:
        yield
        return
    user = os.getuid() if hasattr(os, "getuid") else 0
    path = Path(tempfile.gettempdir()) / f"edgeq-{name}-{user}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def main() -> NoReturn:
    """Holds the machine for who drives this process."""
    from edgeq.runtimes.commands import answer_by, serve

    with contextlib.ExitStack() as held:

        def hold(_command: object) -> dict[str, object]:
            held.enter_context(machine_alone())
            return {}

        serve(lambda line: answer_by({"hold": hold}, line), lambda: False)


if __name__ == "__main__":
    main()
