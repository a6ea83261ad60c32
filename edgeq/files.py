"""Whole-or-nothing files and digests; `edgeq.boundary` reads what they hold."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeq.errors import InputError

try:
    import fcntl
except ImportError:  # Windows, where what a killed process leaves stays
    fcntl = None  # type: ignore[assignment]

_TEMPORARY = ".edgeq-tmp"
_ORPHAN_S = 60
_WAIT_S, _ASK_AGAIN_S = 60.0, 0.02


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yields a temporary path beside `target` and renames it to `target` when the block ends well.

    An exception, Ctrl-C or a full disk leaves the old file, or none. The temporary name keeps the suffix of
    `target`, because some writers choose the format by it.

    Raises:
        InputError: the folder cannot be made or written, or the disk is full.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_orphans(target.parent.resolve())
        suffix = f"{_TEMPORARY}{target.suffix}"
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.stem}.", suffix=suffix)
    except OSError as error:
        raise _cannot_write(target, error) from error
    temporary, held = Path(name), os.fdopen(descriptor, "rb")
    if not _lock(descriptor):
        held.close()  # Windows does not rename a file that is open
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        # mkstemp makes files that only the owner can read; a result should follow the user's umask.
        temporary.chmod(0o666 & ~umask())
        temporary.replace(target)
    except OSError as error:
        raise _cannot_write(target, error) from error
    finally:
        held.close()
        temporary.unlink(missing_ok=True)


@functools.lru_cache(maxsize=256)
def _remove_orphans(folder: Path) -> None:
    """Removes the temporary files of processes that were killed; a folder is searched once a process.

    A living owner holds a lock on its file, however long it writes. Where locks cannot be had, nothing is removed.
    """
    for path in folder.glob(f".*{_TEMPORARY}*"):
        with contextlib.suppress(OSError):
            # A file so young may be between its making and its lock.
            if time.time() - path.stat().st_mtime < _ORPHAN_S:
                continue
            descriptor = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
            try:
                if _lock(descriptor):
                    path.unlink()
            finally:
                os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Locks an open file to the end of the process, or until it is closed; returns whether nobody else holds it."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keeps other processes that call this for the same folder waiting until the block ends.

    For files that belong together, or that are read and written again. It waits for a minute at most, and not at all
    where folders cannot be locked, as on some network drives.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # no such folder yet, or Windows
        yield
        return
    try:
        until = time.monotonic() + _WAIT_S
        while not _lock(descriptor) and time.monotonic() < until and _can_lock(descriptor):
            time.sleep(_ASK_AGAIN_S)
        yield
    finally:
        os.close(descriptor)


def _can_lock(descriptor: int) -> bool:
    """Returns whether files here can be locked, by somebody else at the moment."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return True


def cache_folder() -> Path:
    """Returns the folder for what can be made again: `$XDG_CACHE_HOME/edgeq`, or `~/.cache/edgeq`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeq"


def require_writable(target: Path) -> None:
    """Checks that a file can be made at `target`, before long work goes into what it is to hold.

    Raises:
        InputError: it cannot.
    """
    folder = next(parent for parent in target.absolute().parents if parent.exists())
    if target.is_dir():
        raise InputError(f"{target}: is a folder; wanted the name of a file to write")
    if not folder.is_dir():
        raise InputError(f"{target}: cannot be written, {folder} is a file; choose another name")
    if not os.access(folder, os.W_OK):
        raise InputError(f"{target}: cannot be written, {folder} is read-only; choose another name")


def write_bytes(target: Path, content: bytes) -> None:
    """Writes `content` to `target`, whole or not at all."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)


def write_text(target: Path, content: str) -> None:
    """Writes UTF-8 text to `target`, whole or not at all."""
    write_bytes(target, content.encode())


def write_json(target: Path, document: Any) -> None:
    """Writes indented JSON with a final newline to `target`, whole or not at all."""
    write_text(target, json.dumps(document, indent=2, allow_nan=False) + "\n")


def sha256_file(source: Path) -> str:
    """Returns the hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with source.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def has_content(path: Path, size_bytes: int, sha256: str) -> bool:
    """Returns whether a file has a size and a digest; one of another size is not read."""
    return path.stat().st_size == size_bytes and sha256_file(path) == sha256


def sha256_bytes(content: bytes) -> str:
    """Returns the hexadecimal SHA-256 of bytes."""
    return hashlib.sha256(content).hexdigest()


def sha256_json(document: Any) -> str:
    """Returns the hexadecimal SHA-256 of a JSON document, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _cannot_write(target: Path, error: OSError) -> InputError:
    reason = error.strerror or str(error)
    return InputError(
        f"{target}: cannot be written ({reason}); nothing was left behind, choose another `out` or free space"
    )


def umask() -> int:
    """Returns the permissions that files of this process do not get, as bits."""
    current = os.umask(0)
    os.umask(current)
    return current
