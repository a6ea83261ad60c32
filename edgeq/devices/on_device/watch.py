"""Ends the connection that it was started through once nothing comes in on stdin for so many seconds (the argument).

A network that is gone says nothing: sshd would keep the connection, and what runs through it, for hours. The parent is
the sshd process of this connection; when it ends, all that it started comes to the end of its input.
"""

from __future__ import annotations

import os
import select
import signal
import sys


def main() -> None:
    """Watches until the end of stdin."""
    connection = os.getppid()
    while select.select([0], [], [], float(sys.argv[1]))[0]:
        if not os.read(0, 4096):
            return
    os.kill(connection, signal.SIGTERM)


if __name__ == "__main__":
    main()
