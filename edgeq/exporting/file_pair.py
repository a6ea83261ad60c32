"""A model file and its manifest are written as one: a kill in between leaves no pair that does not belong together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from edgeq.exporting.artifact import UNFINISHED, manifest_path
from edgeq.files import alone_in, write_bytes, write_json


@contextlib.contextmanager
def pair_written(path: Path) -> Iterator[None]:
    """Marks a model file as unfinished until the block, which writes it and then its manifest, has ended.

    Another process that writes to the folder waits: two writers of one file leave the pair of one of them. Whatever
    ends the process in between, every later reader refuses the file. An exception takes a new file away with
    its mark, and brings the old manifest back if the old file is still there.

    Args:
        path: The model file.
    """
    with contextlib.suppress(OSError):  # whoever writes the file says what is wrong
        path.parent.mkdir(parents=True, exist_ok=True)
    with alone_in(path.parent):
        yield from _marked(path)


def _marked(path: Path) -> Iterator[None]:
    manifest = manifest_path(path)
    before = manifest.read_bytes() if manifest.is_file() else None
    old = _identity(path)
    write_json(manifest, {"manifest_version": UNFINISHED, "path": path.name})
    try:
        yield
    except BaseException:
        if before is not None:
            if _identity(path) == old:
                write_bytes(manifest, before)
            raise
        if old is None:
            path.unlink(missing_ok=True)
        manifest.unlink()
        raise


def _identity(path: Path) -> tuple[int, int] | None:
    """Returns what changes when a file is replaced."""
    if not path.is_file():
        return None
    found = path.stat()
    return found.st_ino, found.st_mtime_ns
