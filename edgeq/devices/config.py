"""Which devices a user means: `local`, an address, or a name of `devices.toml`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from edgeq.boundary import Count, Positive, convert, read_toml
from edgeq.errors import InputError
from edgeq.wording import did_you_mean

LOCAL = "local"

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
    """Returns devices by their names and addresses, in order.

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
            found.append(Device(text.removeprefix("ssh://").rstrip("/"), **_address(text, "`device`")))
        else:
            table = read_devices() if table is None else table
            if text not in table:
                near = did_you_mean(text, table)
                raise InputError(
                    f"`device` {text}: no such device; {near}wanted {_WANTED} ({', '.join(table) or 'none'})"
                )
            found.append(table[text])
    names = [device.name for device in found]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"`device` {name}: named twice; a device runs one thing at a time")
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
    tables = read_toml(source, dict[str, Any], kind="devices, each a table [name]")
    return {name: _device(source, name, table) for name, table in tables.items()}


class _Table(msgspec.Struct, forbid_unknown_fields=True):
    """A table of devices.toml; `Device` explains its keys."""

    host: str
    threads: Positive | None = None
    cpus: tuple[Count, ...] = ()
    runtimes: tuple[str, ...] = ()
    python: str | None = None
    env: Literal["push", "venv"] | None = None
    cache: str | None = None

    def __post_init__(self) -> None:
        texts = {"python": self.python, "cache": self.cache, **{f"runtime {each!r}": each for each in self.runtimes}}
        for key, text in texts.items():
            if text is not None and not _is_word(text):
                raise ValueError(f"{key} is {text!r}, wanted printable text that does not begin with a dash")
        if self.cache is not None and ":" in self.cache:  # PYTHONPATH is a list with colons
            raise ValueError(f"cache is {self.cache!r}, wanted a folder, without a colon")


def _device(source: Path, name: str, fields: Any) -> Device:
    where = f"{source}: [{name}]"
    if name == LOCAL or "://" in name or not name.isprintable() or not name.strip():
        raise InputError(f"{where}: this name is taken or not allowed; choose another name")
    table = convert(
        fields, _Table, source=source, place=f"[{name}]", kind="a table with host = 'ssh://[user@]host[:port]'"
    )
    stated = {key: value for key, value in msgspec.structs.asdict(table).items() if value is not None}
    return Device(**{"name": name, **stated, **_address(table.host, where)})


def _address(text: str, where: str) -> dict[str, Any]:
    address = text if "://" in text else f"ssh://{text}"
    match = _ADDRESS.fullmatch(address)
    if not match or not 0 < int(match["port"] or 22) < 1 << 16:
        raise InputError(f"{where}: {text[:80]!r} is not the address of a device; wanted ssh://[user@]host[:port]")
    port = match["port"]
    return {"host": match["host"].strip("[]"), "user": match["user"], "port": None if port is None else int(port)}


def _is_word(text: str) -> bool:
    return bool(text) and text.isprintable() and not text.startswith("-")
