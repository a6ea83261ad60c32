"""Runs images through a float model and gathers statistics of its tensors, for `edgeq calibrate` and others."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import edgeq
from edgeq.calibration.kept_parts import Pace, merged
from edgeq.calibration.non_finite import origin_of
from edgeq.calibration.sample_keeper import KeptInput, SampleKeeper
from edgeq.calibration.statistics import NonFiniteError, Request, Statistic, statistic_class
from edgeq.calibration.statistics.histogram import HistogramStatistic
from edgeq.calibrators import Histogram
from edgeq.calibrators.ranges import Provenance, Ranges
from edgeq.errors import EdgeqError, InputError, MismatchError, ModelError
from edgeq.exporting.artifact import Preprocessing
from edgeq.exporting.graphs.data_flow import image_values, is_float
from edgeq.exporting.graphs.linear import linear_of
from edgeq.exporting.graphs.masks import infinite_values
from edgeq.exporting.graphs.transformer import find_transformer
from edgeq.exporting.onnx.writer import FloatModel
from edgeq.exporting.planning.fp16_audit import audited_tensors, thinned
from edgeq.exporting.planning.keep import VitPlan
from edgeq.exporting.planning.selection import activation_behind, observed_tensors, select_layers
from edgeq.exporting.tflite.plan import observed_tensors as observed_in_tflite
from edgeq.exporting.tflite.writer import TfliteModel
from edgeq.inputs import Item, Items, OnUnreadable, model_input, prepared_samples
from edgeq.notes import log_of
from edgeq.progress import progress_bar
from edgeq.resume import JobLog
from edgeq.sources.formats import get_format
from edgeq.targets import TARGETS, Target, get_target
from edgeq.wording import counted

_AHEAD = 2
_log = log_of(__name__)


def calibrated_tensors(model: FloatModel, further: Sequence[Target] = ()) -> list[str]:
    """Returns the tensors that a target of edgeq, or of `further`, quantizes, and those that are audited for FP16."""
    return list(dict.fromkeys([*_quantized_tensors(model, further), *audited_tensors(model.graph)]))


def _quantized_tensors(model: FloatModel, further: Sequence[Target] = ()) -> list[str]:
    """Returns the tensors that some target of edgeq quantizes: one calibration serves them all.

    What TFLite files need is among them: the outputs, for files whose outputs are integers, what depthwise
    convolutions read and write, and what linear layers write.

    Args:
        model: The float model.
        further: Targets that are asked for by name. Those that are merely installed do not count, so that the same
            calibration writes the same bytes on every machine.
    """
    targets = [*(get_target(name) for name in TARGETS), *further]
    rules = [target.rules for target in targets]
    rules += [each.rules.requested("DepthwiseConv") for each in targets if "tflite" in each.formats]
    plans: tuple[VitPlan, ...] = ("balanced", "fast") if find_transformer(model.graph).blocks else ("balanced",)
    chosen = [select_layers(model.graph, each, vit_plan=plan) for each in rules for plan in plans]
    observed = observed_tensors(model.graph, chosen)
    from_image = image_values(model.graph)
    outputs = [str(value.name) for value in model.graph.graph.outputs if value in from_image and is_float(value)]
    if any(each.rewrite_conv_transpose for each in rules):
        # Before a function a ConvTranspose stays in float, and is a Conv before a DepthToSpace once rewritten.
        transposed = (node for node in model.graph.graph if node.op_type == "ConvTranspose")
        outputs += [str(activation_behind(node).name) for node in transposed]
    if any("tflite" in each.formats for each in targets):
        # Engines of ONNX files give floats out of a linear layer, TFLite's static FULLY_CONNECTED does not.
        layers = (linear_of(node) for node in model.graph.graph)
        outputs += [str(activation_behind(layer.add or layer.node).name) for layer in layers if layer is not None]
    return list(dict.fromkeys([*observed, *outputs]))


class ObservedModel(Protocol):
    """A float model in an engine that hands out its activations.

    Attributes:
        digest: Digest of the model.
        preprocessing: What makes its input of an image.
        names: Tensors that are counted.
    """

    digest: str
    preprocessing: Preprocessing
    names: list[str]

    def observe(self, image: np.ndarray) -> Mapping[str, np.ndarray]:
        """Returns tensor name -> activations for an input `(1, 3, H, W)`."""

    def origin(self, tensor: str, image: np.ndarray) -> str:
        """Returns in words where the NaN or infinite values of a tensor come from."""


class ObservedOnnxModel:
    """A float ONNX graph in ONNX Runtime; it hands out further tensors that are not counted."""

    def __init__(
        self,
        model: FloatModel,
        tensors: Sequence[str] | None,
        threads: int | None,
        further: Sequence[str] = (),
        targets: Sequence[Target] = (),
    ) -> None:
        self.digest, self.preprocessing = model.digest, model.preprocessing
        self._model, self._threads = model, threads
        counted = list(tensors) if tensors is not None else _quantized_tensors(model, targets)
        audited = audited_tensors(model.graph) if tensors is None else []
        self.names = list(dict.fromkeys([*counted, *audited]))
        self._thinned = frozenset(audited).difference(counted, further)
        self._masked = {str(value.name) for value in infinite_values(model.graph)}.intersection(self.names)
        observed = list(dict.fromkeys([*self.names, *further]))
        self._observe = get_format(model.format).function("observe")(model, observed, threads)

    def observe(self, image: np.ndarray) -> Mapping[str, np.ndarray]:
        """Returns tensor name -> activations for an input `(1, 3, H, W)`."""
        arrays: dict[str, np.ndarray] = self._observe(image)
        # What a mask of minus infinity hides is no value of the tensor.
        arrays |= {name: arrays[name][arrays[name] != -np.inf] for name in self._masked}
        return arrays | {name: thinned(arrays[name]) for name in self._thinned}

    def origin(self, tensor: str, image: np.ndarray) -> str:
        """Returns the first tensor and its node on the way to a tensor that hold NaN or infinite values."""
        return origin_of(self._model, tensor, image, self._threads)


class ObservedTfliteModel:
    """A float TFLite file in LiteRT."""

    def __init__(self, model: TfliteModel, tensors: Sequence[str] | None, threads: int | None) -> None:
        self.digest, self.preprocessing = model.digest, model.preprocessing
        self.names = list(tensors) if tensors is not None else observed_in_tflite(model.graph)
        self._observe = get_format(model.format).function("observe")(model, self.names, threads)

    def observe(self, image: np.ndarray) -> Mapping[str, np.ndarray]:
        """Returns tensor name -> activations for an input `(1, 3, H, W)`."""
        arrays: dict[str, np.ndarray] = self._observe(image)
        return arrays

    def origin(self, tensor: str, image: np.ndarray) -> str:
        """Returns the tensor."""
        return f"tensor {tensor!r}"


def observed_model(
    model: FloatModel | TfliteModel,
    tensors: Sequence[str] | None,
    threads: int | None,
    targets: Sequence[Target] = (),
    further: Sequence[str] = (),
) -> ObservedModel:
    """Returns a float model in the engine of its format.

    Args:
        model: The model.
        tensors: Names of the tensors to observe; by default all that some target of edgeq or precision quantizes.
        threads: CPU threads of the engine.
        targets: Further targets, whose tensors are observed too.
        further: Tensors of a graph that are handed out and not counted.

    Raises:
        InputError: the model has no such tensor.
        EngineError: the engine cannot run it.
    """
    if isinstance(model, FloatModel):
        return ObservedOnnxModel(model, tensors, threads, further, targets)
    return ObservedTfliteModel(model, tensors, threads)


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
