"""What a device says about itself, before it has anything of ours."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from edgeq.devices.environment import MIN_PYTHON, python_version
from edgeq.devices.ssh import Connection
from edgeq.errors import DeviceError

_TIMEOUT_S = 60.0
_MAX_TEXT = 4096
_KINDS: dict[str, type] = {
    "system": str,
    "machine": str,
    "bits": int,
    "implementation": str,
    "python": str,
    "libc": str,
    "libc_version": str,
    "cache": str,
    "free_bytes": int,
    "writable": bool,
    "tensorrt": bool,
    "venv": bool,
}


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
    for key, kind in _KINDS.items():
        value = answer.get(key)
        if type(value) is not kind or len(str(value)) > _MAX_TEXT or not str(value).isprintable():
            raise DeviceError(f"{name}: reported {key} {str(value)[:80]!r}, wanted {kind.__name__}")
    if answer["system"] != "Linux" or answer["implementation"] != "CPython":
        raise DeviceError(f"{name}: runs {answer['implementation']} on {answer['system']}, wanted CPython on Linux")
    if python_version(answer["python"]) < MIN_PYTHON:
        raise DeviceError(
            f"{name}: its Python is {answer['python']}, edgeq wants {'.'.join(map(str, MIN_PYTHON))} or newer; name "
            "another interpreter with `python` in devices.toml"
        )
    if not answer["writable"] or not answer["cache"].startswith("/") or ":" in answer["cache"]:
        raise DeviceError(f"{name}: cannot keep files in {answer['cache']}; name another `cache` in devices.toml")
    machine = answer["machine"]
    if answer["bits"] == 32 and machine == "aarch64":  # a 32-bit system under a 64-bit kernel
        machine = "armv7l"
    glibc = answer["libc_version"] if answer["libc"] == "glibc" else ""
    return Facts(
        machine, answer["python"], glibc, answer["cache"], answer["free_bytes"], answer["tensorrt"], answer["venv"]
    )
