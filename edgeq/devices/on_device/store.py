r"""Keeps files and folders under names that hold their digests; prints one JSON object.

    missing ROOT             stdin: JSON list of [path under ROOT, size in bytes, or null for a folder]
                             -> {"missing": [positions in the list]}
    files ROOT               stdin: a tar of files named SHA256/NAME -> {"received": count}; those that arrived whole
                             are kept whatever becomes of the others
    folder ROOT NAME SHA256  stdin: a tar of the files of ROOT/NAME, which appears whole or not at all; SHA256 is that
                             of a line "SHA256 PATH\n" for each file, sorted by path -> {"received": count}

What does not have its digest is refused: {"error": reason}. What `missing` was not asked for in 30 days is removed by
it, because boards are small: the folders under ROOT whose names end in a digest, or are one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_TEMPORARY = ".edgeq-"
_MAX_REQUEST_BYTES = 64 << 20
_BLOCK_BYTES = 1 << 20
_DAY_S = 86400
_UNUSED_DAYS = 30
_OURS = re.compile(r"(?:edgeq|env|venv)-[0-9a-f]{16}|[0-9a-f]{64}")


class RefusedError(Exception):
    """What arrived is not what was announced."""


def missing(root: Path) -> dict[str, object]:
    """Returns which of the wanted files and folders are not there."""
    wanted = json.loads(sys.stdin.buffer.read(_MAX_REQUEST_BYTES).decode())
    absent = [number for number, (path, size) in enumerate(wanted) if not _has(root / path, size)]
    for top in {path.partition("/")[0] for path, _ in wanted}:
        with contextlib.suppress(OSError):  # absent, or another user's
            os.utime(root / top)
    _remove_unused(root)
    return {"missing": absent}


def files(root: Path) -> dict[str, object]:
    """Takes single files."""
    received = 0
    for member, stream in _members():
        match = re.match("([0-9a-f]{64})/([^/]+)$", member.name, re.DOTALL)
        if not match or match[2] in (".", ".."):
            raise RefusedError(f"a file named {member.name[:80]!r}, wanted SHA256/NAME")
        folder = root / match[1]
        folder.mkdir(exist_ok=True)
        temporary = folder / f"{_TEMPORARY}{os.getpid()}"
        try:
            _require(_write(stream, temporary), match[1], match[2])
            temporary.replace(folder / match[2])
        finally:
            if temporary.exists():
                temporary.unlink()
        received += 1
    return {"received": received}


def folder(root: Path, name: str, digest: str) -> dict[str, object]:
    """Takes a folder."""
    _remove_leftovers(root)
    temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=root))
    try:
        lines = []
        for member, stream in _members():
            if member.name.startswith("/") or ".." in member.name.split("/"):
                raise RefusedError(f"a file named {member.name[:80]!r}, wanted a path inside the folder")
            target = temporary / member.name
            target.parent.mkdir(parents=True, exist_ok=True)
            lines.append((member.name, _write(stream, target)))
            target.chmod(0o755 if member.mode & 0o100 else 0o644)
        text = "".join(f"{found} {path}\n" for path, found in sorted(lines))
        _require(hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest(), digest, name)
        temporary.chmod(0o755)
        os.sync()  # a power cut must not leave the name without its content
        try:
            temporary.rename(root / name)
        except OSError:
            if not (root / name).is_dir():  # otherwise another host was first
                raise
        return {"received": len(lines)}
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _members() -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    """Yields the files of the tar on stdin and their contents; anything but a file is refused."""
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
        for member in archive:
            stream = archive.extractfile(member) if member.isfile() else None
            if stream is None:
                raise RefusedError(f"{member.name[:80]!r} is not a plain file")
            yield member, stream


def _write(stream: IO[bytes], target: Path) -> str:
    """Returns the digest of what was written."""
    digest = hashlib.sha256()
    with target.open("wb") as output:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
            output.write(block)
    return digest.hexdigest()


def _require(found: str, wanted: str, name: str) -> None:
    if found != wanted:
        raise RefusedError(f"{name[:80]}: arrived with SHA-256 {found[:12]}, wanted {wanted[:12]}")


def _has(path: Path, size: int | None) -> bool:
    return path.is_dir() if size is None else path.is_file() and path.stat().st_size == size


def _remove_leftovers(root: Path) -> None:
    """Removes what cut connections left more than a day ago."""
    for path in root.glob(f"{_TEMPORARY}*"):
        if _age_s(path) > _DAY_S:
            shutil.rmtree(path, ignore_errors=True)


def _remove_unused(root: Path) -> None:
    for path in root.iterdir():
        if _OURS.fullmatch(path.name) and _age_s(path) > _UNUSED_DAYS * _DAY_S:
            shutil.rmtree(path, ignore_errors=True)


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:  # another host was first
        return 0.0


def main() -> None:
    """Carries out the command."""
    command, root, *rest = sys.argv[1:]
    answer: dict[str, object]
    try:
        Path(root).mkdir(parents=True, exist_ok=True)
        commands = {"missing": missing, "files": files, "folder": folder}
        answer = commands[command](Path(root), *rest)  # type: ignore[operator]
    except (RefusedError, OSError, tarfile.TarError) as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
