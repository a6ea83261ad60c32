"""What a file of a lower precision leaves of the float model's signal, in exact arithmetic.

Both graphs run on the same images, and the tensors of the same name are compared: the outputs, by groups of channels,
and what every layer reads and gives. Nothing here depends on the CPU: ONNX files run in ONNX Runtime without graph
optimizations, which computes every node as it is written, and TFLite files in LiteRT, whose kernels do not saturate.
What an engine makes of a file on this machine is another question, which `edgeq.evaluation.output_difference` and
`edgeq eval` answer.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgeq.calibration.source import CalibrationSource
from edgeq.exporting.artifact import Artifact, Preprocessing
from edgeq.exporting.graphs.graph import read_onnx
from edgeq.exporting.graphs.weights import large_tensors
from edgeq.exporting.onnx.writer import FloatModel, engine_graph
from edgeq.exporting.signal.layers import onnx_layers, tflite_layers
from edgeq.exporting.signal.output_groups import ChannelGroup
from edgeq.exporting.signal.ratio import LOW_DB, Layer, OutputSignal, Signal, Sums, course_of, worst_layers
from edgeq.exporting.tflite.graph import Tensor, read_graph
from edgeq.exporting.tflite.writer import TfliteModel
from edgeq.inputs.preprocessing import preprocess
from edgeq.notes import log_of
from edgeq.progress import progress_bar
from edgeq.runtimes.litert_observer import TfliteObserver
from edgeq.runtimes.observer import ActivationObserver, ExactObserver
from edgeq.tasks.detection.shapes import draw_image
from edgeq.wording import counted

if TYPE_CHECKING:
    from edgeq.calibrators.kept_samples import KeptSample
    from edgeq.calibrators.ranges import Ranges
    from edgeq.targets import Target

_CALIBRATION_IMAGES, _DRAWN_IMAGES = 8, 2
_BUDGET_BYTES = 1 << 29
"""Activations that are compared, for all images together: models with large maps are compared on fewer images."""

_CHUNK_BYTES = 1 << 26
"""Activations of one graph that are held at a time."""

_FLOAT_BYTES = 4

Groups = Sequence[Sequence[ChannelGroup]]
"""The groups of channels of each output, in the outputs' order."""

Run = Callable[[np.ndarray], Mapping[str, np.ndarray]]
"""Input `(1, C, H, W)` -> tensor name -> its values."""

_log = log_of(__name__)


@dataclass(frozen=True)
class ComparedImages:
    """The images that files are compared on: some of those for calibration, or drawn ones if there are none.

    Of the inputs that were kept with ranges, those with the strongest outputs and random ones take turns: random ones
    alone may hold next to no signal, the strongest alone hold more of it than most
    (docs/decisions/0042-signal-on-strong-and-random-inputs.md).

    Attributes:
        preprocessing: From image to input.
        calibration: Where the user's images are, if anywhere.
        example: An input `(1, C, H, W)` that takes the place of drawn images, which need a declared pre-processing.
        ranges: The ranges of INT8 files, with the inputs that were kept, if there are any.
    """

    preprocessing: Preprocessing
    calibration: CalibrationSource | None
    example: np.ndarray | None = None
    ranges: Ranges | None = None

    @cached_property
    def inputs(self) -> list[np.ndarray]:
        """Inputs `(1, C, H, W)`."""
        return self._prepared[0]

    @property
    def kind(self) -> Literal["calibration", "example", "drawn"]:
        """What they are."""
        return self._prepared[1]

    def described(self, count: int) -> str:
        """Returns what the first so many of them are."""
        found = counted(count, f"{self.kind} image")
        strong = 0 if self.ranges is None else len(set(self._kept[:count]).intersection(self.ranges.strongest))
        return f"{found}, {strong} of them with the strongest outputs" if 0 < strong < count else found

    @cached_property
    def _kept(self) -> list[KeptSample]:
        if self.ranges is None or not self.ranges.strongest:
            return []
        turns = itertools.chain.from_iterable(itertools.zip_longest(self.ranges.strongest, self.ranges.samples))
        return list(dict.fromkeys(sample for sample in turns if sample is not None))

    @cached_property
    def _prepared(self) -> tuple[list[np.ndarray], Literal["calibration", "example", "drawn"]]:
        spec = self.preprocessing
        if kept := self._kept[:_CALIBRATION_IMAGES]:
            return [sample.array() for sample in kept], "calibration"
        if self.calibration is not None and (found := list(self.calibration.inputs(spec, _CALIBRATION_IMAGES))):
            return [array for array, _ in found], "calibration"
        if self.example is not None:
            return [self.example], "example"
        return [preprocess(draw_image(1, index).pixels, spec)[0] for index in range(_DRAWN_IMAGES)], "drawn"


