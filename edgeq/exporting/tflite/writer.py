"""Writes a float TFLite file as float32, float16, static INT8, int16x8 or dynamic INT8, each with its manifest."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import edgeq
from edgeq.calibrators.ranges import Ranges
from edgeq.exporting.artifact import Artifact, Postprocessing, Preprocessing
from edgeq.exporting.ends import require_same_ends
from edgeq.exporting.file_pair import pair_written
from edgeq.exporting.planning.decision import LayerDecision
from edgeq.exporting.planning.plan import QuantPlan
from edgeq.exporting.quantization_facts import CalibratedOn
from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.exporting.tflite.graph import Graph, Tensor, read_graph
from edgeq.exporting.tflite.keep import operator_name
from edgeq.exporting.tflite.layers import quantized_layers
from edgeq.exporting.tflite.low_bit import W4, in_four_bits
from edgeq.exporting.tflite.plan import (
    LAYERS,
    Schemes,
    mixed_ranges,
    needed_tensors,
    select_everywhere,
    select_operators,
)
from edgeq.exporting.tflite.quantize import activation_grids, cast_to_float16, intervals, narrow_operators, quantize
from edgeq.files import sha256_bytes, write_bytes
from edgeq.notes import log_of
from edgeq.schemes import DYNAMIC_INT8, STATIC_PRECISIONS, LayerScheme
from edgeq.targets.tflite import INT16X8, LITERT

if TYPE_CHECKING:
    from edgeq.exporting.jobs import FileJob

COMPATIBLE = ("tflite-runtime",)
"""Engines that need files of their own."""

_log = log_of(__name__)


@dataclass(frozen=True)
class TfliteModel:
    """A float32 TFLite file and what belongs to it: the source of every other TFLite file.

    Attributes:
        name: Stem of the files' names.
        content: The file's bytes; every tensor has a name of its own.
        preprocessing: From image file to input.
        postprocessing: From outputs to detections or classes.
        labels: Class names by class index.
        source_digest: Digest of the graph that it was converted from; empty for a file that was given.
        format: Name of the format that it is.
    """

    format: ClassVar[str] = "tflite"

    name: str
    content: bytes
    preprocessing: Preprocessing
    postprocessing: Postprocessing | None = None
    labels: tuple[str, ...] = ()
    source_digest: str = ""

    @cached_property
    def graph(self) -> Graph:
        """The file as a graph."""
        return read_graph(self.content, self.name)

    @cached_property
    def digest(self) -> str:
        """Identifies the file; ranges remember it."""
        return sha256_bytes(self.content)

    @property
    def input(self) -> TensorSpec:
        """The one input."""
        return tensor_spec(self.graph.tensors[self.graph.inputs[0]]).of_pixels

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs, in order."""
        return tuple(tensor_spec(self.graph.tensors[index]) for index in self.graph.outputs)


@dataclass(frozen=True)
class RangeSources:
    """Where the ranges of TFLite tensors are.

    Attributes:
        tensors: Tensor name -> the ranges that hold it, and its name in them.
        matched: How many are those of the ONNX graph, or follow from them.
        sampled: Those that were measured on the inputs that were kept with the ranges.
    """

    tensors: Mapping[str, tuple[Ranges, str]]
    matched: int = 0
    sampled: tuple[str, ...] = ()


@dataclass(frozen=True)
class TfliteOptions:
    """How TFLite files are written.

    Attributes:
        kept: Name of an operator -> why it stays in float (`edgeq.exporting.tflite.keep`).
        integer_io: Whether inputs and outputs of static files are integers.
        compat: An engine of `COMPATIBLE` that has to run the files right, or `None`.
        target_schemes: How the target's engines run each kind of operator (`Target.tflite`).
        group_size: Inputs that share a scale, of weights of 4 bits.
    """

    kept: Mapping[str, str] = field(default_factory=dict)
    integer_io: bool = False
    compat: str | None = None
    target_schemes: Schemes = field(default_factory=lambda: LITERT)
    group_size: int | None = None

    @property
    def schemes(self) -> Schemes:
        """How each kind of operator may run in these files."""
        if self.compat is None:
            return self.target_schemes
        # tflite-runtime refuses a dynamic TRANSPOSE_CONV when it loads a file.
        static = tuple(each for each in self.target_schemes.get("TRANSPOSE_CONV", ()) if not each.dynamic)
        return {**self.target_schemes, "TRANSPOSE_CONV": static}


