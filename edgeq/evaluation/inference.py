"""What models say about images: read, pre-processed, inferred and decoded, here or on a device.

Images are decoded, resized and put into the form of the model's input while the engine computes earlier ones; artifacts
that share a pre-processing share this work.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import EdgeqError, InputError, ModelError
from edgeq.exporting.artifact import Artifact, Postprocessing, Preprocessing
from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.exporting.unchanged import require_unchanged
from edgeq.inputs import InputCache, Item, OnUnreadable, UnreadableImages, model_input, prepared_samples
from edgeq.inputs.preprocessing import FloatArray, Placement
from edgeq.machine import keep_freed_memory
from edgeq.progress import progress_bar
from edgeq.runtimes import Session, open_session
from edgeq.tasks import Decoder, find_decoder

# Two threads keep images ready for the engine; more would only take its cores.
_WORKERS = 2
_AHEAD = 4

Turn = Callable[[], contextlib.AbstractContextManager[None]]
"""What is held while an engine opens a file or computes an image: who wants the machine alone waits no longer."""


class Images(Protocol):
    """Images of a data set; every `edgeq.tasks.base.Task` is this and more."""

    @property
    def paths(self) -> Sequence[Path]:
        """The images, not opened yet."""

    @property
    def items(self) -> Sequence[Item]:
        """The same, as they are read."""

    @property
    def max_unreadable(self) -> float:
        """The share of the images that may be unreadable."""

    def check_image(self, number: int, image: NDArray[np.uint8]) -> None:
        """Raises `InputError` where an image `(H, W, 3)` is not the one that is meant."""


class SomeImages:
    """Some of the images of a task; a position among them is that in `numbers`.

    Args:
        images: The images of the task.
        numbers: Positions of those that are taken.
        max_unreadable: Share of them that may be unreadable; by default the task's.
    """

    def __init__(self, images: Images, numbers: Sequence[int], max_unreadable: float | None = None) -> None:
        self._images = images
        self._numbers = numbers
        self.max_unreadable = images.max_unreadable if max_unreadable is None else max_unreadable

    @property
    def paths(self) -> Sequence[Path]:
        """The images, not opened yet."""
        return [self._images.paths[number] for number in self._numbers]

    @property
    def items(self) -> Sequence[Item]:
        """The same, as they are read."""
        return [self._images.items[number] for number in self._numbers]

    def check_image(self, number: int, image: NDArray[np.uint8]) -> None:
        """Raises `InputError` where an image `(H, W, 3)` is not the one that is meant."""
        self._images.check_image(self._numbers[number], image)


@dataclass(eq=False)
class Job:
    """An artifact in a runtime, and what came of it.

    Attributes:
        artifact: What is run.
        preprocessing: From image to input.
        postprocessing: From outputs to prediction.
        runtime: The runtime that runs it.
        compute_precision: What float layers are computed in, see `edgeq.runtimes.open_session`.
        environment: The session's, see `edgeq.runtimes.Session.environment`.
        predictions: By the image's position in the task.
        skipped: File names of images that could not be read.
        inference_s: Time of the engine alone, over all images.
        total_s: Time from files to predictions, over all images.
        reused: How many of the predictions an earlier run has computed; the times are without them.
    """

    artifact: Artifact
    preprocessing: Preprocessing
    postprocessing: Postprocessing
    runtime: str
    compute_precision: str | None
    environment: dict[str, Any] = field(default_factory=dict)
    predictions: dict[int, Any] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    inference_s: float = 0.0
    total_s: float = 0.0
    reused: int = 0

    @property
    def input(self) -> TensorSpec:
        """The one input, which takes the image."""
        (spec,) = self.artifact.inputs
        return spec

    @cached_property
    def decoder(self) -> Decoder:
        """How the outputs are read; raises `InputError` if no task has the decoder."""
        return find_decoder(self.postprocessing)

    @property
    def is_float(self) -> bool:
        """Whether an FP32 file is computed in FP32."""
        return self.artifact.precision == "fp32" and self.compute_precision in (None, "f32")

    @property
    def encoding(self) -> TensorSpec:
        """What of the input decides how real numbers go into it: jobs of the same encoding share arrays."""
        return dataclasses.replace(self.input, name="")

    @cached_property
    def copies(self) -> int:
        """How many copies of an image fill the input: its fixed batch."""
        lengths, one = self.input.shape, math.prod(self.preprocessing.input_shape)
        return 1 if None in lengths else math.prod(length or 1 for length in lengths) // one

    def add(self, number: int, prediction: Any, inference_s: float) -> None:
        """Takes what was found in an image, and how long the engine took."""
        self.predictions[number] = prediction
        self.inference_s += inference_s


def predict(
    jobs: Sequence[Job], task: Images, threads: int | None, inputs: InputCache, turn: Turn = contextlib.nullcontext
) -> None:
    """Runs all images of a task through all jobs, on this machine.

    Args:
        jobs: What is run; predictions, times and skipped images are added to them.
        task: The images.
        threads: CPU threads of the engine; `None` leaves it to the engine.
        inputs: What earlier calls have prepared of the same images.
        turn: Is held while an engine computes.

    Raises:
        InputError: more of the images cannot be read than the task allows.
        MismatchError: a model file was changed in the meantime.
        EdgeqError: an engine or decoder fails.
    """
    groups: dict[Preprocessing, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.preprocessing, []).append(job)
    for group in groups.values():
        unreadable = SkippedImages(task)
        predict_group(group, task, threads, unreadable.add, inputs, turn)
        for job in group:
            job.skipped = unreadable.names


class SkippedImages:
    """Warns of images that cannot be read, and refuses to go on without too many of them.

    Args:
        task: The images.
    """

    def __init__(self, task: Images) -> None:
        self._paths = task.paths
        self._unreadable = UnreadableImages(len(task.paths), task.max_unreadable)
        self._positions: list[int] = []

    @property
    def names(self) -> list[str]:
        """File names of the skipped images, in the task's order."""
        return [self._paths[position].name for position in sorted(self._positions)]

    def add(self, position: int, item: Item, error: InputError) -> None:
        """Notes an image that is skipped, and why; raises `InputError` if they are too many."""
        self._unreadable.add(position, item, error)
        self._positions.append(position)


