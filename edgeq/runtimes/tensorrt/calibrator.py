"""TensorRT's calibrators, fed from a cache or with images.

TensorRT swallows what its callbacks raise and takes it for the end of the data, which would leave a badly calibrated
engine without a word. So nothing is raised in a callback: errors are stored, and `finish` raises them after the build.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeq.errors import EngineError, InputError
from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.runtimes.cuda import Buffer, Cuda
from edgeq.runtimes.tensorrt.library import Messages, describe

# Algorithm as calibration caches name it -> the class that reads and writes such caches.
CALIBRATORS = {"EntropyCalibration2": "IInt8EntropyCalibrator2", "MinMaxCalibration": "IInt8MinMaxCalibrator"}


@dataclass
class Feed:
    """What a calibrator needs, and what came of it; TensorRT's class only passes its callbacks on to this.

    Attributes:
        spec: The network's input; its shape is that of a batch.
        cuda: Device that batches are copied to.
        cache: Calibration cache to use instead of images.
        images: Inputs `(1, ...)` to calibrate on instead of a cache, float32.
        batches: Number of batches that TensorRT took.
        written: The cache that TensorRT wrote.
    """

    spec: TensorSpec
    cuda: Cuda
    cache: bytes | None = None
    images: Iterable[np.ndarray] | None = None
    batches: int = 0
    written: bytes | None = None

    def __post_init__(self) -> None:
        self._error: BaseException | None = None
        self._buffer: Buffer | None = None
        self._stream: int | None = None
        self._source: Iterator[np.ndarray] = iter(self.images or ())

    @property
    def batch_size(self) -> int:
        """Images in a batch."""
        return int(self.spec.shape[0] or 1)

    def next_batch(self, names: Sequence[str]) -> list[int] | None:
        """Returns the address of the next whole batch for each input; `None` at the end, and after an error."""
        if self._error is not None:
            return None
        try:
            return self._next_batch(names)
        except BaseException as error:  # Ctrl-C too: it must not cross TensorRT's C++ frames
            self._error = error
            return None

    def _next_batch(self, names: Sequence[str]) -> list[int] | None:
        if self.images is None:
            raise EngineError("TensorRT rejected the calibration cache and asked for images")
        # TensorRT reads one address a name from the list, whatever its length.
        if list(names) != [self.spec.name]:
            raise EngineError(f"TensorRT asks for the inputs {list(names)} to calibrate on, wanted {[self.spec.name]}")
        images = []
        for image in self._source:
            images.append(image)
            if len(images) == self.batch_size:
                break
        if len(images) < self.batch_size:
            return None  # the rest would be no whole batch
        if self._buffer is None or self._stream is None:
            self._stream = self.cuda.create_stream()
            self._buffer = Buffer(self.cuda, (self.batch_size, *images[0].shape[1:]), np.float32)
        np.copyto(self._buffer.host, np.concatenate(images))
        self._buffer.upload(self._stream)
        self.cuda.synchronize(self._stream)
        self.batches += 1
        return [self._buffer.pointer]

    def finish(self, messages: Messages) -> None:
        """Frees memory, and raises what went wrong in the callbacks.

        Raises:
            InputError: there was no whole batch, or an image could not be read.
            EngineError: TensorRT rejected the cache.
        """
        if self._buffer is not None:
            self._buffer.free()
            self._buffer = None
        if self._stream is not None:
            self.cuda.destroy_stream(self._stream)
            self._stream = None
        if isinstance(self._error, EngineError):
            raise EngineError(f"{self._error} ({messages.said()})") from self._error
        if self._error is not None:
            raise self._error
        if self.images is not None and self.batches == 0 and self.written is None:
            raise InputError(
                f"calibration got no whole batch of {self.batch_size} images; give a folder with at least that many"
            )


def make_calibrator(trt: Any, algorithm: str, feed: Feed) -> Any:
    """Returns a calibrator of this TensorRT that calls `feed`.

    Args:
        trt: TensorRT's module.
        algorithm: As caches name it.
        feed: What it reads.

    Raises:
        EngineError: this TensorRT has no such calibrator, or there is none of that name.
    """
    base: Any = getattr(trt, CALIBRATORS.get(algorithm, ""), None)
    if base is None:
        raise EngineError(
            f"{describe(trt)} has no calibrator for {algorithm}; wanted a cache of one of "
            f"{', '.join(CALIBRATORS)}, or the explicit route (`route` explicit)"
        )

    class Calibrator(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)

        def get_batch_size(self) -> int:
            return feed.batch_size

        def get_batch(self, names: Sequence[str]) -> list[int] | None:
            return feed.next_batch(names)

        def read_calibration_cache(self) -> bytes | None:
            return feed.cache

        def write_calibration_cache(self, cache: Any) -> None:
            feed.written = bytes(cache)  # the memory is TensorRT's and gone after the call

    return Calibrator()


def batch_spec(spec: TensorSpec, batch: int) -> TensorSpec:
    """Returns an input whose free batch dimension is fixed.

    Raises:
        InputError: another dimension is free, too.
    """
    shape = tuple(batch if axis == 0 and length is None else length for axis, length in enumerate(spec.shape))
    if None in shape:
        raise InputError(
            f"input {spec.name!r} has the shape {spec.shape}; TensorRT builds for a fixed size: export with `size` HxW"
        )
    return dataclasses.replace(spec, shape=shape)
