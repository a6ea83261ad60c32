"""Fresh processes of Python that need no seconds to import: forks of one process that has loaded the big packages.

PyTorch, the converter to TFLite and NNCF take 3 to 8 CPU seconds to import, more than a small model takes to export,
convert or calibrate, and PyTorch's exporter a second more for its first model. One process of a run does all that, for
all workers, and forks for every `python -m MODULE`, `python SCRIPT` and `python -c CODE` that a test asks it for.
It has loaded edgeq, too; a fork whose PYTHONPATH leads to another edgeq forgets it. What a fork measures of its memory
and its start is not what a fresh process has.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import importlib
import importlib.machinery
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from edgeq.files import write_bytes
from tests.kept_exports import keep_composite_operators, keep_registry

_PACKAGES = (
    "msgspec", "onnx", "onnx_ir", "onnxscript", "PIL.Image", "safetensors.torch", "scipy.optimize", "torch",
    "torchvision", "torch.onnx._internal.exporter._core", "litert_torch", "openvino", "nncf",
    "onnxruntime.quantization",
)  # fmt: skip
_OWN = (
    "edgeq.api.export", "edgeq.api.measure", "edgeq.cli.app", "edgeq.models.zoo", "edgeq.runtimes.litert",
    "edgeq.runtimes.onnxruntime", "edgeq.runtimes.openvino", "edgeq.runtimes.runner", "edgeq.sources.tflite",
)  # fmt: skip
_END = b"\0"
_CLIENT = """
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect(sys.argv[1])
socket.send_fds(server, [b"f"], [0, 1, 2])
job = {"arguments": sys.argv[2:], "folder": os.getcwd(), "environment": dict(os.environ)}
server.sendall(json.dumps(job).encode() + b"\\0")
code = int(server.recv(16))
if code < 0:
    os.kill(os.getpid(), -code)
os._exit(code)
"""


class WarmPython:
    """Starts processes of Python as forks; stands in for the module `subprocess` where one is patched.

    The process that it starts hands its stdin, stdout and stderr over to a fork, and ends as the fork ends.

    Args:
        folder: A folder that all workers of the run look into.
    """

    PIPE = subprocess.PIPE
    TimeoutExpired = subprocess.TimeoutExpired

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path: str | None = None

    def Popen(self, command: Sequence[str | Path], **options: Any) -> subprocess.Popen[Any]:  # noqa: N802
        """Takes and returns what `subprocess.Popen` does; the command begins with `sys.executable`."""
        return subprocess.Popen(self._client(command), **options)

    def run(self, command: Sequence[str | Path], *, check: bool, **options: Any) -> subprocess.CompletedProcess[Any]:
        """Takes and returns what `subprocess.run` does; the command begins with `sys.executable`."""
        return subprocess.run(self._client(command), check=check, **options)

    def _client(self, command: Sequence[str | Path]) -> list[str | Path]:
        assert command[0] == sys.executable, command
        return [sys.executable, "-S", "-E", "-c", _CLIENT, self._server(), *command[1:]]

    def _server(self) -> str:
        """Returns the path of the server's socket; the first worker that asks for it starts the server."""
        if self._path is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            place = self._folder / "socket"
            with (self._folder / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not place.exists():
                    # pytest's folders can be too long for the path of a socket, which has about 100 bytes.
                    socket_path = Path(tempfile.mkdtemp(prefix="edgeq-")) / "python"
                    _start(socket_path)
                    write_bytes(place, str(socket_path).encode())
            self._path = place.read_text()
        return self._path


def _start(path: Path) -> None:
    """Starts the server and returns once it takes connections at a path; it ends with the run."""
    run = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    command = [sys.executable, "-m", __name__, str(path), str(run)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    with process.stdout as stdout:
        assert stdout.readline() == b"ready\n"
    # It outlives the worker that started it; nobody waits for it.
    process.returncode = 0


def main() -> None:
    """Forks for one client after the other until the process of the run ends."""
    path, run = Path(sys.argv[1]), int(sys.argv[2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in (*_PACKAGES, *_OWN):
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        with contextlib.suppress(ImportError):
            keep_registry()
            keep_composite_operators()
            _export_once()
    _forget("tests")
    gc.collect()
    gc.freeze()  # what is loaded lives on; no fork has to walk over it, and its pages stay shared
    forks: dict[int, socket.socket] = {}
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        print("ready", flush=True)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 1)
        sources: list[socket.socket | int] = [server, ended]
        while _is_alive(run):
            ready, _, _ = select.select(sources, [], [], 1.0)
            if ended in ready:
                os.read(ended, 1 << 10)
            _tell_clients(forks)
            if server in ready:
                client, _ = server.accept()
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    for each in (server, *forks.values()):
                        each.close()
                    os.close(ended)
                    os.close(wake)
                    _serve(client)
                forks[pid] = client
    path.unlink()
    path.parent.rmdir()


def _tell_clients(forks: dict[int, socket.socket]) -> None:
    """Sends the exit codes of forks that have ended, below 0 for a signal, and removes them."""
    for pid in list(forks):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            with forks.pop(pid) as client, contextlib.suppress(OSError):  # the client was killed
                client.send(str(os.waitstatus_to_exitcode(status)).encode())


def _forget(package: str) -> None:
    """Has the next import of a package and its modules load them."""
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]


def _export_once() -> None:
    """Exports a small model, because torch's exporter loads much of itself at the first one.

    The converter to TFLite does as well, but starts threads, and a fork would wait for them for ever.
    """
    import torch

    importlib.import_module("tqdm").tqdm.monitor_interval = 0  # no thread that watches progress bars
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU()).eval()
    torch.onnx.export(module, (torch.zeros(1, 3, 8, 8),), dynamo=True, verbose=False)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _serve(client: socket.socket) -> NoReturn:
    """Runs a client's job in a fork."""
    with client:
        _, files, _, _ = socket.recv_fds(client, 1, 3)
        received = b""
        while not received.endswith(_END):
            part = client.recv(1 << 16)
            if not part:
                os._exit(1)  # the client was killed
            received += part
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os._exit(_run(**json.loads(received.removesuffix(_END))))


def _run(arguments: Sequence[str], folder: str, environment: Mapping[str, str]) -> int:
    """Does what `python ARGUMENTS` does in a folder and an environment, and returns its exit code."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    own = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    kind, *rest = arguments
    first = str(Path(kind).resolve().parent) if not kind.startswith("-") else "" if kind == "-c" else folder
    safe = os.environ.get("PYTHONSAFEPATH") and kind.startswith("-")
    sys.path[:] = [*([] if safe else [first]), *filter(None, own), *_LIBRARIES]
    found = importlib.machinery.PathFinder.find_spec("edgeq", sys.path)
    if found is None or found.origin != sys.modules["edgeq"].__file__:
        _forget("edgeq")
    code = 1
    try:
        if kind == "-m":
            sys.modules.pop(rest[0], None)
            sys.argv = list(rest)
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        elif kind == "-c":
            sys.argv = ["-c", *rest[1:]]
            names = {"__name__": "__main__"}
            exec(compile(rest[0], "<string>", "exec"), names)  # noqa: S102 - a test's own
        else:
            sys.argv = list(arguments)
            runpy.run_path(kind, run_name="__main__")
        code = 0
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        else:
            code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    return code


# What every process finds: not the folder that this one was started in, which comes first, and not its PYTHONPATH. An
# editable installation of edgeq is among it.
_LIBRARIES = [
    place for place in sys.path[1:] if place and place not in os.environ.get("PYTHONPATH", "").split(os.pathsep)
]


if __name__ == "__main__":
    main()
