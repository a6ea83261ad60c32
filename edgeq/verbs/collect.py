"""Runs images through a float model and counts what its tensors hold, for `edgeq calibrate`."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np

import edgeq
from edgeq.boundary import read_json
from edgeq.calibrators import Histogram, HistogramBuilder
from edgeq.calibrators.ranges import Provenance, Ranges
from edgeq.errors import EdgeqError, InputError, MismatchError, ModelError
from edgeq.export.artifact import Preprocessing
from edgeq.export.fp16_audit import audited_tensors, thinned
from edgeq.export.linear import linear_of
from edgeq.export.onnx_writer import FloatModel
from edgeq.export.tflite.plan import observed_tensors as observed_in_tflite
from edgeq.export.tflite.writer import TfliteModel
from edgeq.export.topology import VitPlan, activation_behind, choose, observed_tensors
from edgeq.export.transformer import find_transformer
from edgeq.files import sha256_file, write_json
from edgeq.images import UnreadableImages, read_image, work_ahead
from edgeq.preprocessing import preprocess
from edgeq.progress import progress_bar
from edgeq.registry import registered
from edgeq.runtimes.litert_observer import TfliteObserver
from edgeq.runtimes.observer import ActivationObserver
from edgeq.targets import TARGETS, get_target

_AHEAD = 2

_log = logging.getLogger(__name__)


def calibrated_tensors(model: FloatModel) -> list[str]:
    """Returns the tensors that some registered target quantizes, and those that are audited for FP16."""
    return list(dict.fromkeys([*_quantized_tensors(model), *audited_tensors(model.graph)]))


def _quantized_tensors(model: FloatModel) -> list[str]:
    """Returns the tensors that some registered target quantizes: one calibration serves them all.

    What TFLite files need is among them: the outputs, for files whose outputs are integers, what depthwise
    convolutions read and write, and what linear layers write.
    """
    targets = [get_target(name) for name in registered("target", TARGETS)]
    rules = [target.rules for target in targets]
    rules += [dataclasses.replace(each.rules, int8_depthwise=True) for each in targets if "tflite" in each.formats]
    plans: tuple[VitPlan, ...] = ("balanced", "fast") if find_transformer(model.graph).blocks else ("balanced",)
    chosen = [choose(model.graph, each, vit_plan=plan) for each in rules for plan in plans]
    observed = observed_tensors(model.graph, chosen)
    outputs = [str(value.name) for value in model.graph.graph.outputs]
    if any("tflite" in each.formats for each in targets):
        # Engines of ONNX files give floats out of a linear layer, TFLite's static FULLY_CONNECTED does not.
        layers = (linear_of(node) for node in model.graph.graph)
        outputs += [str(activation_behind(layer.add or layer.node).name) for layer in layers if layer is not None]
    return list(dict.fromkeys([*observed, *outputs]))


class _Part(msgspec.Struct):
    """What an interrupted calibration has kept."""

    format: str
    tool_version: str
    model_digest: str
    preprocessing_digest: str
    tensors: list[str]
    images: list[str]
    histograms: dict[str, Any]


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


class ObservedOnnxModel:
    """A float ONNX graph in ONNX Runtime; it hands out further tensors that are not counted."""

    def __init__(
        self, model: FloatModel, tensors: Sequence[str] | None, threads: int | None, further: Sequence[str] = ()
    ) -> None:
        self.digest, self.preprocessing = model.digest, model.preprocessing
        counted = list(tensors) if tensors is not None else _quantized_tensors(model)
        audited = audited_tensors(model.graph) if tensors is None else []
        self.names = list(dict.fromkeys([*counted, *audited]))
        self._thinned = frozenset(audited).difference(counted, further)
        self._input = str(model.graph.graph.inputs[0].name)
        observed = list(dict.fromkeys([*self.names, *further]))
        self._observer = ActivationObserver(model.graph, observed, threads)

    def observe(self, image: np.ndarray) -> Mapping[str, np.ndarray]:
        """Returns tensor name -> activations for an input `(1, 3, H, W)`."""
        arrays = self._observer.observe({self._input: image})
        return arrays | {name: thinned(arrays[name]) for name in self._thinned}


class ObservedTfliteModel:
    """A float TFLite file in LiteRT."""

    def __init__(self, model: TfliteModel, tensors: Sequence[str] | None, threads: int | None) -> None:
        self.digest, self.preprocessing = model.digest, model.preprocessing
        self.names = list(tensors) if tensors is not None else observed_in_tflite(model.graph)
        self._input = model.input
        self._observer = TfliteObserver(model.content, self.names, threads)

    def observe(self, image: np.ndarray) -> Mapping[str, np.ndarray]:
        """Returns tensor name -> activations for an input `(1, 3, H, W)`."""
        return self._observer.observe(self._input.encode(image))


def observed_model(
    model: FloatModel | TfliteModel, tensors: Sequence[str] | None, threads: int | None
) -> ObservedModel:
    """Returns a float model in the engine of its format.

    Args:
        model: The model.
        tensors: Names of the tensors to observe; by default all that some target or precision quantizes.
        threads: CPU threads of the engine.

    Raises:
        InputError: the model has no such tensor.
        EngineError: the engine cannot run it.
    """
    if isinstance(model, FloatModel):
        return ObservedOnnxModel(model, tensors, threads)
    return ObservedTfliteModel(model, tensors, threads)


@dataclass(frozen=True)
class _Prepared:
    """An image on its way into the engine.

    Attributes:
        digest: SHA-256 of the file.
        array: The model's input; `None` where the image has been counted already.
    """

    digest: str
    array: np.ndarray | None


class Collector:
    """Runs images through the float graph and counts what comes out.

    Args:
        model: The float model.
        out: The ranges file, beside which an interrupted run keeps what was counted.
        then: What else to do with the activations of an image.

    Attributes:
        names: Tensors that are counted.
        done: Digests of the images that were counted, by an earlier run too.
        resumed: How many of them an earlier run has counted.
    """

    def __init__(
        self, model: ObservedModel, out: Path | None, then: Callable[[Mapping[str, np.ndarray]], None] | None = None
    ) -> None:
        self._model = model
        self._then = then
        self.names = model.names
        self._partial = None if out is None else out.with_name(out.name + ".partial")
        self._builders = {name: HistogramBuilder() for name in self.names}
        self._earlier: dict[str, Histogram] = {}
        # An image is counted as a whole or not at all, also in what an interrupted run keeps.
        self._counting = threading.Lock()
        self._torn = False
        self.done: list[str] = []
        self.resumed = 0

    def run(self, images: Sequence[Path], unreadable: UnreadableImages, label: str = "calibrate") -> None:
        """Counts images; copies of one, and those that an earlier run has counted, are counted once.

        One image is in flight: while the engine computes it, the previous one is counted and the next one is decoded.

        Args:
            images: Image files.
            unreadable: Where images that cannot be read are named.
            label: What the progress bar calls it.

        Raises:
            InputError: too many images cannot be read.
            ModelError: an activation is NaN or infinite.
        """
        earlier = frozenset(self.done)
        seen = set(earlier)
        counting: Future[None] | None = None
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as counter:
            with progress_bar(len(images), label) as advance:
                spec = self._model.preprocessing
                prepared = work_ahead(reader, images, lambda path: _prepare(path, spec, earlier), _AHEAD)
                for path, image in zip(images, prepared, strict=True):
                    advance(1)
                    if isinstance(image, InputError):
                        _log.warning("skipped: %s", image)
                        unreadable.add(path, image)
                    elif image.array is not None and image.digest not in seen:
                        seen.add(image.digest)
                        arrays = self._model.observe(image.array)
                        if counting is not None:
                            counting.result()
                        counting = counter.submit(self._count, path, image.digest, arrays)
            if counting is not None:
                counting.result()

    def _count(self, path: Path, digest: str, arrays: Mapping[str, np.ndarray]) -> None:
        with self._counting:
            self._torn = True
            for name, builder in self._builders.items():
                builder.update(arrays[name])
                if builder.non_finite:
                    raise ModelError(
                        f"tensor {name!r} holds {builder.non_finite} NaN or infinite values for {path}; the model or "
                        "its pre-processing is broken, check it in FP32 first"
                    )
            if self._then is not None:
                self._then(arrays)
            self.done.append(digest)
            self._torn = False

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

    def save_partial(self) -> None:
        """Keeps what was counted so far."""
        with self._counting:
            if self._partial is None or self._torn or len(self.done) == self.resumed:
                return
            histograms = {name: histogram.to_json() for name, histogram in self.histograms().items()}
            kept = count_of_images(len(self.done))
            try:
                write_json(self._partial, {**self._identity(), "images": self.done, "histograms": histograms})
            except InputError as error:
                _log.warning("the ranges of %s could not be kept: %s", kept, error)
            else:
                _log.warning("%s counted so far: kept in %s, the same command goes on from there", kept, self._partial)

    def histograms(self) -> dict[str, Histogram]:
        """Returns what was counted, here and in an earlier, interrupted run."""
        counted = {name: builder.histogram() for name, builder in self._builders.items()}
        return {name: self._earlier.get(name, Histogram()) + histogram for name, histogram in counted.items()}

    def _identity(self) -> dict[str, Any]:
        return {
            "format": "edgeq-calibration-part",
            "tool_version": edgeq.__version__,
            "model_digest": self._model.digest,
            "preprocessing_digest": self._model.preprocessing.digest,
            "tensors": self.names,
        }

    def forget_partial(self) -> None:
        """Removes what an interrupted run has kept."""
        if self._partial is not None:
            self._partial.unlink(missing_ok=True)

    def resume(self, images: Sequence[Path]) -> None:
        """Takes over what an interrupted run has counted, if this run would count the same."""
        if self._partial is None or not self._partial.is_file():
            return
        try:
            part = read_json(self._partial, _Part, kind="the kept part of a calibration")
            if {key: getattr(part, key) for key in self._identity()} != self._identity():
                raise MismatchError(f"{self._partial} belongs to another model, pre-processing or version of edgeq")
            done = part.images
            if not set(done) <= set(dict(image_digests(images)).values()):
                raise MismatchError(f"{self._partial} has counted images that this run does not take")
            self._earlier = {name: Histogram.from_json(part.histograms.get(name)) for name in self.names}
            self.done, self.resumed = done, len(done)
        except EdgeqError as error:
            _log.warning("starting anew, what an earlier run has kept cannot be used: %s", error)


def image_digests(images: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Yields images with their SHA-256; those that cannot be read are left out."""
    for path in images:
        with contextlib.suppress(OSError):  # to be named when its turn comes
            yield path, sha256_file(path)


def count_of_images(number: int) -> str:
    """Returns a number of images in words for a message."""
    return "1 image" if number == 1 else f"{number} images"


def _prepare(path: Path, spec: Preprocessing, counted: frozenset[str]) -> _Prepared | InputError:
    try:
        digest = sha256_file(path)
        array = None if digest in counted else preprocess(read_image(path), spec)[0]
    except OSError as error:
        return InputError(f"{path}: cannot be read ({error.strerror})")
    except InputError as error:
        return error
    return _Prepared(digest, array)
