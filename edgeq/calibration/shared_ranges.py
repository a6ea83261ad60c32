"""Shares one calibration, and one `keep`, between the ONNX graph and the TFLite file of a model."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeq.calibration.calibrate import calibrate
from edgeq.calibrators import BEST
from edgeq.calibrators.candidates import FALLBACK
from edgeq.calibrators.ranges import Ranges
from edgeq.errors import InputError
from edgeq.exporting.graphs.graph import data_inputs, weight_of
from edgeq.exporting.graphs.linear import linear_of
from edgeq.exporting.planning.selection import activation_behind, nodes_matching
from edgeq.exporting.tflite.match import match_by_value
from edgeq.exporting.tflite.plan import observed_tensors
from edgeq.exporting.tflite.writer import Known, Options, TfliteModel, tensors_to_calibrate
from edgeq.runtimes.litert_observer import TfliteObserver
from edgeq.runtimes.observer import ActivationObserver

if TYPE_CHECKING:
    from edgeq.calibration.source import CalibrationSource
    from edgeq.exporting.onnx.writer import FloatModel

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
    reference = ActivationObserver(model.graph, names)
    observer = TfliteObserver(converted.content, wanted)
    image = str(model.graph.graph.inputs[0].name)
    found = [reference.observe({image: probe}) for probe in probes]
    matched = match_by_value(found, [observer.observe(converted.input.encode(probe)) for probe in probes])
    outputs = {str(value.name) for value in model.graph.graph.outputs}
    return {name: name for name in wanted if name in outputs} | matched


def collect_ranges(
    converted: TfliteModel,
    matched: Mapping[str, str],
    ranges: Ranges,
    source: CalibrationSource | None,
    precisions: Sequence[str],
    options: Options,
    out: Path,
    threads: int | None,
) -> Known:
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
    return Known(known, shared)


def translate_keep(
    model: FloatModel, converted: TfliteModel, matched: Mapping[str, str], keep: Sequence[str]
) -> list[str]:
    """Returns what `keep` means in the TFLite file: the operators that compute what the named ONNX nodes compute.

    Raises:
        InputError: an entry matches neither an ONNX node nor a TFLite operator.
    """
    produced: dict[str, list[str]] = {}
    for name, onnx_name in matched.items():
        produced.setdefault(onnx_name, []).append(name)
    own = {converted.graph.tensors[index].name for operator in converted.graph.operators for index in operator.outputs}
    own |= {operator.kind for operator in converted.graph.operators}
    kept: list[str] = []
    for pattern in keep:
        if pattern in own:
            kept.append(pattern)
            continue
        names, lost = [], []
        for node in nodes_matching(model.graph, pattern):
            if data_inputs(node):
                layer = linear_of(node)
                # A product without its bias stands in no TFLite file.
                last = node if layer is None else layer.add or node
                values = (node.outputs[0], activation_behind(last))
                found = [name for value in values for name in produced.get(str(value.name), [])]
                names += found
                if not found and weight_of(node) is not None:
                    lost.append(str(node.name))
        if not names:
            raise InputError(
                f"`keep` {pattern!r}: the nodes that it matches have no counterpart in the TFLite file; name a TFLite "
                f"operator by its output, like {sorted(own)[0]}"
            )
        if lost:
            _log.warning("`keep` %r: no counterpart in the TFLite file for %s", pattern, ", ".join(lost))
        kept += dict.fromkeys(names)
    return kept
