"""The converter to TFLite with its packages loaded: a process that forks for every conversion.

They take five CPU seconds to import, more than a small model takes to convert. What the product starts is replaced by a
client that hands its stdin, stdout and stderr over and ends as the conversion ends; all else is the product's own.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import tempfile
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from edgeq.sources import tflite

_MAX_BYTES = 4096
_CLIENT = f"""
import os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect(sys.argv[1])
socket.send_fds(server, [os.getcwd().encode()], [0, 1, 2])
code = int(server.recv({_MAX_BYTES}))
if code < 0:
    os.kill(os.getpid(), -code)
os._exit(code)
"""


class WarmConverter:
    """Runs conversions in forks of one process, which starts with the first. `close` ends it."""

    def __init__(self) -> None:
        # pytest's folders can be too long for the path of a socket, which has about 100 bytes.
        self._folder = tempfile.TemporaryDirectory(prefix="edgeq-")
        self._path = Path(self._folder.name) / "converter"
        self._convert = tflite._run
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, job: tflite.Conversion) -> None:
        """Does what `edgeq.sources.tflite` does, with another process."""
        if self._process is None:
            self._process = _start(self._path)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tflite, "subprocess", types.SimpleNamespace(PIPE=subprocess.PIPE, Popen=self._popen))
            self._convert(job)

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            with self._process as process:
                process.kill()
        self._folder.cleanup()

    def _popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        assert command == [sys.executable, "-m", tflite.__name__]
        return subprocess.Popen([sys.executable, "-S", "-E", "-c", _CLIENT, str(self._path)], **options)


def _start(path: Path) -> subprocess.Popen[bytes]:
    """Returns the process that forks, once it takes connections at a path."""
    command = [sys.executable, "-m", __name__, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def main() -> None:
    """Converts for one client after the other, each in a fork, until the end of stdin."""
    import litert_torch  # noqa: F401
    import torch  # noqa: F401

    import edgeq.exporting.tflite.convert
    import edgeq.exporting.tflite.onnx_module
    import edgeq.models.zoo  # noqa: F401

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(sys.argv[1])
        server.listen()
        print("ready", flush=True)
        while sys.stdin not in select.select([server, sys.stdin], [], [])[0]:
            client, _ = server.accept()
            with client:
                folder, files, _, _ = socket.recv_fds(client, _MAX_BYTES, 3)
                pid = os.fork()
                if pid == 0:
                    _convert(folder.decode(), files)
                for file in files:
                    os.close(file)
                _, status = os.waitpid(pid, 0)
                client.send(str(os.waitstatus_to_exitcode(status)).encode())


def _convert(folder: str, files: Sequence[int]) -> None:
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.chdir(folder)
    try:
        tflite.main()
    except SystemExit as end:
        sys.stdout.flush()
        os._exit(int(end.code or 0))
    finally:
        os._exit(1)


if __name__ == "__main__":
    main()
