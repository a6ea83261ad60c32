"""The folder as a whole: it appears with all files or not at all, and only a folder of ours is replaced."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from edgeq.deploying.packed import Content
from edgeq.errors import InputError
from edgeq.files import sha256_bytes, sha256_file, umask

SUMS = "SHA256SUMS"
"""Digests of all other files, as `sha256sum -c` reads them."""

MARKER = "deploy.json"
"""What makes a folder ours."""

_READABLE, _RUNNABLE = 0o666, 0o777


def write_folder(out: Path, contents: Mapping[str, Content]) -> bool:
    """Writes the files and their digests; returns whether anything in the folder changed.

    Args:
        out: The folder: absent, empty, or one that was written by this function.
        contents: Path within the folder -> content, with `MARKER`. A path that ends in `.sh` becomes executable.

    Raises:
        InputError: the folder is not ours, holds further files, or cannot be written.
    """
    out = out.resolve()
    digests = {path: _digest(content) for path, content in sorted(contents.items())}
    sums = "".join(f"{digest}  {path}\n" for path, digest in digests.items())
    held = _held(out)
    if held and _is_as_written(out, sums):
        return False
    if further := sorted(held - _written(out)):
        raise InputError(
            f"{out}: holds files that `edgeq deploy` did not write ({', '.join(further[:3])}"
            f"{', ...' if len(further) > 3 else ''}); choose another `out`, or move them"
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    except OSError as error:
        raise _cannot_write(out, error) from error
    try:
        _fill(temporary / "new", {**contents, SUMS: sums})
        _swap(temporary, out)
    except OSError as error:
        raise _cannot_write(out, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return True


def _digest(content: Content) -> str:
    return sha256_file(content) if isinstance(content, Path) else sha256_bytes(content.encode())


def _held(out: Path) -> frozenset[str]:
    """Returns the files of an existing folder; nothing for one that is absent or empty."""
    if not out.exists():
        return frozenset()
    if not out.is_dir():
        raise InputError(f"{out}: is a file; wanted the name of a folder to write")
    held = frozenset(path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir())
    if (held or any(out.iterdir())) and not (out / MARKER).is_file():
        raise InputError(f"{out}: is not a folder of `edgeq deploy` (it has no {MARKER}); choose another `out`")
    return held


def _written(out: Path) -> frozenset[str]:
    """Returns the files that an earlier run wrote."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        lines = (out / SUMS).read_text(encoding="utf-8").splitlines()
        return frozenset({SUMS, *(line[66:] for line in lines)})
    return frozenset()


def _is_as_written(out: Path, sums: str) -> bool:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if (out / SUMS).read_text(encoding="utf-8") != sums:
            return False
        return all(sha256_file(out / line[66:]) == line[:64] for line in sums.splitlines())
    return False


def _fill(folder: Path, contents: Mapping[str, Content]) -> None:
    mask = umask()
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, path)
        else:
            path.write_bytes(content.encode())
        path.chmod((_RUNNABLE if path.suffix == ".sh" else _READABLE) & ~mask)
        with path.open("rb") as written:
            os.fsync(written.fileno())


def _swap(temporary: Path, out: Path) -> None:
    """Puts the new folder in the place of the old one; if that fails, the old one stays."""
    old = temporary / "old"
    if out.exists():
        out.rename(old)
    try:
        (temporary / "new").rename(out)
    except BaseException:  # Ctrl-C too: what is in the temporary folder is removed
        if old.exists():
            old.rename(out)
        raise


def _cannot_write(out: Path, error: OSError) -> InputError:
    reason = error.strerror or str(error)
    return InputError(f"{out}: cannot be written ({reason}); nothing was changed, choose another `out` or free space")