@dataclass(frozen=True)
class _Subject:
    """A file and the float graph that it is compared with, opened for some tensors at a time.

    Attributes:
        outputs: The name of each output, in both graphs, and its groups of channels.
        layers: The layers whose signal is measured.
        floats: Names of those that stay in float: what they lose came from others, so they are never the worst.
        sizes: Tensor of both graphs -> bytes of its values.
        arithmetic: What runs the file.
        open: Opens both graphs for some tensors.
    """

    outputs: Sequence[tuple[str, Sequence[ChannelGroup]]]
    layers: Sequence[Layer]
    floats: Collection[str]
    sizes: Mapping[str, int]
    arithmetic: str
    open: Callable[[Sequence[str]], tuple[Run, Run]]


def measure_onnx(
    artifact: Artifact,
    model: FloatModel,
    target: Target,
    images: ComparedImages,
    groups: Groups,
    threads: int | None = None,
    *,
    outputs_only: bool = False,
) -> Signal | None:
    """Returns what an ONNX file leaves of its model's signal; `None` if it computes in FP32.

    Args:
        artifact: The file.
        model: The float model that it was made from.
        target: The target that it was made for.
        images: What both are run on.
        groups: Groups of channels of each output.
        threads: CPU threads of the engine.
        outputs_only: Whether to measure no layers.

    Raises:
        EngineError: ONNX Runtime cannot run the file.
    """
    if artifact.precision == "fp32" or artifact.quantization.get("fp16") == "by the engine":
        return None
    reference, written = engine_graph(model, target), read_onnx(artifact.path)
    inputs = {str(value.name) for value in written.graph.inputs}
    present = inputs.union(str(value.name) for node in written.graph for value in node.outputs)
    floats = artifact.quantization.get("float_nodes", {})
    feed, given = artifact.inputs[0], model.input

    def open_both(names: Sequence[str]) -> tuple[Run, Run]:
        if large_tensors(reference):  # one at a time in memory
            return (
                lambda array: ActivationObserver(reference, names, threads).observe({given.name: given.encode(array)}),
                lambda array: ExactObserver(written, names, threads).observe({feed.name: feed.encode(array)}),
            )
        before, behind = ActivationObserver(reference, names, threads), ExactObserver(written, names, threads)
        return (
            lambda array: before.observe({given.name: given.encode(array)}),
            lambda array: behind.observe({feed.name: feed.encode(array)}),
        )

    values = (*reference.graph.inputs, *(value for node in reference.graph for value in node.outputs))
    shapes = {str(value.name): () if value.shape is None else tuple(value.shape) for value in values}
    names = [str(value.name) for value in reference.graph.outputs]
    subject = _Subject(
        list(zip(names, groups, strict=True)),
        [] if outputs_only else onnx_layers(reference),
        floats,
        {name: _bytes(shape) for name, shape in shapes.items() if name in present},
        f"ONNX Runtime {version('onnxruntime')} without graph optimizations",
        open_both,
    )
    return _measured(artifact, subject, images)


def measure_tflite(
    artifact: Artifact,
    model: TfliteModel,
    images: ComparedImages,
    groups: Groups,
    threads: int | None = None,
) -> Signal | None:
    """Returns what a TFLite file leaves of its model's signal; `None` if it computes in FP32.

    Args:
        artifact: The file.
        model: The float TFLite file that it was made from.
        images: What both are run on.
        groups: Groups of channels of each output, as `(N, C, H, W)` where it is 4-D.
        threads: CPU threads of the engine.

    Raises:
        EngineError: LiteRT cannot run the file.
    """
    if artifact.precision == "fp32":
        return None
    content = artifact.path.read_bytes()
    written = {tensor.name: tensor for tensor in read_graph(content, artifact.name).tensors}
    reference = {tensor.name: tensor for tensor in model.graph.tensors}
    floats = artifact.quantization.get("float_nodes", {})

    def open_both(names: Sequence[str]) -> tuple[Run, Run]:
        before, behind = TfliteObserver(model.content, names, threads), TfliteObserver(content, names, threads)
        return (
            lambda array: _decoded(before.observe(model.input.encode(array)), reference),
            lambda array: _decoded(behind.observe(artifact.inputs[0].encode(array)), written),
        )

    names = [spec.name for spec in model.outputs]
    subject = _Subject(
        list(zip(names, groups, strict=True)),
        tflite_layers(model.graph),
        floats,
        {name: _bytes(tensor.shape) for name, tensor in reference.items() if name in written},
        f"LiteRT {version('ai-edge-litert')}",
        open_both,
    )
    return _measured(artifact, subject, images)


def measure(
    artifact: Artifact,
    model: FloatModel | TfliteModel,
    target: Target,
    images: ComparedImages,
    groups: Groups,
    threads: int | None = None,
) -> Signal | None:
    """Returns what a file leaves of the signal of the model that it was made from.

    `None` for a file that computes in FP32, or of a format that nothing here computes exactly. Arguments and errors are
    those of `measure_onnx`.
    """
    if isinstance(model, TfliteModel):
        return measure_tflite(artifact, model, images, groups, threads)
    return measure_onnx(artifact, model, target, images, groups, threads) if artifact.format == model.format else None


