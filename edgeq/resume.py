"""What long jobs keep so that the same command resumes them: a file of JSON lines, one for each finished part."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgeq.errors import InputError, MismatchError
from edgeq.files import cache_folder, sha256_json

_KEPT_S = 30 * 24 * 3600.0
_DIGITS = 32


def forget_unused(folder: Path, pattern: str) -> None:
    """Deletes the files of a cache folder to which nothing was written for 30 days."""
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _KEPT_S:
                path.unlink()


class JobLog:
    """The finished parts of one job, each a JSON object on a line of its own.

    Lines are only ever appended, each in one write, and each names its job by a digest. So a kill leaves whole lines
    and at most one that is cut, which does not count; and the lines of two processes do not mix.

    Args:
        path: The file; it is made with the first part.
        job: Everything that the parts depend on, as JSON.
    """

    def __init__(self, path: Path, job: Mapping[str, Any]) -> None:
        self.path = path
        self._job = sha256_json(job)[:_DIGITS]

    @classmethod
    def in_cache(cls, kind: str, job: Mapping[str, Any]) -> JobLog:
        """Returns the log of a job in the user's cache folder, named by the job's digest.

        Logs of this kind to which nothing was added for 30 days are deleted: nobody resumes these jobs any more.
        """
        folder = cache_folder() / kind
        forget_unused(folder, "*.jsonl")
        return cls(folder / f"{sha256_json(job)[:_DIGITS]}.jsonl", job)

    def parts(self) -> list[dict[str, Any]]:
        """Returns the finished parts, in the order in which they were added.

        Raises:
            MismatchError: the file holds parts of other jobs only.
        """
        lines = list(self._lines())
        own = [line["part"] for line in lines if line["job"] == self._job]
        if lines and not own:
            raise MismatchError(f"{self.path} belongs to another job")
        return own

    def add(self, part: Mapping[str, Any]) -> None:
        """Keeps a finished part.

        Raises:
            InputError: it cannot be written.
        """
        line = json.dumps({"job": self._job, "part": part}, allow_nan=False).encode() + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            with os.fdopen(descriptor, "r+b", buffering=0) as stream:
                size = stream.seek(0, os.SEEK_END)
                if size and stream.seek(size - 1) is not None and stream.read(1) != b"\n":
                    line = b"\n" + line  # behind a line that was cut
                try:
                    written = stream.write(line)
                    if written != len(line):
                        raise OSError(None, f"only {written} of {len(line)} bytes fit")
                except OSError:
                    stream.truncate(size)  # a part of a line is of no use, and takes the space that is short
                    raise
        except OSError as error:
            if self.path.is_file() and not self.path.stat().st_size:
                self.remove()
            raise InputError(f"{self.path}: cannot be written ({error.strerror}); free space") from error

    def remove(self) -> None:
        """Forgets everything, once the job is complete or its parts are of no use."""
        self.path.unlink(missing_ok=True)

    def _lines(self) -> Iterator[dict[str, Any]]:
        try:
            content = self.path.read_bytes()
        except OSError:
            return
        for line in content.split(b"\n"):
            with contextlib.suppress(ValueError, RecursionError):
                found = json.loads(line)
                if isinstance(found, dict) and isinstance(found.get("part"), dict) and "job" in found:
                    yield found
