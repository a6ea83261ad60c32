"""Which devices a user means: `local`, an address, or a name of `devices.toml`."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeq.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

LOCAL = "local"
ENVIRONMENTS = ("push", "venv")

# What ssh_config may put into a command by %h and %r, so nothing that a shell or ssh itself could take for more.
_ADDRESS = re.compile(
    r"ssh://(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]*)@)?"
    r"(?P<host>[A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.-]+)?\])(?::(?P<port>\d{1,5}))?/?"
)
_WANTED = f"{LOCAL}, ssh://[user@]host[:port] or a name of devices.toml"


@dataclass(frozen=True)
class Device:
    """A machine that files are run on.

    Attributes:
        name: As tables print it.
        host: Host name or address for ssh; `None` is this machine.
        user: User there; `None` leaves it to ssh's configuration.
        port: Port; `None` leaves it to ssh's configuration.
        threads: CPU threads of the engine; `None` is one a physical core.
        cpus: CPUs that runs are pinned to; empty is all.
        runtimes: Runtimes to run files in; empty leaves it to the file's target.
        python: Interpreter there: a path, or a name on its `PATH`.
        env: `push` sends packages that were assembled here, `venv` has the device's pip fetch them.
        cache: Folder there that packages and files are kept in; `~` is the user's home.
    """

    name: str
    host: str | None = None
    user: str | None = None
    port: int | None = None
    threads: int | None = None
    cpus: tuple[int, ...] = ()
    runtimes: tuple[str, ...] = ()
    python: str = "python3"
    env: str = "push"
    cache: str = "~/.cache/edgeq"

    @property
    def destination(self) -> str:
        """What ssh is to connect to."""
        return f"{self.user}@{self.host}" if self.user else str(self.host)


def find_devices(wished: Sequence[str], table: Mapping[str, Device] | None = None) -> list[Device]:
    """Returns the devices of `--device` options, in order.

    Args:
        wished: Names and addresses.
        table: Devices by name; by default those of `devices.toml`.

    Raises:
        InputError: a name is unknown, an address is none, or a device is named twice.
    """
    found = []
    for text in wished:
        if text == LOCAL:
            found.append(Device(LOCAL))
        elif "://" in text:
            found.append(Device(text.removeprefix("ssh://").rstrip("/"), **_address(text, "--device")))
        else:
            table = read_devices() if table is None else table
            if text not in table:
                raise InputError(f"--device {text}: no such device; wanted {_WANTED} ({', '.join(table) or 'none'})")
            found.append(table[text])
    names = [device.name for device in found]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"--device {name}: named twice; a device runs one thing at a time")
    return found


def read_devices(source: Path | None = None) -> dict[str, Device]:
    """Returns the devices of a `devices.toml` by name; none where there is no such file.

    Args:
        source: The file; by default `devices.toml` in the working folder, otherwise the one in `~/.config/edgeq`.

    Raises:
        InputError: the file cannot be read or does not describe devices.
    """
    if source is None:
        config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
        places = (Path("devices.toml"), config / "edgeq" / "devices.toml")
        source = next((path for path in places if path.is_file()), None)
    if source is None:
        return {}
    try:
        document = tomllib.loads(source.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{source}: cannot be read as TOML ({error})") from error
    return {name: _device(f"{source}: [{name}]", name, fields) for name, fields in document.items()}


def _device(where: str, name: str, fields: Any) -> Device:
    if not isinstance(fields, dict):
        raise InputError(f"{where} is {fields!r}; wanted a table with host = 'ssh://[user@]host[:port]'")
    if name == LOCAL or "://" in name or not name.isprintable() or not name.strip():
        raise InputError(f"{where}: this name is taken or not allowed; choose another name")
    unknown = sorted(fields.keys() - _KEYS.keys())
    if unknown:
        raise InputError(f"{where}: unknown key {', '.join(map(repr, unknown))}; known: {', '.join(_KEYS)}")
    for key, value in fields.items():
        fits, wanted = _KEYS[key]
        if not fits(value):
            raise InputError(f"{where}: {key} = {value!r}; wanted {wanted}")
    if "host" not in fields:
        raise InputError(f"{where}: has no host; wanted host = 'ssh://[user@]host[:port]'")
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    return Device(**{"name": name, **options, **_address(fields["host"], where)})


def _address(text: str, where: str) -> dict[str, Any]:
    address = text if "://" in text else f"ssh://{text}"
    match = _ADDRESS.fullmatch(address)
    if not match or not 0 < int(match["port"] or 22) < 1 << 16:
        raise InputError(f"{where}: {text[:80]!r} is not the address of a device; wanted ssh://[user@]host[:port]")
    port = match["port"]
    return {"host": match["host"].strip("[]"), "user": match["user"], "port": None if port is None else int(port)}


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and value.isprintable() and not value.startswith("-")


def _are(value: Any, fits: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(fits(each) for each in value)


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


_KEYS: dict[str, tuple[Any, str]] = {
    "host": (lambda value: isinstance(value, str), "ssh://[user@]host[:port]"),
    "threads": (lambda value: _is_count(value, 1), "a number from 1"),
    "cpus": (lambda value: _are(value, lambda each: _is_count(each, 0)), "a list of CPU numbers"),
    "runtimes": (lambda value: _are(value, _is_text), "a list of runtimes"),
    "python": (_is_text, "the path of an interpreter"),
    "env": (lambda value: value in ENVIRONMENTS, " or ".join(map(repr, ENVIRONMENTS))),
    # PYTHONPATH is a list with colons.
    "cache": (lambda value: _is_text(value) and ":" not in value, "a folder, without a colon"),
}
