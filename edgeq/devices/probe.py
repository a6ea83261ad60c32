"""What a device says about itself, before it has anything of ours."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import msgspec

from edgeq.boundary import Count, convert
from edgeq.devices.environment import MIN_PYTHON, python_version
from edgeq.devices.ssh import Connection
from edgeq.errors import DeviceError

_TIMEOUT_S = 60.0
_MAX_TEXT = 4096


class _Answer(msgspec.Struct):
    """What `on_device/probe.py` prints."""

    system: str
    machine: str
    bits: Count
    implementation: str
    python: str
    libc: str
    libc_version: str
    cache: str
    free_bytes: Count
    writable: bool
    tensorrt: bool
    venv: bool

    def __post_init__(self) -> None:
        for key, value in msgspec.structs.asdict(self).items():
            if isinstance(value, str) and (len(value) > _MAX_TEXT or not value.isprintable()):
                raise ValueError(f"its {key} is {value[:80]!r}, wanted short printable text")


@dataclass(frozen=True)
class Facts:
    """What decides which packages a device gets.

    Attributes:
        machine: Architecture of its Python's packages, as `uname -m` would say it.
        python: Version of its Python.
        glibc: Version of its C library; empty where that is another.
        cache: Absolute path of the folder that packages and files are kept in.
        free_bytes: Free space there.
        tensorrt: Whether its Python can import TensorRT.
        venv: Whether its Python can make virtual environments with pip.
    """

    machine: str
    python: str
    glibc: str
    cache: str
    free_bytes: int
    tensorrt: bool
    venv: bool


def on_device(script: str) -> str:
    """Returns the source of a script of `edgeq/devices/on_device`."""
    return files("edgeq.devices.on_device").joinpath(f"{script}.py").read_text(encoding="utf-8")


def probe(connection: Connection) -> Facts:
    """Returns the facts about a device.

    Raises:
        DeviceError: it does not answer with them, or is none that edgeq runs on.
    """
    device = connection.device
    script = [device.python, "-c", on_device("probe"), device.cache]
    return parse_facts(device.name, connection.ask(script, timeout_s=_TIMEOUT_S))


def parse_facts(name: str, answer: dict[str, Any]) -> Facts:
    """Returns the facts that a device answered.

    Raises:
        DeviceError: they are no such facts, or the device is none that edgeq runs on.
    """
    said = convert(answer, _Answer, source=name, kind="facts about the device", place="answer", error=DeviceError)
    if said.system != "Linux" or said.implementation != "CPython":
        raise DeviceError(f"{name}: runs {said.implementation} on {said.system}, wanted CPython on Linux")
    if python_version(said.python) < MIN_PYTHON:
        raise DeviceError(
            f"{name}: its Python is {said.python}, edgeq needs {'.'.join(map(str, MIN_PYTHON))} or newer; name "
            "another interpreter with `python` in devices.toml"
        )
    if not said.writable or not said.cache.startswith("/") or ":" in said.cache:
        raise DeviceError(f"{name}: cannot keep files in {said.cache}; name another `cache` in devices.toml")
    machine = said.machine
    if said.bits == 32 and machine == "aarch64":  # a 32-bit system under a 64-bit kernel
        machine = "armv7l"
    glibc = said.libc_version if said.libc == "glibc" else ""
    return Facts(machine, said.python, glibc, said.cache, said.free_bytes, said.tensorrt, said.venv)
