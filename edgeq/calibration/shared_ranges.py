"""Shares one calibration, and one `keep`, between the ONNX graph and the TFLite file of a model."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeq.calibration.calibrate import calibrate
from edgeq.calibration.collector import calibrated_tensors
from edgeq.calibrators import BEST
from edgeq.calibrators.candidates import FALLBACK
from edgeq.calibrators.ranges import Ranges
from edgeq.errors import InputError
from edgeq.exporting.graphs.graph import data_inputs, weight_of
from edgeq.exporting.graphs.linear import linear_of
from edgeq.exporting.passes.packed_projection import whole_of
from edgeq.exporting.planning.keep import Kept, kept_by
from edgeq.exporting.planning.selection import activation_behind
from edgeq.exporting.tflite.keep import named_operators, operator_name
from edgeq.exporting.tflite.match import match_by_value
from edgeq.exporting.tflite.plan import observed_tensors
from edgeq.exporting.tflite.writer import RangeSources, TfliteModel, TfliteOptions, tensors_to_calibrate
from edgeq.sources.formats import TFLITE, get_format

if TYPE_CHECKING:
    from edgeq.calibration.source import CalibrationSource
    from edgeq.exporting.onnx.writer import FloatModel
    from edgeq.exporting.options import ExportOptions
    from edgeq.targets import Target

_log = logging.getLogger(__name__)


def match_tensors(
    model: FloatModel, converted: TfliteModel, names: Sequence[str], probes: Sequence[np.ndarray]
) -> dict[str, str]:
    """Returns TFLite tensor -> ONNX tensor for those that hold the same values; the outputs by their names.

    Args:
        model: The ONNX graph.
        converted: The TFLite file of the same model.
        names: ONNX tensors to look for.
        probes: Inputs `(1, 3, H, W)` that both are run on.
    """
    wanted = observed_tensors(converted.graph)
    reference = get_format(model.format).function("observe")(model, names)
    observer = get_format(converted.format).function("observe")(converted, wanted)
    matched = match_by_value([reference(probe) for probe in probes], [observer(probe) for probe in probes])
    outputs = {str(value.name) for value in model.graph.graph.outputs}
    return {name: name for name in wanted if name in outputs} | matched


def collect_ranges(
    converted: TfliteModel,
    matched: Mapping[str, str],
    ranges: Ranges,
    source: CalibrationSource | None,
    precisions: Sequence[str],
    options: TfliteOptions,
    out: Path,
    threads: int | None,
) -> RangeSources:
    """Returns the ranges of the tensors that the files need: those of the ONNX graph, and the rest from the images.

    Args:
        converted: The float TFLite file.
        matched: TFLite tensor -> ONNX tensor.
        ranges: Ranges of the ONNX graph.
        source: Where the images are, if the ranges do not suffice.
        precisions: Of the files to write.
        options: How they are written.
        out: Folder for the ranges of the rest.
        threads: CPU threads for calibration.
    """
    needed = tensors_to_calibrate(converted, precisions, options)
    known = {name: (ranges, matched[name]) for name in needed if matched.get(name) in ranges.tensors}
    shared = len(known)
    rest = [name for name in needed if name not in known]
    if rest and source is not None and source.has_images:
        path = out / f"{converted.name}.tflite.ranges.json"
        # The layers of the TFLite file cannot be run one by one, as `best` would have it.
        method, chosen = (FALLBACK, {}) if ranges.method == BEST else (ranges.method, dict(ranges.options))
        own = calibrate(
            converted, source.data(), path, tensors=rest, method=method, options=chosen, num=source.num, threads=threads
        ).ranges
        known |= {name: (own, name) for name in rest}
    _log.info("%d of %d TFLite tensors share the ranges of the ONNX graph", shared, len(needed))
    return RangeSources(known, shared)


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
    """
    if not TFLITE.effects["keep"].intersection(precisions) or (ranges is None and not kept.nodes):
        return {}, None
    names = calibrated_tensors(model) if ranges is None else list(ranges.tensors)
    matched = match_tensors(model, converted, names, probes)
    operators = translate_keep(model, converted, matched, kept)
    if ranges is None:
        return operators, None
    written = TfliteOptions(operators, options.integer_io, options.compat, target.tflite)
    return operators, collect_ranges(converted, matched, ranges, source, precisions, written, out, threads)


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
    produced: dict[str, list[str]] = {}
    for name, onnx_name in matched.items():
        produced.setdefault(onnx_name, []).append(name)
    wanted = {whole_of(name) for name in nodes}
    names, lost = [], []
    for node in model.graph.graph:
        if node.name not in wanted or not data_inputs(node):
            continue
        layer = linear_of(node)
        # A product without its bias stands in no TFLite file.
        last = node if layer is None else layer.add or node
        values = (node.outputs[0], activation_behind(last))
        found = [name for value in values for name in produced.get(str(value.name), [])]
        names += found
        if not found and weight_of(node) is not None:
            lost.append(str(node.name))
    if not names:
        example = operator_name(converted.graph, converted.graph.operators[0])
        raise InputError(
            f"`keep` {pattern!r}: the nodes that it matches have no counterpart in the TFLite file; name a TFLite "
            f"operator by its output, like {example}"
        )
    if lost:
        _log.warning("`keep` %r: no counterpart in the TFLite file for %s", pattern, ", ".join(lost))
    return names
