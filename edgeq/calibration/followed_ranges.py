"""Ranges of a TFLite file from the calibration of the ONNX graph that it was converted from.

A tensor of the file has, in this order, the range of an ONNX tensor with the same values; what arithmetic on histograms
makes of ONNX tensors that lead to it; what images show; or what the inputs show that were kept with the ranges.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeq.calibration.calibrate import calibrate
from edgeq.calibration.observed_model import ObservedTfliteModel
from edgeq.calibrators import BEST, Histogram, HistogramBuilder
from edgeq.calibrators.candidates import FALLBACK
from edgeq.calibrators.ranges import Ranges
from edgeq.errors import MismatchError
from edgeq.exporting.tflite.follow import Followed, fused_limits
from edgeq.exporting.tflite.match import Line, match_by_value, match_lines
from edgeq.exporting.tflite.plan import real_activations
from edgeq.exporting.tflite.writer import RangeSources, TfliteModel, TfliteOptions, tensors_to_calibrate
from edgeq.notes import log_of
from edgeq.sources.formats import get_format

if TYPE_CHECKING:
    from edgeq.calibration.source import CalibrationSource
    from edgeq.exporting.onnx.writer import FloatModel

_SHOWN = 5

_log = log_of(__name__)


@dataclass(frozen=True)
class Matched:
    """What the tensors of a TFLite file have in common with those of an ONNX graph.

    Attributes:
        twins: TFLite tensor -> the ONNX tensor with the same values; the outputs by their names.
        lines: TFLite tensor -> the ONNX tensor that it is a multiple of, plus an offset, cut off at its limits.
    """

    twins: Mapping[str, str]
    lines: Mapping[str, Line] = field(default_factory=dict)


def match_tensors(
    model: FloatModel, converted: TfliteModel, names: Sequence[str], probes: Sequence[np.ndarray]
) -> Matched:
    """Returns what the TFLite tensors have in common with ONNX tensors, by their values.

    Args:
        model: The ONNX graph.
        converted: The TFLite file of the same model.
        names: ONNX tensors to look for.
        probes: Inputs `(1, 3, H, W)` that both are run on.
    """
    graph = converted.graph
    wanted = real_activations(graph)
    reference = get_format(model.format).function("observe")(model, names)
    observer = get_format(converted.format).function("observe")(converted, wanted)
    found, others = [reference(probe) for probe in probes], [observer(probe) for probe in probes]
    outputs = {str(value.name) for value in model.graph.graph.outputs}
    twins = {name: name for name in wanted if name in outputs} | match_by_value(found, others)
    producers = {graph.tensors[index].name: operator for index, operator in graph.producer.items()}
    limits = {name: fused_limits(producers[name]) for name in wanted if name in producers and name not in twins}
    lines = match_lines(found, others, {name: ends for name, ends in limits.items() if ends is not None})
    return Matched(twins, lines)


def collect_ranges(
    converted: TfliteModel,
    matched: Matched,
    ranges: Ranges,
    source: CalibrationSource | None,
    precisions: Sequence[str],
    options: TfliteOptions,
    out: Path,
    threads: int | None,
) -> RangeSources:
    """Returns the ranges of the tensors that the files need.

    Args:
        converted: The float TFLite file.
        matched: What its tensors have in common with those of the ONNX graph.
        ranges: Ranges of the ONNX graph.
        source: Where the images are, if the ranges do not suffice.
        precisions: Of the files to write.
        options: How they are written.
        out: Folder for the ranges of what is measured on images.
        threads: CPU threads for calibration.

    Raises:
        MismatchError: arithmetic leads to no range of a tensor, and there are neither images nor kept inputs.
    """
    needed = tensors_to_calibrate(converted, precisions, options)
    known = follow_ranges(converted, matched, ranges, needed)
    shared = len(known)
    rest = [name for name in needed if name not in known]
    sampled: tuple[str, ...] = ()
    if rest and source is not None and source.has_images:
        path = out / f"{converted.name}.tflite.ranges.json"
        method, chosen = _method(ranges)
        own = calibrate(
            converted, source.data(), path, tensors=rest, method=method, options=chosen, num=source.num,
            threads=threads, keep_samples=0,
        ).ranges  # fmt: skip
        known |= {name: (own, name) for name in rest}
    elif rest:
        own = _measured_on_samples(converted, ranges, rest, threads)
        known |= {name: (own, name) for name in rest}
        sampled = tuple(rest)
    _log.info("%d of %d TFLite tensors share the ranges of the ONNX graph", shared, len(needed))
    return RangeSources(known, shared, sampled)


def follow_ranges(
    converted: TfliteModel, matched: Matched, ranges: Ranges, needed: Sequence[str]
) -> dict[str, tuple[Ranges, str]]:
    """Returns TFLite tensor -> the ranges that hold it, and its name in them, for those that arithmetic leads to."""
    twins = {name: twin for name, twin in matched.twins.items() if twin in ranges.tensors}
    histograms = {name: ranges.histograms[twin] for name, twin in twins.items() if twin in ranges.histograms}
    for name, line in matched.lines.items():
        if line.name in ranges.histograms and name not in twins:
            histograms[name] = ranges.histograms[line.name].mapped(line.of)
    followed = Followed(converted.graph, twins, histograms)
    known: dict[str, tuple[Ranges, str]] = {}
    computed: dict[str, Histogram] = {}
    for name in needed:
        twin, histogram = followed.same(name), None
        if twin is None:
            histogram = followed.histogram(name)
        if twin is None and histogram is None:
            twin = followed.whole(name)
        if twin is not None:
            known[name] = ranges, twin
        elif histogram is not None:
            computed[name] = histogram
    if computed:
        method, options = _method(ranges)
        own = Ranges.from_histograms(computed, ranges.provenance, method, **options)
        known |= {name: (own, name) for name in computed}
    return known


def _measured_on_samples(converted: TfliteModel, ranges: Ranges, names: Sequence[str], threads: int | None) -> Ranges:
    """Returns the ranges of tensors of a TFLite file on the inputs that were kept, and says which tensors these are."""
    if not ranges.samples:
        raise MismatchError(
            f"the ranges hold no interval for the TFLite tensors {_listed(names)}, and no inputs to find them with; "
            "run `edgeq calibrate` again with `keep_samples` 8, or give `calib` with images"
        )
    observed = ObservedTfliteModel(converted, names, threads)
    builders = {name: HistogramBuilder() for name in names}
    for sample in ranges.samples:
        for name, array in observed.observe(sample.array()).items():
            builders[name].update(array)
    _log.info(
        "no calibrated tensor leads to %d TFLite tensors: %s; their ranges are from the %d inputs that were kept",
        len(names), _listed(names), len(ranges.samples),
    )  # fmt: skip
    provenance = dataclasses.replace(ranges.provenance, images=len(ranges.samples))
    method, options = _method(ranges)
    histograms = {name: builder.histogram() for name, builder in builders.items()}
    return Ranges.from_histograms(histograms, provenance, method, **options)


def _method(ranges: Ranges) -> tuple[str, dict[str, float]]:
    """Returns how ranges are found in further histograms: layers of a TFLite file cannot be run one by one."""
    return (FALLBACK, {}) if ranges.method == BEST else (ranges.method, dict(ranges.options))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
