"""Compares an exported file with the model that it was made from, on real inputs."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeq.calibration.source import CalibrationSource
from edgeq.errors import EngineError, ModelError
from edgeq.exporting.artifact import Artifact, Preprocessing
from edgeq.exporting.graphs.graph import first_line, read_onnx
from edgeq.exporting.graphs.onnx_file import is_large
from edgeq.exporting.signal.output_groups import ChannelGroup
from edgeq.exporting.signal.ratio import Signal, Sums
from edgeq.exporting.tflite.writer import TfliteModel
from edgeq.inputs import model_input
from edgeq.inputs.preprocessing import Placement, preprocess
from edgeq.runtimes import open_session
from edgeq.runtimes.base import Arrays
from edgeq.runtimes.litert_observer import TfliteObserver
from edgeq.runtimes.observer import ActivationObserver
from edgeq.sources.formats import ONNX, get_format
from edgeq.sources.model import ModelRequest, OpenedModel
from edgeq.tasks.detection.shapes import draw_image

TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2}
"""Largest allowed difference to the model's own outputs, as a share of the largest of them.

Not for files whose every tensor is FP16: values that nobody reads, the logits of background, may be far off.
"""

SIMILAR = {"fp16": 0.995}
"""Cosine similarity to the model's own outputs that allows larger differences of single values: a signal of 20 dB.

YOLOX-nano with weights in FP16 keeps 37 dB of its outputs, and some values of boxes differ by 16 % of the largest.
"""

_UNKNOWN_OPERATOR = re.compile(r"([\w.:]+)\(-?\d+\) is not a registered function/op")
_COMPARED_IMAGES = 2
_LOG_FATAL = 4

Reference = tuple[str, list[list[np.ndarray]]]
"""What was compared with, and its outputs in the model's order, image by image, `(N, C, H, W)` where they are 4-D."""


@dataclass(frozen=True)
class Comparison:
    """How an exported file differs from the model it was made from, on real inputs in ONNX Runtime or LiteRT.

    Attributes:
        reference: What it was compared with.
        max_abs_difference: Largest difference of any output value.
        max_abs_output: Largest magnitude of any output value of the reference.
        cosine: Smallest cosine similarity of an output, or of a group of channels of an output.
        images: How many images were run.
        signal: What the file leaves of the model's signal in exact arithmetic; `None` for a file that computes in FP32.
    """

    reference: str
    max_abs_difference: float
    max_abs_output: float
    cosine: float
    images: int
    signal: Signal | None = None


def real_inputs(
    spec: Preprocessing, calibration: CalibrationSource | None, example: np.ndarray | None = None
) -> tuple[list[np.ndarray], Placement]:
    """Returns inputs `(1, C, H, W)` of a few images, the user's or drawn ones, and where the first lies in its own.

    Args:
        spec: From image to input.
        calibration: Where the user's images are, if anywhere.
        example: An input `(1, C, H, W)` that takes the place of drawn images, which need a declared pre-processing.
    """
    users = calibration.inputs(spec) if calibration is not None else iter(())
    if example is None:
        drawn = (preprocess(draw_image(1, index).pixels, spec) for index in itertools.count())
        users = itertools.chain(users, drawn)
    else:
        users = itertools.chain(users, [model_input(example, spec, "the example")])
    prepared = list(itertools.islice(users, _COMPARED_IMAGES))
    return [array for array, _ in prepared], prepared[0][1]


def reference_outputs(opened: OpenedModel, request: ModelRequest, inputs: list[np.ndarray]) -> Reference:
    """Returns what was compared with, and the outputs of the model as it was given, in graph order, image by image.

    A quantized file whose scales are taken is represented by its float32 graph. So is one that ONNX Runtime refuses:
    it takes no two nodes of one name, for example, and has no convolution of doubles.

    Raises:
        EngineError: ONNX Runtime cannot run that either.
    """
    if opened.module is not None:
        import torch

        with torch.no_grad():
            raw = [opened.module(torch.from_numpy(array)) for array in inputs]
        outputs = [[one.numpy() for one in (each if isinstance(each, (tuple, list)) else [each])] for each in raw]
        return f"torch {torch.__version__}", outputs
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _LOG_FATAL
    (feed,), specs = opened.model.ends
    names, label = [spec.name for spec in specs], Path(request.reference).name
    refusal: Exception | None = None
    feeds = [{**opened.given, feed.name: feed.encode(array)} for array in inputs]

    def real(arrays: Iterable[np.ndarray]) -> list[np.ndarray]:
        return [spec.decode(array) for spec, array in zip(specs, arrays, strict=True)]

    if not request.take_scales:
        try:
            if is_large(Path(request.reference)):
                observer = ActivationObserver(read_onnx(Path(request.reference)), names)
                return label, [real(found[name] for name in names) for found in map(observer.observe, feeds)]
            session = onnxruntime.InferenceSession(request.reference, options, providers=["CPUExecutionProvider"])
            return label, [real(session.run(names, each)) for each in feeds]
        except Exception as error:
            refusal = error
    try:
        observe = get_format(opened.model.format).function("observe")(opened.model, names)
        found = [observe(array) for array in inputs]
    except EngineError as error:
        if unknown := _UNKNOWN_OPERATOR.search(str(refusal)):
            raise EngineError(
                f"{request.reference}: ONNX Runtime does not know its operator {unknown[1]}, and a model that cannot "
                "be run can neither be calibrated nor compared with its files; write it with standard operators, or "
                "put a function for it into the file"
            ) from error
        said = first_line(refusal or error)
        raise EngineError(
            f"{request.reference}: onnxruntime cannot run it, so nothing can be compared: {said}"
        ) from error
    return f"the float32 graph of {label}", [real(arrays[name] for name in names) for arrays in found]


