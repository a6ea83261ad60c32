"""What one or several files say about images, handed on image by image instead of kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgeq.evaluation.inference import Job

OnImage = Callable[[int, list[Any]], None]
"""Told the position of an image and what each file says about it, once all have."""


class PredictionStream:
    """Collects the predictions of several jobs, which may run together or one after the other.

    Args:
        on_image: Told of every image that is complete.
        count: How many jobs there are.
    """

    def __init__(self, on_image: OnImage, count: int) -> None:
        self._on_image = on_image
        self._count = count
        self._waiting: dict[int, dict[int, Any]] = {}

    def take(self, position: int, number: int, prediction: Any) -> None:
        """Takes what the job at a position says about an image."""
        waiting = self._waiting.setdefault(number, {})
        waiting[position] = prediction
        if len(waiting) == self._count:
            del self._waiting[number]
            self._on_image(number, [waiting[each] for each in range(self._count)])


@dataclass(eq=False)
class StreamedJob(Job):
    """Hands its predictions to a stream instead of keeping them.

    Attributes:
        stream: What takes them.
        position: The job's position among those of the stream.
    """

    stream: PredictionStream = field(kw_only=True)
    position: int = field(kw_only=True)

    def add(self, number: int, prediction: Any, inference_s: float) -> None:
        """Hands on what was found in an image."""
        self.inference_s += inference_s
        self.stream.take(self.position, number, prediction)


def streamed(jobs: Sequence[Job], on_image: OnImage) -> list[Job]:
    """Returns the jobs with a common stream."""
    stream = PredictionStream(on_image, len(jobs))
    return [
        StreamedJob(
            job.artifact, job.preprocessing, job.postprocessing, job.runtime, job.compute_precision,
            stream=stream, position=position,
        )
        for position, job in enumerate(jobs)
    ]  # fmt: skip
