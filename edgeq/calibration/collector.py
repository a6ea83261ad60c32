"""Runs images through a float model and gathers statistics of its tensors, for `edgeq calibrate` and others.

`edgeq.calibration.observed_model` hands out the tensors of an image.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import edgeq
from edgeq.calibration.kept_parts import Pace, merged
from edgeq.calibration.observed_model import ObservedModel
from edgeq.calibration.sample_keeper import KeptInput, SampleKeeper
from edgeq.calibration.statistics import NonFiniteError, Request, Statistic, statistic_class
from edgeq.calibration.statistics.histogram import HistogramStatistic
from edgeq.calibrators import Histogram
from edgeq.calibrators.ranges import Provenance, Ranges
from edgeq.errors import EdgeqError, InputError, MismatchError, ModelError
from edgeq.inputs import Item, Items, OnUnreadable, model_input, prepared_samples
from edgeq.notes import log_of
from edgeq.progress import progress_bar
from edgeq.resume import JobLog
from edgeq.wording import counted

_AHEAD = 2
_log = log_of(__name__)


class Collector:
    """Runs images through the float graph and gathers statistics of its tensors, all of them in one pass.

    Args:
        model: The float model.
        out: The file that the results are for, beside which an interrupted run keeps what was gathered.
        requests: The statistics to gather; by default the histograms of `model.names`.
        then: What else to do with the activations of an image.
        keeper: Where inputs are kept that belong to the ranges; by default none are.

    Attributes:
        done: Digests of the images that were counted, by an earlier run too.
        resumed: How many of them an earlier run has counted.
    """

    def __init__(
        self,
        model: ObservedModel,
        out: Path | None,
        requests: Sequence[Request] | None = None,
        then: Callable[[Mapping[str, np.ndarray]], None] | None = None,
        keeper: SampleKeeper | None = None,
    ) -> None:
        self._model = model
        self._then = then
        self._keeper = keeper or SampleKeeper(0)
        wanted = [Request(name, "histogram") for name in model.names] if requests is None else requests
        self._gathered = {request: request.start() for request in wanted}
        self._earlier: dict[Request, Statistic] = {}
        self._log = None if out is None else JobLog(out.with_name(out.name + ".partial"), self._job())
        # An image is counted as a whole or not at all, also in what an interrupted run keeps.
        self._counting = threading.Lock()
        self._torn = False
        self._kept = 0  # images of `done` that are in the log
        self._pace = Pace()
        self.done: list[str] = []
        self.resumed = 0

    def run(self, items: Items, on_unreadable: OnUnreadable, label: str = "calibrate") -> None:
        """Counts images; copies of one, and those that an earlier run has counted, are counted once.

        One image is in flight: while the engine computes it, the previous one is counted and the next one is decoded.

        Args:
            items: Images, or inputs that are ready.
            on_unreadable: Told of images that cannot be read.
            label: What the progress bar calls it.

        Raises:
            InputError: too many images cannot be read, or an input does not fit the model.
            ModelError: an activation is NaN or infinite.
        """
        earlier = frozenset(self.done)
        seen = set(earlier)
        counting: Future[None] | None = None
        spec = self._model.preprocessing

        def prepare(_position: int, item: Item, content: np.ndarray) -> np.ndarray:
            return model_input(content, spec, item.name)[0]

        total = len(items) if isinstance(items, Sized) else None
        with (
            ThreadPoolExecutor(1) as reader,
            ThreadPoolExecutor(1) as counter,
            progress_bar(total, label) as advance,
        ):
            for sample in prepared_samples(
                items,
                prepare,
                pool=reader,
                ahead=_AHEAD,
                advance=advance,
                on_unreadable=on_unreadable,
                known=earlier,
            ):
                if sample.digest in seen:
                    continue
                seen.add(sample.digest)
                arrays = self._model.observe(sample.prepared)
                self._keeper.offer(sample.digest, sample.prepared, arrays)
                if counting is not None:
                    counting.result()
                counting = counter.submit(self._count, sample.name, sample.digest, arrays, sample.prepared)
            if counting is not None:
                counting.result()

    def _count(self, name: str, digest: str, arrays: Mapping[str, np.ndarray], image: np.ndarray) -> None:
        with self._counting:
            self._torn = True
            for request, statistic in self._gathered.items():
                try:
                    statistic.update(arrays[request.tensor])
                except NonFiniteError as error:
                    raise ModelError(
                        f"{self._model.origin(request.tensor, image)} holds {error} for {name}; the model or its "
                        "pre-processing is broken, check it in FP32 first"
                    ) from error
            if self._then is not None:
                self._then(arrays)
            self.done.append(digest)
            self._torn = False
            if self._log is not None and self._pace.is_due():
                self._keep(self._log)

    def ranges(self, method: str, options: Mapping[str, float]) -> Ranges:
        """Returns what a method finds in the counts."""
        return Ranges.from_histograms(self.histograms(), self.provenance(), method, **options)

    def provenance(self, further: Sequence[str] = ()) -> Provenance:
        """Returns where the counts come from, with the digests of further images."""
        if not self.done:
            raise InputError("no image could be used for calibration; give at least one readable image")
        return Provenance.of(
            model_digest=self._model.digest,
            preprocessing_digest=self._model.preprocessing.digest,
            image_digests=[*self.done, *further],
            tool_version=edgeq.__version__,
        )

    def statistics(self) -> dict[Request, Statistic]:
        """Returns what was gathered, here and in earlier, interrupted runs."""
        return merged(self._earlier, self._gathered) if self._earlier else dict(self._gathered)

    def histograms(self) -> dict[str, Histogram]:
        """Returns tensor -> its histogram, for the tensors whose histograms were requested."""
        return {
            request.tensor: statistic.histogram
            for request, statistic in self.statistics().items()
            if isinstance(statistic, HistogramStatistic)
        }

    def keep(self) -> None:
        """Keeps what this run has counted, without a word."""
        with self._counting:
            if self._log is not None and len(self.done) > self._kept:
                self._keep(self._log)

    def save_partial(self, but: str = "") -> None:
        """Keeps what this run has counted, and says so, with what the next run has to do again."""
        with self._counting:
            if self._log is None or self._torn or len(self.done) == self.resumed:
                return
            if len(self.done) == self._kept or self._keep(self._log):
                kept = counted(len(self.done), "image")
                _log.warning("%s counted so far: kept in %s; rerun the command to resume%s", kept, self._log.path, but)

    def _keep(self, log: JobLog) -> bool:
        """Appends what was gathered since the last time; returns whether that went well."""
        images = self.done[self._kept :]
        gathered = [statistic.to_json() for statistic in self._gathered.values()]
        try:
            if not self._kept:
                log.remove()  # nothing in it can be used
            log.add({"images": images, "statistics": gathered, "samples": self._keeper.to_json(frozenset(images))})
        except InputError as error:
            _log.warning("the ranges of %s could not be kept: %s", counted(len(self.done), "image"), error)
            return False
        self._earlier = self.statistics()
        self._gathered = {request: request.start() for request in self._gathered}
        self._kept = len(self.done)
        return True

    def _job(self) -> dict[str, Any]:
        return {
            "format": "edgeq-calibration-part",
            "tool_version": edgeq.__version__,
            "model_digest": self._model.digest,
            "preprocessing_digest": self._model.preprocessing.digest,
            "requests": [dataclasses.astuple(request) for request in self._gathered],
            "keep_samples": self._keeper.num,
        }

    def forget_partial(self) -> None:
        """Removes what an interrupted run has kept."""
        if self._log is not None:
            self._log.remove()

    def resume(self, items: Sequence[Item]) -> None:
        """Takes over what interrupted runs have counted, if this run would count the same."""
        if self._log is None or not self._log.path.is_file():
            return
        try:
            done, parts, kept = self._read_parts(self._log, items)
        except (EdgeqError, KeyError, TypeError, ValueError, AttributeError) as error:
            _log.warning("starting again: what an earlier run kept cannot be used: %s", error)
        else:
            self._earlier = merged(*parts)
            self.done, self.resumed, self._kept = done, len(done), len(done)
            self._keeper.merge(kept)

    def _read_parts(
        self, log: JobLog, items: Sequence[Item]
    ) -> tuple[list[str], list[dict[Request, Statistic]], dict[str, KeptInput]]:
        try:
            found = log.parts()
        except MismatchError:
            raise MismatchError(
                f"{log.path} belongs to another model, other statistics, another pre-processing or version of edgeq"
            ) from None
        if not found:
            raise InputError(f"{log.path} is damaged")
        done: list[str] = []
        parts: list[dict[Request, Statistic]] = []
        kept: dict[str, KeptInput] = {}
        for part in found:
            images = [str(digest) for digest in part["images"]]
            if set(images) & set(done):
                raise InputError(f"{log.path} was written by two runs at the same time")
            done += images
            kept |= {digest: KeptInput.from_json(each) for digest, each in part["samples"].items()}
            documents = zip(self._gathered, part["statistics"], strict=True)
            parts.append(
                {request: statistic_class(request.statistic).from_json(document) for request, document in documents}
            )
        if not set(done) <= {digest for digest, _ in digests_of(items)}:
            raise MismatchError(f"{log.path} has counted images that this run does not take")
        return done, parts, kept


def digests_of(items: Iterable[Item]) -> Iterator[tuple[str, Item]]:
    """Yields the SHA-256 of each item with the item; those that cannot be read are left out."""
    for item in items:
        with contextlib.suppress(InputError):  # to be named when its turn comes
            yield item.digest(), item