def plan(
    model: TfliteModel, precision: str, options: TfliteOptions, apart: Collection[int] = ()
) -> dict[int, LayerDecision]:
    """Returns operator number -> decision for `int8`, `int16x8` or `dynamic`.

    Args:
        model: The float model.
        precision: The file's.
        options: How it is written.
        apart: CONCATENATIONs whose inputs keep grids of their own, as soon as ranges are known.
    """
    if precision == "int8":
        return select_operators(
            model.graph,
            options.kept,
            integer_heads=options.integer_io,
            apart=apart,
            schemes=options.target_schemes,
        )
    scheme = INT16X8 if precision == "int16x8" else DYNAMIC_INT8
    return select_everywhere(model.graph, scheme, options.kept, options.schemes)


def tensors_to_calibrate(model: TfliteModel, precisions: Sequence[str], options: TfliteOptions) -> list[str]:
    """Returns the tensors whose ranges the files of these precisions need, in graph order."""
    needed: set[str] = set()
    for precision in precisions:
        if precision in STATIC_PRECISIONS:
            needed.update(needed_tensors(model.graph, plan(model, precision, options), options.integer_io))
    return [tensor.name for tensor in model.graph.tensors if tensor.name in needed]


def write(
    model: TfliteModel,
    target: str,
    precision: str,
    folder: Path,
    options: TfliteOptions,
    known: RangeSources | None = None,
) -> Artifact:
    """Returns the artifact of one precision, written to `folder`.

    Args:
        model: The float model.
        target: Name of the target, for the file's name and manifest.
        precision: `fp32`, `fp16`, `dynamic`, `w4`, or one of `STATIC_PRECISIONS`, which need ranges.
        folder: Where to write.
        options: How to write.
        known: The ranges; `int8` and `int16x8` need them.

    Raises:
        MismatchError: a tensor has no range.
        ModelError: the quantizer refuses the graph, or did something else than was decided, or has changed inputs or
            outputs.
        MissingDependencyError: the extra `tflite` is not installed.
    """
    facts: dict[str, Any] = {}
    if precision == "fp32":
        content = model.content
    elif precision == "fp16":
        content = cast_to_float16(model.content, model.name)
    elif precision == W4:
        content, facts = in_four_bits(model.content, model.name, options.kept, options.group_size)
    else:
        content, facts = _quantized(model, precision, options, known)
    path = folder / f"{model.name}.{target}.{precision}.tflite"
    graph = read_graph(content, path.name)
    inputs = tuple(tensor_spec(graph.tensors[index]).of_pixels for index in graph.inputs)
    outputs = tuple(tensor_spec(graph.tensors[index]) for index in graph.outputs)
    require_same_ends(path.name, (inputs, outputs), ((model.input,), model.outputs), integers=options.integer_io)
    with pair_written(path):
        write_bytes(path, content)
        artifact = Artifact(
            path=path,
            format="tflite",
            precision=precision,
            target=target,
            inputs=inputs,
            outputs=outputs,
            preprocessing=model.preprocessing.declared,
            postprocessing=model.postprocessing,
            labels=model.labels,
            source_digest=model.source_digest or model.digest,
            quantization=facts,
            tools={"edgeq": edgeq.__version__} | _versions("litert-torch", "ai-edge-quantizer"),
        )
        return artifact.save()


def write_file(job: FileJob) -> Artifact:
    """Returns the artifact of a job; its model is a float TFLite file. The errors are those of `write`."""
    assert isinstance(job.model, TfliteModel)  # noqa: S101 - files of this format are made from it
    assert isinstance(job.ranges, RangeSources | None)  # noqa: S101 - those of its tensors
    given = job.options
    options = TfliteOptions(job.kept_operators, given.integer_io, given.compat, job.target.tflite, given.group_size)
    return write(job.model, job.target.name, job.precision, job.folder, options, job.ranges)


def _quantized(
    model: TfliteModel, precision: str, options: TfliteOptions, known: RangeSources | None
) -> tuple[bytes, dict[str, Any]]:
    if precision == "int16x8":
        _log.warning(
            "int16x8 runs in plain kernels, 20 to 40 times slower than fp32 where that runs in XNNPACK: it shows how "
            "much accuracy 8 bits cost"
        )
    decisions = plan(model, precision, options)
    facts: dict[str, Any] = {}
    ranges = None
    if known is not None and any(decision.scheme.is_static for decision in decisions.values()):
        options, decisions, ranges = _fitting(model, precision, options, known)
        sources = [*{id(used): used for used, _ in known.tensors.values()}.values()]
        facts = {
            "method": ", ".join(sorted({used.method for used in sources})) if precision == "int8" else "minmax",
            "ranges_digests": sorted(used.digest for used in sources),
            **(CalibratedOn.stated(sources[0].provenance) if sources else {}),
            "matched_tensors": known.matched,
            "sampled_tensors": list(known.sampled),
        }
    _warn(model.name, precision, {decision.scheme for decision in decisions.values()})
    per_tensor = frozenset({"FULLY_CONNECTED"}) if options.compat else frozenset()
    grids = activation_grids(ranges or {}, decisions)
    weights, biases = quantized_layers(model.graph, decisions, grids, per_tensor)
    quantized = QuantPlan(tuple(decisions.values()), grids, weights=weights, biases=biases)
    content = quantize(
        model.content, quantized, model.name, ranges=ranges, integer_io=options.integer_io, per_tensor=per_tensor
    )
    return content, facts | _summary(model.graph, decisions, options)


