"""What was predicted on a device so far, kept on the host, so that a run that was cut goes on where it was."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from edgeq.resume import JobLog


@dataclass(frozen=True)
class Entry:
    """What came of one image.

    Attributes:
        size_px: Width and height; `None` where the image cannot be read.
        inference_s: Time of the engine.
        elapsed_s: Time since the image before.
        prediction: Packed by `edgeq.evaluation.prediction_codec`; `None` where the image cannot be read.
        unreadable: Why it cannot be read.
    """

    size_px: tuple[int, int] | None
    inference_s: float
    elapsed_s: float
    prediction: dict[str, Any] | None
    unreadable: str | None

    @classmethod
    def parse(cls, found: Any) -> Entry:
        """Returns what `edgeq.evaluation.prediction_server` says of an image.

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
    """What came of each image that is done. Images are known by their digests.

    Args:
        key: Everything that the predictions depend on, except the image.
    """

    def __init__(self, key: dict[str, Any]) -> None:
        self._log = JobLog.in_cache("eval", key)

    def read(self) -> tuple[dict[str, Entry], dict[str, Any]]:
        """Returns image digest -> entry, and the session's environment; entries that make no sense are left out."""
        entries, environment = {}, {}
        for part in self._log.parts():
            if isinstance(part.get("environment"), dict):
                environment = part["environment"]
            else:
                with contextlib.suppress(ValueError):
                    entries[str(part.get("image"))] = Entry.parse(part)
        return entries, environment

    def add_environment(self, environment: dict[str, Any]) -> None:
        """Keeps what the session says of itself; raises `InputError` if it cannot be written."""
        self._log.add({"environment": environment})

    def add(self, image: str, entry: Entry) -> None:
        """Keeps what came of the image of this digest; raises `InputError` if it cannot be written."""
        self._log.add({"image": image, **entry.to_json()})

    def remove(self) -> None:
        """Forgets everything, once the run is complete."""
        self._log.remove()
