"""What was predicted on a device so far, kept on the host, so that a run that was cut goes on where it was."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeq.errors import InputError
from edgeq.files import cache_folder, sha256_json

_FOLDER = "eval"


@dataclass(frozen=True)
class Entry:
    """What came of one image.

    Attributes:
        size_px: Width and height; `None` where the image cannot be read.
        inference_s: Time of the engine.
        elapsed_s: Time since the image before.
        prediction: Packed by `edgeq.verbs.wire`; `None` where the image cannot be read.
        unreadable: Why it cannot be read.
    """

    size_px: tuple[int, int] | None
    inference_s: float
    elapsed_s: float
    prediction: dict[str, Any] | None
    unreadable: str | None

    @classmethod
    def parse(cls, found: Any) -> Entry:
        """Returns what `edgeq.verbs.predictor` says of an image.

        Raises:
            ValueError: it says something else.
        """
        if isinstance(found, dict) and isinstance(found.get("unreadable"), str):
            return cls(None, 0.0, 0.0, None, found["unreadable"])
        if not isinstance(found, dict) or not isinstance(found.get("prediction"), dict):
            raise ValueError("neither a prediction nor why there is none")
        size = found.get("size_px")
        times: list[Any] = [found.get("inference_s"), found.get("elapsed_s")]
        if not (isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)):
            raise ValueError(f"a size of {str(size)[:40]}")
        if not all(isinstance(time, (int, float)) and 0 < time < float("inf") for time in times):
            raise ValueError(f"times of {str(times)[:40]}")
        return cls((size[0], size[1]), times[0], times[1], found["prediction"], None)

    def to_json(self) -> dict[str, Any]:
        """Returns what `parse` takes."""
        if self.unreadable is not None:
            return {"unreadable": self.unreadable}
        keys = ("size_px", "inference_s", "elapsed_s", "prediction")
        return {key: getattr(self, key) for key in keys}


class Journal:
    """One line for each image that is done. Lines are known by the images' digests.

    Args:
        key: All that the predictions depend on, beside the image.
    """

    def __init__(self, key: dict[str, Any]) -> None:
        self._path: Path = cache_folder() / _FOLDER / f"{sha256_json(key)[:32]}.jsonl"

    def read(self) -> tuple[dict[str, Entry], dict[str, Any]]:
        """Returns image digest -> entry, and the session's environment; a line that was cut short is left out."""
        entries, environment = {}, {}
        for line in self._lines():
            if isinstance(line.get("environment"), dict):
                environment = line["environment"]
            else:
                with contextlib.suppress(ValueError):
                    entries[str(line.get("image"))] = Entry.parse(line)
        return entries, environment

    def add_environment(self, environment: dict[str, Any]) -> None:
        """Keeps what the session says of itself; raises `InputError` where it cannot be written."""
        self._append({"environment": environment})

    def add(self, image: str, entry: Entry) -> None:
        """Keeps what came of the image of this digest; raises `InputError` where it cannot be written."""
        self._append({"image": image, **entry.to_json()})

    def remove(self) -> None:
        """Forgets everything, once the run is complete."""
        self._path.unlink(missing_ok=True)

    def _append(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry).encode() + b"\n"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # One write a line: a kill leaves whole lines, and what two processes write does not mix.
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                os.write(descriptor, line)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise InputError(f"{self._path}: cannot be written ({error.strerror}); free space") from error

    def _lines(self) -> Iterator[dict[str, Any]]:
        try:
            lines = self._path.read_bytes().split(b"\n")
        except OSError:
            return
        for line in lines:
            with contextlib.suppress(ValueError, RecursionError):
                found = json.loads(line)
                if isinstance(found, dict):
                    yield found