def predict_group(
    jobs: Sequence[Job],
    task: Images,
    threads: int | None,
    on_unreadable: OnUnreadable,
    inputs: InputCache,
    turn: Turn = contextlib.nullcontext,
) -> None:
    """Runs all images of a task through jobs that share a pre-processing; `total_s` is added at the end."""
    keep_freed_memory()
    preprocessing = jobs[0].preprocessing
    encodings = {job.encoding for job in jobs}

    def prepare(position: int, item: Item, content: np.ndarray) -> _Prepared:
        task.check_image(position, content)
        array, placement = model_input(content, preprocessing, item.name)
        return _Prepared.of(array, placement, encodings)

    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(_WORKERS))
        with turn():
            sessions = [open_session(job.artifact, job.runtime, threads, job.compute_precision) for job in jobs]
            runs = [_Run(job, stack.enter_context(session), pool) for job, session in zip(jobs, sessions, strict=True)]
        items = task.items
        advance = stack.enter_context(progress_bar(len(items), "inference"))
        started = time.perf_counter()
        for sample in prepared_samples(
            items,
            prepare,
            pool=pool,
            ahead=_AHEAD,
            on_unreadable=on_unreadable,
            advance=advance,
            cache=_EncodedCache(inputs, preprocessing, encodings),
        ):
            with turn():
                for run in runs:
                    run.submit(sample.position, sample.prepared)
        for run in runs:
            run.finish()
        total_s = time.perf_counter() - started
    for job in jobs:
        require_unchanged(job.artifact)
        job.total_s += total_s - sum(other.inference_s for other in jobs if other is not job)


@dataclass(frozen=True)
class _Prepared:
    """An image as every job of a group takes it, and where it lies in the input.

    Attributes:
        real: The input in real numbers.
        placement: Where the image lies in it.
        arrays: The input in every encoding.
    """

    real: FloatArray
    placement: Placement
    arrays: Mapping[TensorSpec, np.ndarray]

    @classmethod
    def of(cls, real: FloatArray, placement: Placement, encodings: set[TensorSpec]) -> _Prepared:
        return cls(real, placement, {encoding: encoding.encode(real) for encoding in encodings})


class _EncodedCache:
    """Keeps real inputs, by their pre-processing, whatever encodings a call wants them in."""

    def __init__(self, inputs: InputCache, preprocessing: Preprocessing, encodings: set[TensorSpec]) -> None:
        self._inputs = inputs
        self._preprocessing = preprocessing
        self._encodings = encodings

    def get(self, position: int) -> _Prepared | None:
        kept = self._inputs.get((self._preprocessing, position))
        if kept is None:
            return None
        real, placement = kept
        return _Prepared.of(real, placement, self._encodings)

    def put(self, position: int, prepared: _Prepared) -> None:
        kept = (prepared.real, prepared.placement)
        self._inputs.put((self._preprocessing, position), kept, prepared.real.nbytes)


class _Run:
    """Infers in the calling thread and decodes in the pool."""

    def __init__(self, job: Job, session: Session, pool: ThreadPoolExecutor) -> None:
        self._job = job
        self._session = session
        self._pool = pool
        self._pending: deque[tuple[int, float, Future[Any]]] = deque()
        job.environment = session.environment()

    def submit(self, number: int, prepared: _Prepared) -> None:
        inputs = {self._job.input.name: prepared.arrays[self._job.encoding]}
        started = time.perf_counter()
        outputs = self._session.run(inputs)
        inference_s = time.perf_counter() - started
        decoding = self._pool.submit(_decode, self._job, outputs, prepared.placement)
        self._pending.append((number, inference_s, decoding))
        if len(self._pending) > _AHEAD:
            self._collect()

    def finish(self) -> None:
        while self._pending:
            self._collect()

    def _collect(self) -> None:
        number, inference_s, decoding = self._pending.popleft()
        self._job.add(number, decoding.result(), inference_s)


def _decode(job: Job, outputs: dict[str, np.ndarray], placement: Placement) -> Any:
    name = job.postprocessing.decoder
    copies = job.copies
    real = {spec.name: _of_one(spec.decode(outputs[spec.name]), copies) for spec in job.artifact.outputs}
    try:
        return job.decoder.decode(real, job.postprocessing, placement)
    except ModelError as error:
        raise ModelError(f"{job.artifact.name}: {error}") from error
    except EdgeqError:
        raise
    except Exception as error:
        raise ModelError(f"{job.artifact.name}: decoder {name} failed on its outputs ({error!r})") from error


def _of_one(output: np.ndarray, copies: int) -> np.ndarray:
    """Returns the part of an output that belongs to one image of a fixed batch, which holds copies of it."""
    rows = len(output) if output.ndim else 1
    return output[: rows // copies] if copies > 1 and rows % copies == 0 else output