def with_signal(artifact: Artifact, signal: Signal | None) -> Artifact:
    """Returns the artifact after writing the signal into its manifest, under `signal` of `Artifact.quantization`."""
    if signal is None:
        return artifact
    facts = {**artifact.quantization, "signal": signal.to_json()}
    return dataclasses.replace(artifact, quantization=facts).save()


def warn_of_loss(artifact: Artifact, signal: Signal, images: ComparedImages, groups: Groups) -> None:
    """Warns of outputs that are lost, with the layer that loses most and what to do; not of what the graph chooses.

    Args:
        artifact: The file.
        signal: What was measured of it.
        images: What it was measured on.
        groups: Groups of channels of each output.
    """
    pairs = zip(artifact.outputs, groups, strict=True)
    chosen = {spec.name for spec, members in pairs if any(group.chosen for group in members)}
    judged = [output for output in signal.outputs if output.name not in chosen]
    dead = [output.label for output in judged if output.dead]
    low = [output for output in judged if output.snr_db < LOW_DB and not output.dead]
    if not dead and not low:
        return
    found = [f"{label} is constant, while the model's is not" for label in dead]
    found += [f"{output.label} has a signal-to-noise ratio of {output.snr_db:.1f} dB" for output in low]
    _log.warning("%s: %s (%s); %s", artifact.name, "; ".join(found), signal.how, _next_step(artifact, signal, images))


def _next_step(artifact: Artifact, signal: Signal, images: ComparedImages) -> str:
    steps = []
    if images.kind != "calibration":
        steps.append(f"give `calib` with your own images, because {images.kind} images say little about them")
    if artifact.precision == "fp16":
        steps.append("take fp32")
    elif signal.layers:
        worst = signal.layers[0]
        steps.append(
            f"it falls most at {worst.name} ({worst.input_db:.1f} to {worst.snr_db:.1f} dB): try `keep` {worst.name}"
        )
    if artifact.precision == "int8":
        steps.append("another `method`, or more calibration images")
    return ", ".join(steps) or "take fp32"


def _measured(artifact: Artifact, subject: _Subject, images: ComparedImages) -> Signal:
    quantized = [layer for layer in subject.layers if layer.name not in subject.floats]
    # Layers in float cost time and no memory: how many images there are does not depend on them.
    inputs = images.inputs[: _count(sum(subject.sizes[name] for name in _tensors(subject, quantized)))]
    names = _tensors(subject, subject.layers)
    sums: dict[str, Sums] = {}
    groups = {(name, group): Sums() for name, members in subject.outputs for group in members}
    chunks = list(_chunks(names, subject.sizes))
    with progress_bar(len(chunks) * len(inputs), f"comparing {artifact.name}") as advance:
        for chunk in chunks:
            runs = subject.open(chunk)
            for array in inputs:
                expected, found = (run(array) for run in runs)
                for name in chunk:
                    # The file may compute a part of a tensor alone.
                    if expected[name].shape == found[name].shape:
                        sums[name] = sums.get(name, Sums()) + Sums.of_energies(expected[name], found[name])
                for name, group in groups:
                    if name in chunk and expected[name].shape == found[name].shape:
                        groups[name, group] += Sums.of(group.of(expected[name]), group.of(found[name]))
                advance(1)
    count = len(inputs)
    return Signal(
        f"exact arithmetic: {subject.arithmetic}, {images.described(count)}",
        count,
        tuple(OutputSignal.of(name, group.label, found) for (name, group), found in groups.items()),
        worst_layers(quantized, sums),
        course_of(subject.layers, sums),
    )


def _count(image_bytes: int) -> int:
    return max(_DRAWN_IMAGES, min(_CALIBRATION_IMAGES, _BUDGET_BYTES // max(1, image_bytes)))


def _tensors(subject: _Subject, layers: Sequence[Layer]) -> list[str]:
    """Returns the tensors to compare: outputs first, then those of layers, where both graphs have them."""
    read = (name for layer in layers for name in (*layer.inputs, layer.output))
    names = itertools.chain((name for name, _ in subject.outputs), read)
    return [name for name in dict.fromkeys(names) if name in subject.sizes]


def _chunks(names: Sequence[str], sizes: Mapping[str, int]) -> Iterator[list[str]]:
    chunk: list[str] = []
    for name in names:
        if chunk and sum(sizes[each] for each in chunk) + sizes[name] > _CHUNK_BYTES:
            yield chunk
            chunk = []
        chunk.append(name)
    if chunk:
        yield chunk


def _bytes(shape: Sequence[object]) -> int:
    return _FLOAT_BYTES * int(np.prod([dim if isinstance(dim, int) else 1 for dim in shape]))


def _decoded(arrays: Mapping[str, np.ndarray], tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Returns real numbers, `(N, C, H, W)` where they are 4-D."""
    return {name: _real(array, tensors[name]) for name, array in arrays.items()}


def _real(array: np.ndarray, tensor: Tensor) -> np.ndarray:
    if tensor.scales:
        array = (array.astype(np.float64) - tensor.zero_points[0]) * tensor.scales[0]
    return array.transpose(0, 3, 1, 2) if array.ndim == 4 else array
