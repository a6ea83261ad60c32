"""Writes one part of a model as an ONNX file of a precision, compared with PyTorch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import edgeq
from edgeq.bundles.contents import BundleFile, BundlePart
from edgeq.bundles.precision import Precision
from edgeq.bundles.session import PartSession
from edgeq.bundles.static_part import static_graph
from edgeq.bundles.torch_part import TorchPart, compare_with_torch, ends_of
from edgeq.calibration.quantize_layers import quantize_layers
from edgeq.exporting.graphs.graph import copy_graph, save_onnx, weight_of
from edgeq.exporting.graphs.onnx_file import data_path
from edgeq.exporting.onnx.int4_weights import INT4_OPSET
from edgeq.exporting.onnx.low_bit import WHOLE_GROUPS, form_of
from edgeq.exporting.onnx.low_bit_nodes import Form, insert_low_bit_weights
from edgeq.exporting.onnx.writer import halve_weights
from edgeq.exporting.passes.divide_channels import divide_channels
from edgeq.exporting.planning.keep import Kept, resolve_keep
from edgeq.exporting.planning.low_bit import make_low_bit_plan
from edgeq.schemes import LayerScheme

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from edgeq.exporting.jobs import PlannedWeight, QuantizedLayers
    from edgeq.targets import Target

OPSET = INT4_OPSET
"""Of all files: the first with weights of 4 bits."""

_HEAD_OUTPUT = "logits"
_COMPARED = 8
"""Inputs that a file of few bits is compared on."""

Feeds = Sequence[Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class PartJob:
    """What is to be written.

    Attributes:
        part: The part of the torch model.
        graph: Its ONNX graph in FP32, of opset `OPSET`.
        precision: Of its weights.
        head: Of a decoder's last layer.
        target: Whose rules and engine to follow.
        folder: Where to write.
        keep: What stays in float: names of layers, regular expressions, operator types; entries that match nothing in
            this part are meant for another.
        feeds: What it reads in practice, by name; methods that read inputs calibrate on it.
        threads: CPU threads.
    """

    part: TorchPart
    graph: ir.Model
    precision: Precision
    head: Precision
    target: Target
    folder: Path
    keep: tuple[str, ...] = ()
    feeds: Feeds = ()
    threads: int | None = None


def write_part(job: PartJob) -> tuple[BundlePart, frozenset[str]]:
    """Returns what the manifest says of the file that was written, and the entries of `keep` that meant a layer of it.

    Raises:
        ModelError: the part computes something else than PyTorch, or no layer takes the precision.
    """
    path = job.folder / f"{job.part.name}.onnx"
    difference = compare_with_torch(job.part, (session := _opened(job.graph, path, job.threads)).run)
    is_plain = job.precision.name == job.head.name == "fp32"
    kept: dict[str, str] = {}
    method, matched, simulated, error = "", frozenset[str](), False, 0.0
    if not is_plain:
        feeds = job.feeds or [_arrays(inputs) for inputs in job.part.checks]
        wanted = [session.run(feed)[0] for feed in feeds[:_COMPARED]]
        if job.precision.is_static:
            precise, kept, matched = static_graph(
                job.graph, job.target, job.precision.method, feeds, job.keep, job.threads
            )
        else:
            precise = copy_graph(job.graph)
            kept, matched, simulated = _store(precise, job)
        session = _opened(precise, path, job.threads)
        error = _relative_error([session.run(feed)[0] for feed in feeds[:_COMPARED]], wanted)
        method = job.precision.method
    inputs, outputs = ends_of(job.graph)
    beside = data_path(path)
    return (
        BundlePart(
            name=job.part.name, model=BundleFile.of(path), weights=BundleFile.of(beside) if beside.is_file() else None,
            precision=job.precision.name, method=method, simulated=simulated, kept=kept,
            head=job.head.name if job.head.name != job.precision.name else "", inputs=inputs, outputs=outputs,
            max_difference=difference, output_error=error,
        ),
        matched,
    )  # fmt: skip


def _opened(graph: ir.Model, path: Path, threads: int | None) -> PartSession:
    """Writes a graph, and returns it as an engine sees it."""
    data_path(path).unlink(missing_ok=True)  # of FP32, for which one file may not be enough
    graph.producer_name, graph.producer_version = "edgeq", edgeq.__version__
    save_onnx(graph, path)
    return PartSession(path, threads)


def _store(graph: ir.Model, job: PartJob) -> tuple[dict[str, str], frozenset[str], bool]:
    """Gives the layers of a graph their precision, in place.

    Returns:
        Layer -> why it stays in float, the entries of `keep` that meant one, and whether a layer is simulated.
    """
    asked = resolve_keep(graph, job.keep, unknown_to_graph=True)
    head = _head(graph)
    layers = {str(node.name) for node in graph.graph if weight_of(node) is not None}
    reasons: dict[str, str] = {}
    simulated = False
    groups = {job.head: head & layers} if head else {}
    groups[job.precision] = groups.get(job.precision, set()) | (layers - head)
    halved = {name for each, names in groups.items() if each.name == "fp16" for name in _constants(graph, names)}
    if job.precision.name == "fp16":
        halved |= _tables(graph)
    for precision, names in groups.items():
        if not precision.is_float and names:
            kept = Kept({**asked.nodes, "another precision": tuple(layers - names)})
            reasons |= _quantize(graph, job, precision, kept, names)
            simulated |= _form(job, precision) == "float"
    halve_weights(graph, halved)
    matched = frozenset(pattern for pattern, found in asked.nodes.items() if found)
    return reasons, matched, simulated


def _quantize(
    graph: ir.Model, job: PartJob, precision: Precision, kept: Kept, names: Collection[str]
) -> dict[str, str]:
    """Quantizes some layers, in place, and returns why others of them stay in float."""
    form = _form(job, precision)

    def quantize(model: ir.Model, planned: Mapping[str, PlannedWeight]) -> QuantizedLayers:
        return quantize_layers(model, planned, method=precision.method, feeds=job.feeds, threads=job.threads)

    plan = make_low_bit_plan(
        graph, job.target.rules, kept, LayerScheme(precision.scheme), quantize, WHOLE_GROUPS[form], wide_ends=False
    )
    weights, _ = divide_channels(graph, plan.layers.inputs, plan.layers.weights)
    insert_low_bit_weights(graph, weights, form)
    return {each.name: each.reason for each in plan.decisions if each.is_float and each.name in names}


def _form(job: PartJob, precision: Precision) -> Form:
    is_uniform = precision.scheme.codebook is None
    return form_of(job.target, precision.scheme.bits, precision.group_size) if is_uniform else "float"


def _head(graph: ir.Model) -> set[str]:
    """Returns the layer that gives the scores of tokens, if the graph has one."""
    logits = next((value for value in graph.graph.outputs if value.name == _HEAD_OUTPUT), None)
    node = None if logits is None else logits.producer()
    while node is not None and weight_of(node) is None:
        node = None if node.inputs[0] is None else node.inputs[0].producer()
    return set() if node is None else {str(node.name)}


def _tables(graph: ir.Model) -> set[str]:
    """Returns the names of tables that are looked up.

    Other constants stay as they are: frequencies of rotary positions in halves are off by radians after some thousand
    tokens.
    """
    looked_up = (node.inputs[0] for node in graph.graph if node.op_type == "Gather")
    return {str(value.name) for value in looked_up if value is not None and value.is_initializer()}


def _constants(graph: ir.Model, layers: Collection[str]) -> set[str]:
    """Returns the names of the weights of some layers."""
    return {
        str(node.inputs[1].name)
        for node in graph.graph
        if str(node.name) in layers and len(node.inputs) > 1 and node.inputs[1] is not None
    }


def _arrays(inputs: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in inputs.items()}


def _relative_error(found: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> float:
    """Returns the norm of the differences over the norm of what was wanted."""
    lost = sum(float(np.square(a.astype(np.float64) - b).sum()) for a, b in zip(found, wanted, strict=True))
    whole = sum(float(np.square(each.astype(np.float64)).sum()) for each in wanted)
    return float(np.sqrt(lost / whole)) if whole else 0.0
