"""Shares one calibration, and one `keep`, between the ONNX graph and the TFLite file of a model."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeq.calibration.followed_ranges import Matched, collect_ranges, match_tensors
from edgeq.calibration.observed_model import calibrated_tensors
from edgeq.calibrators.ranges import Ranges
from edgeq.errors import InputError
from edgeq.exporting.graphs.graph import data_inputs, weight_of
from edgeq.exporting.graphs.linear import linear_of
from edgeq.exporting.passes.packed_projection import whole_of
from edgeq.exporting.planning.keep import Kept, kept_by
from edgeq.exporting.planning.selection import activation_behind
from edgeq.exporting.tflite.keep import named_operators, operator_name
from edgeq.exporting.tflite.plan import observed_tensors
from edgeq.exporting.tflite.writer import RangeSources, TfliteModel, TfliteOptions
from edgeq.notes import log_of
from edgeq.sources.formats import TFLITE

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.calibration.source import CalibrationSource
    from edgeq.exporting.onnx.writer import FloatModel
    from edgeq.exporting.options import ExportOptions
    from edgeq.targets import Target

_log = log_of(__name__)


def share(
    model: FloatModel,
    converted: TfliteModel,
    target: Target,
    kept: Kept,
    ranges: Ranges | None,
    source: CalibrationSource | None,
    precisions: Sequence[str],
    options: ExportOptions,
    probes: Sequence[np.ndarray],
    out: Path,
    threads: int | None,
) -> tuple[dict[str, str], RangeSources | None]:
    """Returns which operators of the TFLite file stay in float, with the reasons, and the ranges of its tensors.

    Args:
        model: The ONNX graph.
        converted: The TFLite file of the same model.
        target: Whose engines run the files.
        kept: What stays in float of the graph.
        ranges: Ranges of the graph, if there are any.
        source: Where the images are, if the ranges do not suffice.
        precisions: Of the files to write.
        options: How they are written.
        probes: Inputs `(1, 3, H, W)` that both are run on.
        out: Folder for the ranges of what the graph has no counterpart of.
        threads: CPU threads for calibration.

    Raises:
        InputError: something that is kept has no counterpart in the TFLite file.
        MismatchError: the ranges do not suffice, and there are neither images nor kept inputs.
    """
    if not TFLITE.effects["keep"].intersection(precisions) or (ranges is None and not kept.nodes):
        return {}, None
    names = calibrated_tensors(model) if ranges is None else list(ranges.tensors)
    matched = match_tensors(model, converted, names, probes)
    nodes = [name for names in kept.nodes.values() for name in names]
    twins = computed_twins(converted, matched) | twins_of_nodes(model, converted, nodes, probes)
    operators = translate_keep(model, converted, twins, kept)
    if ranges is None:
        return operators, None
    written = TfliteOptions(operators, options.integer_io, options.compat, target.tflite)
    return operators, collect_ranges(converted, matched, ranges, source, precisions, written, out, threads)


def computed_twins(converted: TfliteModel, matched: Matched) -> dict[str, str]:
    """Returns TFLite tensor -> the ONNX tensor with the same values, of those that are computed.

    What is only moved stays in float with what it is moved from.
    """
    computed = frozenset(observed_tensors(converted.graph))
    return {name: twin for name, twin in matched.twins.items() if name in computed}


def twins_of_nodes(
    model: FloatModel, converted: TfliteModel, nodes: Collection[str], probes: Sequence[np.ndarray]
) -> dict[str, str]:
    """Returns TFLite tensor -> the ONNX tensor with the same values, for what some nodes compute.

    A layer before a SiLU has a counterpart too, though nothing has a range there.

    Args:
        model: The ONNX graph.
        converted: The TFLite file of the same model.
        nodes: Names of the nodes.
        probes: Inputs `(1, C, H, W)` that both are run on.
    """
    names = dict.fromkeys(str(value.name) for values in _results(model, nodes).values() for value in values)
    return computed_twins(converted, match_tensors(model, converted, list(names), probes)) if names else {}


def translate_keep(model: FloatModel, converted: TfliteModel, matched: Mapping[str, str], kept: Kept) -> dict[str, str]:
    """Returns the operators of the TFLite file that compute what the kept ONNX nodes compute: name -> why it is kept.

    What names an operator of the TFLite file itself, or a kind of them, means that.

    Raises:
        InputError: something that is kept is neither an ONNX node nor a TFLite operator.
    """
    found: dict[str, str] = {}
    for pattern, nodes in kept.nodes.items():
        names = named_operators(converted.graph, pattern) or _counterparts(model, converted, matched, pattern, nodes)
        found |= dict.fromkeys(names, kept_by(pattern))
    return found


def _counterparts(
    model: FloatModel, converted: TfliteModel, matched: Mapping[str, str], pattern: str, nodes: Sequence[str]
) -> list[str]:
    """Returns the operators that compute what the nodes of a pattern compute; warns of layers without one."""
    if not nodes:
        examples = ", ".join(str(node.name) for node in list(model.graph.graph)[:5])
        raise InputError(f"`keep` {pattern!r}: matches no node; names look like {examples}")
    names, lost = operators_of(model, matched, nodes)
    if not names:
        example = operator_name(converted.graph, converted.graph.operators[0])
        raise InputError(
            f"`keep` {pattern!r}: the nodes that it matches have no counterpart in the TFLite file; name a TFLite "
            f"operator by its output, like {example}"
        )
    if lost:
        _log.warning("`keep` %r: no counterpart in the TFLite file for %s", pattern, ", ".join(lost))
    return names


def operators_of(model: FloatModel, matched: Mapping[str, str], nodes: Collection[str]) -> tuple[list[str], list[str]]:
    """Returns the TFLite operators that compute what some ONNX nodes compute, and the layers among them without one.

    Args:
        model: The ONNX graph.
        matched: TFLite tensor -> the ONNX tensor with the same values.
        nodes: Names of the nodes.
    """
    produced: dict[str, list[str]] = {}
    for name, onnx_name in matched.items():
        produced.setdefault(onnx_name, []).append(name)
    weighted = {str(node.name) for node in model.graph.graph if weight_of(node) is not None}
    names, lost = [], []
    for node, values in _results(model, nodes).items():
        found = [name for value in dict.fromkeys(values) for name in produced.get(str(value.name), [])]
        names += found
        if not found and node in weighted:
            lost.append(node)
    return names, lost


def _results(model: FloatModel, nodes: Collection[str]) -> dict[str, tuple[ir.Value, ir.Value]]:
    """Returns name of a node -> its output, and what an activation behind it makes of that; parts mean their whole."""
    wanted = {whole_of(name) for name in nodes}
    found = {}
    for node in model.graph.graph:
        if node.name in wanted and data_inputs(node):
            layer = linear_of(node)
            # A product without its bias stands in no TFLite file.
            found[str(node.name)] = node.outputs[0], activation_behind(node if layer is None else layer.add or node)
    return found
