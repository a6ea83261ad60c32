"""What the writers of `edgeq.sources.formats` are given: one file to write, or a plan to write a second file of."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edgeq.exporting.options import ExportOptions
from edgeq.exporting.planning.keep import Kept

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

    from edgeq.calibrators.ranges import Ranges
    from edgeq.exporting.costs.table import KernelTable
    from edgeq.exporting.onnx.writer import FloatModel
    from edgeq.exporting.planning.plan import QuantPlan
    from edgeq.exporting.tflite.writer import RangeSources, TfliteModel
    from edgeq.quantizers import QuantizedWeight
    from edgeq.schemes import Scheme
    from edgeq.targets import Target


@dataclass(frozen=True)
class PlannedModel:
    """A static INT8 file that is about to be written.

    Attributes:
        model: The float model.
        target: Whose rules the plan follows.
        graph: The graph that the plan was made for, without Q/DQ pairs.
        plan: The plan.
        ranges: The ranges that it was made from.
    """

    model: FloatModel
    target: Target
    graph: ir.Model
    plan: QuantPlan
    ranges: Ranges


Companion = Callable[[PlannedModel, Path], dict[str, Any]]
"""Writes a further file of the same plan to a folder, and returns what the first file's manifest says of it."""


LayerMoments = Callable[["ir.Model", Collection[str]], Iterator[tuple[str, "np.ndarray"]]]
"""Yields name and second moments `(K, K)` of what linear layers of a graph read, of those that can be measured."""


class PlannedWeight(NamedTuple):
    """A weight that is to have few bits.

    Attributes:
        matrix: `(out, in)`; of a convolution one row per output channel, ordered as its weight is.
        scheme: With the axis of its inputs.
    """

    matrix: np.ndarray
    scheme: Scheme


@dataclass(frozen=True)
class ScaledInput:
    """A tensor whose channels are divided by scales, for layers whose weights are multiplied by them.

    Attributes:
        tensor: Name of the tensor.
        layers: Names of the layers that read it so.
        scales: `(channels,)`, float32.
    """

    tensor: str
    layers: tuple[str, ...]
    scales: np.ndarray


@dataclass(frozen=True)
class QuantizedLayers:
    """What became of planned weights.

    Attributes:
        weights: Layer -> its weight, of the planned matrix's shape.
        inputs: Tensors whose channels have to be scaled for it.
        notes: What a user should know.
    """

    weights: Mapping[str, QuantizedWeight]
    inputs: tuple[ScaledInput, ...] = ()
    notes: tuple[str, ...] = ()


QuantizeLayers = Callable[["ir.Model", Mapping[str, PlannedWeight]], QuantizedLayers]
"""Returns the weights of some layers of a graph in few bits."""

MeanErrors = Callable[["ir.Model", "QuantPlan"], Mapping[str, "np.ndarray"]]
"""Returns name of a layer -> what it gives too much in each output channel, for a plan and the graph of it."""


Reconstruct = Callable[[PlannedModel], tuple["QuantPlan", dict[str, Any]]]
"""Returns the plan with weights whose rounding was learned, and what the manifest says of it."""


Finetune = Callable[[PlannedModel], tuple["QuantPlan", dict[str, Any]]]
"""Returns the plan with weights, biases and steps that were trained, and what the manifest says of it."""


@dataclass(frozen=True)
class FileJob:
    """One file to write.

    Attributes:
        model: The float model in the form that files of the format are made from.
        target: Whose rules to follow.
        folder: Where to.
        options: What the user decided; `keep` is resolved already, in `kept` or `kept_operators`.
        ranges: The ranges of the model's tensors; precisions with static ranges need them.
        kept: What stays in float of the graph.
        kept_operators: What stays in float of a converted model: name of the operator -> why.
        companions: Writers of the files that a static INT8 file comes with.
        costs: What kernels cost where the file is to run; `None` leaves the choice of layers to the target's rules.
        least_gain_us: What every layer in INT8 has to save by these costs, on average over layers that hang together.
        noisy: Name of a layer -> why it stays in float, whatever it saves by these costs.
        layer_moments: Measures what layers read whose weights alone are quantized; those that it does not know are
            rounded to nearest.
        quantize_layers: Quantizes weights that alone are quantized, by what their layers read; `None` rounds them to
            nearest.
        mean_errors: Measures what the layers of a plan give too much on average; `None` leaves biases as they are.
        reconstruct: Learns how the weights of a plan are rounded; `None` rounds each to nearest.
        finetune: Trains what a plan has quantized; `None` leaves it as calibration has it.
        precision: One of the format's.
    """

    model: FloatModel | TfliteModel
    target: Target
    folder: Path
    options: ExportOptions = field(default_factory=ExportOptions)
    ranges: Ranges | RangeSources | None = None
    kept: Kept | None = None
    kept_operators: Mapping[str, str] = field(default_factory=dict)
    companions: tuple[Companion, ...] = ()
    costs: KernelTable | None = None
    least_gain_us: float = 0.0
    noisy: Mapping[str, str] = field(default_factory=dict)
    layer_moments: LayerMoments | None = None
    quantize_layers: QuantizeLayers | None = None
    mean_errors: MeanErrors | None = None
    reconstruct: Reconstruct | None = None
    finetune: Finetune | None = None
    precision: str = "fp32"
