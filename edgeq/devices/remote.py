"""A device that is connected, and gets what it needs to run files."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.resources
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

from edgeq.devices.config import Device
from edgeq.devices.environment import Environment, assemble, glibc_version, requirements
from edgeq.devices.probe import Facts, on_device, probe
from edgeq.devices.ssh import Connection
from edgeq.devices.transfer import SentFile, SentFolder, Store
from edgeq.errors import DeviceError, EdgeqError, InputError
from edgeq.exporting.artifact import Artifact
from edgeq.files import cache_folder, sha256_json
from edgeq.runtimes import RUNTIMES, get_runtime
from edgeq.targets import get_target

# Runtime -> the package on PyPI that brings its engine. TensorRT comes with the device's system, or not at all.
_PACKAGES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "litert": "ai-edge-litert"}
_FROM_SYSTEM = "tensorrt"
# What edgeq itself needs to run and to decode: manifests, arrays and images.
_BASE = ("msgspec", "numpy", "pillow")
_COUNT_THREADS = "from edgeq.machine import *; print('{\"threads\":', default_threads(read_machine()), '}')"
_ENTER = 'cd "$1" && shift && exec "$@"'
_TIMEOUT_S = 120.0
_VENV_TIMEOUT_S = 1800.0
_MAX_THREADS = 4096

_log = logging.getLogger(__name__)


class RemoteDevice:
    """A device behind ssh. A context manager: nothing runs on the device after its end.

    Args:
        device: The device; not this machine.

    Attributes:
        device: The device.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self._exit = contextlib.ExitStack()
        self._connection = Connection(device)
        self._prefix: list[str] | None = None

    def __enter__(self) -> RemoteDevice:
        self._exit.enter_context(self._connection)
        try:
            self._facts = probe(self._connection)
            self._connection.keep_watched(on_device("watch"))
        except BaseException:
            self._exit.close()
            raise
        self._store = Store(self._connection, self._facts.cache, self._facts.free_bytes)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._exit.close()

    @property
    def facts(self) -> Facts:
        """What the device said about itself."""
        return self._facts

    def choose_runtimes(self, artifact: Artifact, wished: Sequence[str]) -> list[str]:
        """Returns the runtimes to run an artifact in: those of the wished ones that read it, or the first one there is.

        Raises:
            InputError: none of the wished ones reads it, or none that reads it can be had on the device.
        """
        wished = wished or self.device.runtimes
        order = wished or (get_target(artifact.target).runtimes if artifact.target else tuple(RUNTIMES))
        readers = [name for name in order if artifact.format in get_runtime(name).formats]
        found = [name for name in readers if name in _PACKAGES or (name == _FROM_SYSTEM and self._facts.tensorrt)]
        if not found or (wished and found != readers):
            lacking = ", ".join(name for name in readers if name not in found) or f"none of {', '.join(order)}"
            raise InputError(
                f"{artifact.name}: {lacking} cannot run {artifact.format} files on {self.device.name}; it can have "
                f"{', '.join(_PACKAGES)}" + (f" and {_FROM_SYSTEM}" if self._facts.tensorrt else "")
            )
        return found if wished else found[:1]

    def prepare(self, runtimes: Sequence[str]) -> None:
        """Makes sure that the device has these runtimes, and edgeq.

        Raises:
            InputError: there are no wheels for the device.
            DeviceError: the device does not take what it is sent.
        """
        packages = sorted({*_BASE, *(_PACKAGES[name] for name in runtimes if name in _PACKAGES)})
        root = str(importlib.resources.files("edgeq"))
        ours = self._store.push_folder(SentFolder.of("edgeq", Path(root), prefix="edgeq/"))
        if self.device.env == "venv":
            python, paths = self._make_venv(packages), [ours]
        else:
            environment = self._assemble(packages)
            python, paths = self.device.python, [ours, self._store.push_folder(SentFolder.of("env", environment.site))]
        variables = [f"PYTHONPATH={':'.join(paths)}", "PYTHONUNBUFFERED=1", "ORT_DISABLE_TELEMETRY=1"]
        self._prefix = ["sh", "-c", _ENTER, "sh", ours, "env", *variables, python]

    def close(self) -> None:
        """Ends the connection, from another thread too."""
        self._connection.close()

    def python(self, *arguments: str) -> list[str]:
        """Returns the argument list that runs the device's Python with edgeq and its engines; after `prepare`."""
        assert self._prefix is not None  # noqa: S101 - as documented
        return self._connection.command([*self._prefix, *arguments])

    def count_threads(self) -> int:
        """Returns how many threads an engine gets there: the device's own setting, or one a physical core."""
        if self.device.threads is not None:
            return self.device.threads
        assert self._prefix is not None  # noqa: S101 - as documented
        answer = self._connection.ask([*self._prefix, "-c", _COUNT_THREADS], timeout_s=_TIMEOUT_S)
        threads = answer.get("threads")
        if type(threads) is not int or not 0 < threads <= _MAX_THREADS:
            raise DeviceError(f"{self.device.name}: has {str(threads)[:80]!r} cores, wanted a number")
        return threads

    def push(self, files: Iterable[SentFile]) -> None:
        """Sends the files that are not there yet; `path_of` says where each lies then.

        Raises:
            DeviceError: the device has not enough space, or a file did not arrive as it was.
        """
        self._store.push_files(files)

    def path_of(self, file: SentFile) -> str:
        """Returns the absolute path of a file there."""
        return self._store.path_of(file)

    @property
    def identity(self) -> list[str]:
        """What runs files there: the digests of edgeq and of its environment, after `prepare`."""
        assert self._prefix is not None  # noqa: S101 - as documented
        return self._prefix

    def _assemble(self, packages: Sequence[str]) -> Environment:
        facts, cache = self._facts, cache_folder()
        if not facts.glibc:
            raise InputError(
                f"{self.device.name}: its C library is not glibc, for which wheels are built; try env = 'venv' in "
                "devices.toml"
            )
        glibc = ".".join(map(str, glibc_version(facts.glibc)))
        try:
            return assemble(facts.machine, facts.python, glibc, requirements(packages), cache)
        except InputError as error:
            environment = assemble(facts.machine, facts.python, glibc, _least(packages), cache)
            _log.warning("%s: gets other versions than are installed here: %s", self.device.name, error)
            return environment

    def _make_venv(self, packages: Sequence[str]) -> str:
        if not self._facts.venv:
            raise DeviceError(
                f"{self.device.name}: its Python cannot make virtual environments; install python3-venv there, or take "
                "env = 'push' in devices.toml"
            )
        wanted = _least(packages)
        name = f"venv-{sha256_json([self._facts.python, wanted])[:16]}"
        script = [self.device.python, "-c", on_device("venv"), self._facts.cache, name, *wanted]
        python = self._connection.ask(script, timeout_s=_VENV_TIMEOUT_S).get("python")
        if not isinstance(python, str) or not python.startswith(f"{self._facts.cache}/"):
            raise DeviceError(f"{self.device.name}: its environment is {str(python)[:80]!r}, wanted one in its cache")
        return python


@contextlib.contextmanager
def named_errors(name: str) -> Iterator[None]:
    """Puts a device's name before the message of every error of the block that lacks it."""
    try:
        yield
    except EdgeqError as error:
        if str(error).startswith(f"{name}: "):
            raise
        raise DeviceError(f"{name}: {error}") from error


def _least(packages: Sequence[str]) -> list[str]:
    """Returns the requirements that edgeq itself has of these packages."""
    stated = {}
    for requirement in importlib.metadata.requires("edgeq") or ():
        text = requirement.partition(";")[0].strip()
        if match := re.match(r"[A-Za-z0-9_.-]+", text):
            stated[match[0]] = text
    return [stated.get(name, name) for name in packages]
