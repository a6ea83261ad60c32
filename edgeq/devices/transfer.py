"""Files and folders on their way to a device: known by their digests, sent once, checked on arrival."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from edgeq.devices.probe import on_device
from edgeq.devices.ssh import Connection
from edgeq.errors import DeviceError, InputError
from edgeq.files import sha256_file
from edgeq.progress import Advance, progress_bar

_FILES = "files"
_ASK_S = 300.0
# A megabit a second is what a bad wireless link still does.
_LEAST_BYTES_PER_S = 1 << 17
# What a device should still have free when everything has arrived.
_SPARE_BYTES = 64 << 20


@dataclass(frozen=True)
class SentFile:
    """A file of this machine and its place on a device.

    Attributes:
        path: The file here.
        digest: SHA-256 of its bytes.
        size_bytes: Its size.
    """

    path: Path
    digest: str
    size_bytes: int

    @classmethod
    def of(cls, path: Path) -> SentFile:
        """Returns the file with its digest and size.

        Raises:
            InputError: it cannot be read.
        """
        try:
            return cls(path, sha256_file(path), path.stat().st_size)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error

    @property
    def name(self) -> str:
        """Where it lies under the device's folder of files."""
        return f"{self.digest}/{self.path.name}"


@dataclass(frozen=True)
class SentFolder:
    """Files of this machine that make up a folder on a device.

    Attributes:
        name: Name of the folder there; it holds the digest.
        digest: SHA-256 over a line of digest and path for each file, sorted by path.
        files: Path inside the folder -> file here.
    """

    name: str
    digest: str
    files: dict[str, Path]

    @classmethod
    def of(cls, kind: str, root: Path, prefix: str = "") -> SentFolder:
        """Returns all files under `root`, compiled Python left out.

        Args:
            kind: What the folder's name begins with.
            root: The folder here.
            prefix: Put before the paths inside the folder.
        """
        paths = (path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        files = {prefix + path.relative_to(root).as_posix(): path for path in paths}
        text = "".join(f"{sha256_file(files[path])} {path}\n" for path in sorted(files))
        digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
        return cls(f"{kind}-{digest[:16]}", digest, files)


class Store:
    """What of ours a device keeps.

    Args:
        connection: The open connection.
        root: Absolute path of the folder there.
        free_bytes: Free space there.
    """

    def __init__(self, connection: Connection, root: str, free_bytes: int) -> None:
        self._connection = connection
        self._root = root
        self._free_bytes = free_bytes

    def push_files(self, files: Iterable[SentFile]) -> None:
        """Sends what is not there yet; `path_of` says where each lies then.

        Raises:
            DeviceError: the device has not enough space, or a file did not arrive as it was.
        """
        unique = list({file.name: file for file in files}.values())
        missing = self._missing(_FILES, [(file.name, file.size_bytes) for file in unique])
        absent = [unique[number] for number in missing]
        if absent:
            self._send("files", [_FILES], [(file.name, file.path) for file in absent])

    def push_folder(self, folder: SentFolder) -> str:
        """Returns the absolute path of a folder there, which is sent if it is not there yet.

        Raises:
            DeviceError: the device has not enough space, or the folder did not arrive as it was.
        """
        if self._missing("", [(folder.name, None)]):
            self._send("folder", ["", folder.name, folder.digest], sorted(folder.files.items()))
        return f"{self._root}/{folder.name}"

    def path_of(self, file: SentFile) -> str:
        """Returns the absolute path of a file there."""
        return f"{self._root}/{_FILES}/{file.name}"

    def _missing(self, under: str, wanted: Sequence[tuple[str, int | None]]) -> list[int]:
        request = json.dumps(wanted).encode()
        answer = self._connection.ask(
            self._script("missing", under), lambda stdin: _write(stdin, request), timeout_s=_ASK_S
        )
        missing = answer.get("missing")
        if not (isinstance(missing, list) and all(type(n) is int and 0 <= n < len(wanted) for n in missing)):
            raise DeviceError(f"{self._connection.device.name}: lists {str(missing)[:80]!r} of {len(wanted)} files")
        return missing

    def _send(self, command: str, arguments: list[str], members: Sequence[tuple[str, Path]]) -> None:
        name = self._connection.device.name
        size_bytes = sum(path.stat().st_size for _, path in members)
        if size_bytes + _SPARE_BYTES > self._free_bytes:
            raise DeviceError(
                f"{name}: {size_bytes / 1e6:.0f} MB are to be sent, and {self._root} has "
                f"{self._free_bytes / 1e6:.0f} MB free; free space, or name another `cache` in devices.toml"
            )
        under, *rest = arguments
        with progress_bar(max(1, size_bytes >> 20), "send", unit="MB") as advance:
            answer = self._connection.ask(
                self._script(command, under, *rest),
                lambda stdin: _write_tar(stdin, members, advance),
                timeout_s=_ASK_S + size_bytes / _LEAST_BYTES_PER_S,
            )
        if answer.get("received") != len(members):
            raise DeviceError(f"{name}: received {answer.get('received')!r} of {len(members)} files; try again")
        self._free_bytes -= size_bytes

    def _script(self, command: str, under: str, *arguments: str) -> list[str]:
        root = f"{self._root}/{under}" if under else self._root
        return [self._connection.device.python, "-c", on_device("store"), command, root, *arguments]


def _write(stdin: IO[bytes], content: bytes) -> None:
    stdin.write(content)


def _write_tar(stdin: IO[bytes], members: Sequence[tuple[str, Path]], advance: Advance) -> None:
    sent_bytes = 0
    with tarfile.open(fileobj=stdin, mode="w|", format=tarfile.PAX_FORMAT, encoding="utf-8") as archive:
        for name, path in members:
            member = tarfile.TarInfo(name)
            with path.open("rb") as content:
                # The size as it is now: what is written after would end the archive in the midst of a file.
                status = path.stat()
                member.size, member.mode = status.st_size, status.st_mode & 0o777
                archive.addfile(member, content)
            before, sent_bytes = sent_bytes, sent_bytes + member.size
            advance((sent_bytes >> 20) - (before >> 20))
