"""Workers of an existing Dask cluster. Which of them does what is decided here, not by Dask's scheduler.

A call goes to one worker by name, so that it is known which files that worker has. Functions reach it as code that
imports edgeq there: the scheduler needs no edgeq. Everything that comes back is JSON.
"""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from edgeq.boundary import convert, parse_json
from edgeq.errors import EngineError, InputError, MissingDependencyError
from edgeq.runtimes.child import error_of, printable
from edgeq.tuning.executors import Executor, Found, WorkerLostError
from edgeq.tuning.work_units import Unit
from edgeq.tuning.workers import Predicted, WorkerFacts
from edgeq.tuning.workers_server import WorkerServer
from edgeq.wording import counted

T = TypeVar("T")

_CONNECT_S = 20.0
_GRACE_S = 120.0
_POLL_S = 1.0
_PIECE_BYTES = 4 << 20
"""What is sent at once: Dask's scheduler holds it in memory on the way."""


class DaskCluster(Executor):
    """The workers of a cluster, also those that join later. Its end leaves the cluster as it was.

    Args:
        address: Of the scheduler. TLS and all else about the connection is Dask's own configuration.

    Raises:
        InputError: the scheduler cannot be reached.
        MissingDependencyError: Dask is not installed.
    """

    def __init__(self, address: str) -> None:
        try:
            from distributed import Client
        except ImportError as error:
            raise MissingDependencyError("distributed", "dask", "A Dask cluster") from error
        try:
            self._client: Any = Client(address, timeout=_CONNECT_S, set_as_default=False)
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(
                f"`scheduler` {address}: cannot be reached ({reason}); start one with `dask scheduler` and its "
                "workers with `dask worker`, or give the address that it prints"
            ) from error
        super().__init__("", grace_s=_GRACE_S)
        self._links: dict[str, DaskWorker] = {}
        self._ended = threading.Event()
        self._look()
        workers = counted(self.workers, "worker")
        self.description = f"{workers} of {address}; dashboard {self._client.dashboard_link}"
        self._looking = threading.Thread(target=self._keep_looking, daemon=True)
        self._looking.start()

    def close(self) -> None:
        """Ends the work, and the connection to the cluster."""
        self._ended.set()
        self._looking.join()
        super().close()
        with contextlib.suppress(Exception):  # the cluster may be gone
            self._client.close(timeout=_CONNECT_S)

    def _keep_looking(self) -> None:
        while not self._ended.wait(_POLL_S):
            self._look()

    def _look(self) -> None:
        """Notes which workers came and went."""
        try:
            found = set(self._client.nthreads())
        except Exception:  # the scheduler is gone
            found = set()
        for address in self._links.keys() - found:
            self._links.pop(address).close()
        for address in sorted(found - self._links.keys()):
            link = self._links[address] = DaskWorker(address, self._client)
            self.add(link.name, link.opened)


class DaskWorker:
    """A worker of a cluster.

    Args:
        address: As the scheduler knows it.
        client: The connection to the scheduler.

    Attributes:
        is_lost: Whether it left the cluster.
    """

    def __init__(self, address: str, client: Any) -> None:
        self.name = f"worker {address}"
        self._address = address
        self._client = client
        self._done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.is_lost = False

    def opened(self) -> DaskWorker:
        """Returns this worker."""
        return self

    def facts(self, runtime: str) -> Mapping[str, str]:
        """Returns what decides what it predicts."""
        return self._ask_for(WorkerFacts, {"command": "about", "runtime": runtime}).facts

    def predict(self, unit: Unit) -> Found:
        """Returns what a file says about images; see `edgeq.tuning.executors.Worker`.

        Raises:
            InputError: the weights of the file lie in a file of their own.
        """
        if unit.artifact.weights_path is not None:
            raise InputError(
                f"{unit.artifact.name}: its weights are in {unit.artifact.weights_path.name}, and only single files "
                "are sent to a cluster; omit `scheduler`"
            )
        answer = self._ask_for(Predicted, unit.command)
        if answer.missing:
            for pieces, content in _pieces({digest: unit.files[digest] for digest in answer.missing}):
                self._ask_for(dict[str, Any], {"command": "put", "pieces": pieces}, content)
            answer = self._ask_for(Predicted, unit.command)
        return answer.found

    def close(self) -> None:
        """Has whoever waits for an answer wait no longer."""
        self.is_lost = True
        self._done.put(None)

    def _ask_for(self, wanted: type[T], command: Mapping[str, Any], content: bytes = b"") -> T:
        line = json.dumps(command).encode()
        future = self._client.submit(
            _remote_answer(), line, content, workers=[self._address], key=f"edgeq-{uuid.uuid4().hex}", pure=False
        )
        future.add_done_callback(self._done.put)
        while (done := self._done.get()) is not None:
            if done is future:
                return self._answer(future, wanted)
        future.cancel()
        raise WorkerLostError(f"{self.name}: left the cluster")

    def _answer(self, future: Any, wanted: type[T]) -> T:
        if future.status == "error":
            error = future.exception()
            if type(error).__name__ == "KilledWorker":
                raise WorkerLostError(f"{self.name}: ended")
            reason = printable(f"{type(error).__name__}: {error}".partition("\n")[0])
            raise EngineError(f"{self.name}: cannot be used ({reason}); install edgeq and its engine there")
        if future.status != "finished":
            raise WorkerLostError(f"{self.name}: its work was {future.status}")
        line = future.result()
        answer = parse_json(line, dict[str, Any], source=self.name, kind="an answer")
        answer = printable(answer) if b"\\u" in line else answer
        if answer.get("ok") is not True:
            raise error_of(answer)
        return convert(answer, wanted, source=self.name, kind="an answer", place="answer", error=EngineError)


def _remote_answer() -> Callable[[bytes, bytes], bytes]:
    """Returns what runs on the worker; being no function of a module, it travels as code and not as a name."""

    def edgeq_worker(line: bytes, content: bytes) -> bytes:
        from edgeq.tuning.workers_dask import answer_on_worker

        return answer_on_worker(line, content)

    return edgeq_worker


_servers: dict[str, WorkerServer] = {}
_servers_lock = threading.Lock()


def answer_on_worker(line: bytes, content: bytes) -> bytes:
    """Returns the answer to a command, on a worker of a cluster; one process may be several workers."""
    from distributed import get_worker

    worker = get_worker()
    with _servers_lock:
        if worker.address not in _servers:
            # Dask removes the folder when the worker ends.
            _servers[worker.address] = WorkerServer(Path(worker.local_directory) / "edgeq")
    return json.dumps(_servers[worker.address].answer(line, content)).encode()


def _pieces(files: Mapping[str, Path]) -> Iterator[tuple[list[dict[str, Any]], bytes]]:
    """Yields the contents of files for the command `put`, small ones together and large ones in parts."""
    pieces: list[dict[str, Any]] = []
    content = bytearray()
    for digest, path in files.items():
        for offset, part, is_last in _parts(path):
            if pieces and len(content) + len(part) > _PIECE_BYTES:
                yield pieces, bytes(content)
                pieces, content = [], bytearray()
            entry = {"digest": digest, "suffix": path.suffix, "offset": offset, "length": len(part), "is_last": is_last}
            pieces.append(entry)
            content += part
    if pieces:
        yield pieces, bytes(content)


def _parts(path: Path) -> Iterator[tuple[int, bytes, bool]]:
    """Yields (offset, bytes, whether they are the last) of a file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            offset = 0
            while offset == 0 or offset < size:
                part = stream.read(_PIECE_BYTES)
                yield offset, part, offset + len(part) >= size
                offset += max(len(part), 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