def tflite_outputs(model: TfliteModel, inputs: list[np.ndarray]) -> Reference:
    """Returns the outputs of a float TFLite file, as it is."""
    specs = model.outputs
    observer = TfliteObserver(model.content, [spec.name for spec in specs])
    found = [observer.observe(model.input.encode(array)) for array in inputs]
    return f"{model.name}.tflite", [[spec.decode(arrays[spec.name]) for spec in specs] for arrays in found]


def compare(
    artifact: Artifact,
    inputs: list[np.ndarray],
    reference: Reference,
    groups: Sequence[Sequence[ChannelGroup]],
) -> Comparison:
    """Returns how a file's outputs differ from the model's.

    Args:
        artifact: The file.
        inputs: What both are run on.
        reference: What the model gives.
        groups: The groups of channels of each output.

    Raises:
        ModelError: they differ more than `TOLERANCE` and `SIMILAR` allow, or in shape. What the graph chooses may
            differ in files of lower precision.
    """
    label, expected = reference
    difference, bounded, largest, cosine, judged = 0.0, 0.0, 0.0, 1.0, 1.0
    with contextlib.ExitStack() as stack:
        run = _opened(artifact, stack)
        for array, outputs in zip(inputs, expected, strict=True):
            found = run({artifact.inputs[0].name: artifact.inputs[0].encode(array)})
            for spec, wanted, members in zip(artifact.outputs, outputs, groups, strict=True):
                got = spec.decode(found[spec.name]).astype(np.float64)
                chosen = artifact.precision != "fp32" and any(group.chosen for group in members)
                if got.shape != wanted.shape and chosen:
                    continue  # another number of detections
                if got.shape != wanted.shape:
                    raise ModelError(
                        f"{artifact.name}: output {spec.name!r} has the shape {got.shape}, that of {label} "
                        f"{wanted.shape}; an output's shape must not depend on the image"
                    )
                found_difference = float(np.abs(got - wanted).max(initial=0))
                difference = max(difference, found_difference)
                largest = max(largest, float(np.abs(wanted).max(initial=0)))
                similar = min(Sums.of(group.of(wanted), group.of(got)).cosine for group in members)
                cosine = min(cosine, similar)
                if not chosen:
                    # What is no number in one of both alone differs by more than any bound.
                    differs = np.isnan(got) != np.isnan(wanted)
                    bounded = max(bounded, np.inf if differs.any() else found_difference)
                    judged = min(judged, similar)
    in_graph = artifact.quantization.get("fp16") == "in the graph"
    tolerance = None if in_graph else TOLERANCE.get(artifact.precision)
    is_similar = judged >= SIMILAR.get(artifact.precision, np.inf)
    if tolerance is not None and bounded > tolerance * max(1.0, largest) and not is_similar:
        raise ModelError(
            f"{artifact.name}: differs from {label} by {bounded:.3g} where outputs reach {largest:.3g}, more than "
            f"{tolerance:g} of them; the file was removed, please report the model"
        )
    return Comparison(label, difference, largest, cosine, len(inputs))


def _opened(artifact: Artifact, stack: contextlib.ExitStack) -> Callable[[Mapping[str, np.ndarray]], Arrays]:
    """Returns what runs a file; a large one without a copy of its weights."""
    if artifact.format == ONNX.name and is_large(artifact.path):
        names = [spec.name for spec in artifact.outputs]
        return ActivationObserver(read_onnx(artifact.path), names).observe
    return stack.enter_context(open_session(artifact, get_format(artifact.format).runtime)).run