def _fitting(
    model: TfliteModel, precision: str, options: TfliteOptions, known: RangeSources
) -> tuple[TfliteOptions, dict[int, LayerDecision], dict[str, tuple[float, float]]]:
    """Returns decisions that the ranges have grids for, after the options with what stays in float for it; the ranges.

    A tensor without a step, such as one that vanishes below 1e-9, is computed in float.
    """
    decisions = plan(model, precision, options)
    # Steps of 16 bits are fine enough for what goes together in no 8.
    apart = _apart(model, decisions, known) if precision == "int8" else frozenset()
    if apart:
        names = ", ".join(decisions[index].name for index in sorted(apart))
        _log.warning("mixed ranges: the inputs of %s are too different for one scale, it is computed in float", names)
        decisions = plan(model, precision, options, apart)
    ranges = intervals(model.graph, known.tensors, decisions, options.integer_io)
    while narrow := narrow_operators(model.graph, decisions, ranges):
        _log.warning("narrow ranges: %s computed in float: %s", _are(narrow), next(iter(narrow.values())))
        options = dataclasses.replace(options, kept={**narrow, **options.kept})
        decisions = plan(model, precision, options, apart)
        ranges = intervals(model.graph, known.tensors, decisions, options.integer_io)
    return options, decisions, ranges


def _are(names: Collection[str]) -> str:
    """Returns who is meant, and the verb: `conv is`, or `conv and 3 others are`."""
    first, *others = names
    return f"{first} and {len(others)} other{'s' * (len(others) > 1)} are" if others else f"{first} is"


def _warn(name: str, precision: str, found: Set[LayerScheme]) -> None:
    """Says where a file is not what its name promises."""
    if precision == "int8" and DYNAMIC_INT8 in found and not any(scheme.is_static for scheme in found):
        _log.warning(
            "no layer of %s can use static ranges, because functions such as SiLU follow them: its int8 file is "
            "the dynamic one, smaller than fp32 but hardly faster",
            name,
        )
    elif all(scheme.is_float for scheme in found):
        _log.warning("no layer of %s has an INT8 form in TFLite; it computes in float: take fp32", name)


def _apart(model: TfliteModel, decisions: Mapping[int, LayerDecision], known: RangeSources) -> frozenset[int]:
    """Returns the CONCATENATIONs whose inputs do not go on one grid, by the ranges that those have on their own."""
    alone = {index: decision for index, decision in decisions.items() if decision.op_type != "CONCATENATION"}
    widths = {name: max(high, -low) for name, (low, high) in intervals(model.graph, known.tensors, alone).items()}
    return mixed_ranges(model.graph, decisions, widths)


def _summary(graph: Graph, decisions: Mapping[int, LayerDecision], options: TfliteOptions) -> dict[str, Any]:
    layers = [decision for decision in decisions.values() if decision.op_type in LAYERS]
    counts = Counter(decision.scheme.name for decision in layers)
    floats = {decision.name: decision.reason for decision in layers if decision.is_float}
    floats |= {
        (name := operator_name(graph, operator)): options.kept.get(name, "has no such form")
        for operator in graph.operators
        if operator.kind in LAYERS and operator.index not in decisions
    }
    dynamic = {each.name: each.reason for each in layers if each.scheme.dynamic}
    mixed = len(dynamic) < len(layers) - counts["float"]
    return {
        "int8_nodes": len(layers) - counts["float"] - (len(dynamic) if mixed else 0),
        "layers": dict(counts),
        "dynamic_nodes": dynamic if mixed else {},
        "float_nodes": floats,
        "compat": options.compat,
    }


def tensor_spec(tensor: Tensor) -> TensorSpec:
    """Returns what a tensor of a file is to those that feed or read it."""
    scale, zero = (tensor.scales[0], tensor.zero_points[0]) if tensor.scales else (None, 0)
    return TensorSpec(
        tensor.name, tensor.dtype, tensor.shape, "NHWC" if len(tensor.shape) == 4 else "NCHW", scale, zero
    )


def _versions(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
