"""Work for workers elsewhere: a finished file and some images, both known by the digests of their contents."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact
from edgeq.files import sha256_file
from edgeq.inputs import ImageFile, Item
from edgeq.inputs.items import ArrayFile

LEAST_IMAGES = 16
"""A unit of fewer images spends its time on opening the engine."""

MOST_IMAGES = 256
"""What a worker that dies loses, and what an answer must hold."""


@dataclass(frozen=True)
class WorkImage:
    """An image as workers take it.

    Attributes:
        path: Where it lies on this machine.
        digest: SHA-256 of the file.
        is_array: Whether it is a `.npy` file.
        size_px: Width and height that the annotations state.
    """

    path: Path
    digest: str
    is_array: bool
    size_px: tuple[int, int] | None

    @classmethod
    def of(cls, item: Item, folder: Path) -> WorkImage:
        """Returns an image of a data set; what is no file is written to a folder.

        Raises:
            InputError: it cannot be read.
        """
        if isinstance(item, ImageFile):
            return cls(item.path, item.digest(), isinstance(item, ArrayFile), item.size_px)
        path = folder / f"{item.digest()}.npy"
        try:
            np.save(path, item.read())
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror}); free space") from error
        return cls(path, sha256_file(path), is_array=True, size_px=None)


class Unit(Protocol):
    """What a worker is asked for: what files say about images, or to prompts."""

    @property
    def artifact(self) -> Artifact:
        """The file by which it is decided who takes the unit: a worker that has it needs less."""

    @property
    def runtime(self) -> str:
        """The runtime that runs it."""

    @property
    def images(self) -> Sequence[Any]:
        """What it is run on."""

    @property
    def files(self) -> Mapping[str, Path]:
        """Digest -> where the file lies, of all that the worker needs."""

    @property
    def command(self) -> dict[str, Any]:
        """The fields of a command of `edgeq.tuning.workers_server`."""


@dataclass(frozen=True, eq=False)
class WorkUnit:
    """What a worker is asked for: what a file says about some images.

    Attributes:
        artifact: The file.
        runtime: The runtime that runs it.
        threads: CPU threads of the engine.
        compute_precision: What float layers are computed in.
        images: The images.
    """

    artifact: Artifact
    runtime: str
    threads: int | None
    compute_precision: str | None
    images: Sequence[WorkImage]

    @cached_property
    def files(self) -> Mapping[str, Path]:
        """Digest -> where the file lies, of the model and of the images."""
        return {self.artifact.digest: self.artifact.path, **{image.digest: image.path for image in self.images}}

    @property
    def command(self) -> dict[str, Any]:
        """The fields of the command `predict` of `edgeq.tuning.workers_server`."""
        return {
            "command": "predict",
            "file": self.artifact.digest,
            "manifest": self.artifact.to_json(),
            "runtime": self.runtime,
            "threads": self.threads,
            "compute_precision": self.compute_precision,
            "images": [
                {"digest": image.digest, "is_array": image.is_array, "size_px": image.size_px} for image in self.images
            ],
        }


def split_evenly(numbers: Sequence[int], pieces: int, workers: int) -> list[Sequence[int]]:
    """Returns the images of a piece of work in parts, so that all workers have something to do.

    Args:
        numbers: The images.
        pieces: How many pieces there are to do at the same time.
        workers: How many workers there are.
    """
    wished = math.ceil(workers / pieces) if pieces else 1
    parts = max(min(wished, len(numbers) // LEAST_IMAGES), math.ceil(len(numbers) / MOST_IMAGES), 1)
    bounds = [len(numbers) * part // parts for part in range(parts + 1)]
    return [numbers[begin:end] for begin, end in itertools.pairwise(bounds)]
