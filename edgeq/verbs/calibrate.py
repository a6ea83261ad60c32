"""`edgeq calibrate`: one pass over representative images, for every target and every method."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import edgeq
from edgeq.calibrators import Histogram, HistogramBuilder
from edgeq.calibrators.ranges import Provenance, Ranges
from edgeq.errors import EdgeqError, InputError, MismatchError, ModelError
from edgeq.export.onnx_writer import FloatModel
from edgeq.export.topology import choose, observed_tensors
from edgeq.files import read_json, write_json
from edgeq.images import UnreadableImages, read_image
from edgeq.preprocessing import preprocess
from edgeq.progress import progress_bar
from edgeq.runtimes.observer import ActivationObserver
from edgeq.targets import TARGETS, get_target

DEFAULT_METHOD = "lp"
"""Least loss on the detectors of the benchmarks; see benchmarks/methods.md."""

SENSIBLE_IMAGES = 32
"""Below this many images the tails of the ranges are luck; published practice is 100 to 500."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Calibration:
    """Ranges and what it took to collect them.

    Attributes:
        ranges: The result.
        images: Images that were counted.
        resumed: How many of them an earlier, interrupted run had counted.
        skipped: Unreadable images and what is wrong with them.
    """

    ranges: Ranges
    images: int
    resumed: int
    skipped: dict[Path, str] = field(default_factory=dict)


def calibrate(
    model: FloatModel,
    images: Sequence[Path],
    out: Path | None = None,
    *,
    method: str = DEFAULT_METHOD,
    options: dict[str, float] | None = None,
    num: int = 512,
    threads: int | None = None,
) -> Calibration:
    """Returns the ranges of a model over images, and writes them to `out`.

    One image is in flight: while the engine computes it, the previous one is counted and the next one is decoded. An
    interrupted run leaves `<out>.partial` behind and the next run with the same model and pre-processing goes on from
    there. The result does not depend on the order of the images, nor on where a run was interrupted.

    Args:
        model: The float model.
        images: Image files; `num` of them are taken, evenly spaced. Copies of one image are counted once.
        out: Where to write the ranges.
        method: A name of `edgeq.calibrators.METHODS`; it can be changed later without the images.
        options: Options of the method.
        num: The most images to take.
        threads: CPU threads of the engine.

    Raises:
        InputError: there are no images, or more than 5 % of them cannot be read.
        ModelError: an activation is NaN or infinite.
    """
    chosen = evenly_spaced(images, num)
    if len(chosen) < SENSIBLE_IMAGES:
        _log.warning(
            "only %d calibration images; the ranges will depend on which, take at least %d",
            len(chosen),
            SENSIBLE_IMAGES,
        )
    collector = _Collector(model, out, threads)
    unreadable = UnreadableImages(len(chosen))
    try:
        collector.run(chosen, unreadable)
    except BaseException:
        collector.save_partial()
        raise
    ranges = collector.ranges(method, options or {})
    if out is not None:
        ranges.save(out)
        collector.forget_partial()
    return Calibration(ranges, len(collector.done), collector.resumed, unreadable.errors)


def evenly_spaced(images: Sequence[Path], num: int) -> list[Path]:
    """Returns at most `num` of the images, spread over the whole list, in its order."""
    if num < 1:
        raise InputError(f"--num {num}: wanted at least 1")
    if len(images) <= num:
        return list(images)
    return [images[index * len(images) // num] for index in range(num)]


def calibrated_tensors(model: FloatModel) -> list[str]:
    """Returns the tensors that some registered target quantizes: one calibration serves them all."""
    rules = [get_target(name).rules for name in TARGETS]
    return observed_tensors(model.graph, [choose(model.graph, each) for each in rules])


@dataclass(frozen=True)
class _Prepared:
    """An image on its way into the engine: its file's SHA-256 and the input array, or why it cannot be read."""

    path: Path
    digest: str = ""
    array: np.ndarray | None = None
    error: InputError | None = None


class _Collector:
    """Runs images through the float graph and counts what comes out."""

    def __init__(self, model: FloatModel, out: Path | None, threads: int | None) -> None:
        self._model = model
        self._names = calibrated_tensors(model)
        self._observer = ActivationObserver(model.graph, self._names, threads)
        self._input = str(model.graph.graph.inputs[0].name)
        self._partial = None if out is None else out.with_name(out.name + ".partial")
        self._builders = {name: HistogramBuilder() for name in self._names}
        self._earlier: dict[str, Histogram] = {}
        self.done: list[str] = []
        self.resumed = 0
        self._resume()

    def run(self, images: Sequence[Path], unreadable: UnreadableImages) -> None:
        seen = set(self.done)
        counting: Future[None] | None = None
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as counter:
            with progress_bar(len(images), "calibrate", done=0) as advance:
                for prepared in _ahead(reader, images, lambda path: _prepare(path, self._model)):
                    advance(1)
                    if prepared.error is not None or prepared.array is None:
                        _log.warning("skipped: %s", prepared.error)
                        unreadable.add(prepared.path, prepared.error or InputError(f"{prepared.path}: unreadable"))
                        continue
                    if prepared.digest in seen:
                        continue
                    seen.add(prepared.digest)
                    arrays = self._observer.observe({self._input: prepared.array})
                    if counting is not None:
                        counting.result()
                    counting = counter.submit(self._count, prepared.digest, arrays)
            if counting is not None:
                counting.result()

    def _count(self, digest: str, arrays: dict[str, np.ndarray]) -> None:
        for name, array in arrays.items():
            self._builders[name].update(array)
        self.done.append(digest)

    def ranges(self, method: str, options: dict[str, float]) -> Ranges:
        if not self.done:
            raise InputError("no image could be used for calibration; give at least one readable image")
        provenance = Provenance.of(
            model_digest=self._model.digest,
            preprocessing_digest=self._model.preprocessing.digest,
            image_digests=self.done,
            tool_version=edgeq.__version__,
        )
        histograms = self._histograms()
        for name, histogram in histograms.items():
            if histogram.non_finite:
                raise ModelError(
                    f"tensor {name!r} held {histogram.non_finite} NaN or infinite values; the model or its "
                    "pre-processing is broken, check it in FP32 first"
                )
        return Ranges.from_histograms(histograms, provenance, method, **options)

    def save_partial(self) -> None:
        """Keeps what was counted so far."""
        if self._partial is None or len(self.done) == self.resumed:
            return
        histograms = {name: histogram.to_json() for name, histogram in self._histograms().items()}
        write_json(self._partial, {**self._identity(), "images": self.done, "histograms": histograms})
        _log.warning("%d images are kept in %s; the same command goes on from there", len(self.done), self._partial)

    def _histograms(self) -> dict[str, Histogram]:
        counted = {name: builder.histogram() for name, builder in self._builders.items()}
        return {name: self._earlier.get(name, Histogram()) + histogram for name, histogram in counted.items()}

    def _identity(self) -> dict[str, Any]:
        return {
            "format": "edgeq-calibration-part",
            "model_digest": self._model.digest,
            "preprocessing_digest": self._model.preprocessing.digest,
            "tensors": self._names,
        }

    def forget_partial(self) -> None:
        if self._partial is not None:
            self._partial.unlink(missing_ok=True)

    def _resume(self) -> None:
        if self._partial is None or not self._partial.is_file():
            return
        try:
            part = read_json(self._partial, kind="the kept part of a calibration")
            if {key: part.get(key) for key in self._identity()} != self._identity():
                raise MismatchError(f"{self._partial} belongs to another model, pre-processing or target")
            self._earlier = {name: Histogram.from_json(part["histograms"][name]) for name in self._names}
            self.done = [str(digest) for digest in part["images"]]
        except (EdgeqError, KeyError, TypeError, AttributeError) as error:
            _log.warning("starting anew, the kept part of an earlier run cannot be used: %s", error)
            self._earlier, self.done = {}, []
        self.resumed = len(self.done)


def _prepare(path: Path, model: FloatModel) -> _Prepared:
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        array, _ = preprocess(read_image(path), model.preprocessing)
    except OSError as error:
        return _Prepared(path, error=InputError(f"{path}: cannot be read ({error.strerror})"))
    except InputError as error:
        return _Prepared(path, error=error)
    return _Prepared(path, digest, array)


def _ahead(
    pool: ThreadPoolExecutor, paths: Sequence[Path], work: Callable[[Path], _Prepared], depth: int = 2
) -> Iterator[_Prepared]:
    """Yields `work(path)` for every path in order, `depth` of them computed ahead."""
    pending: list[Future[_Prepared]] = []
    for path in paths:
        pending.append(pool.submit(work, path))
        if len(pending) > depth:
            yield pending.pop(0).result()
    for future in pending:
        yield future.result()
