"""Trials as TFLite files: which operators a layer of the graph is, and the file that computes some of them in float.

Layers are those of the ONNX graph, in which they are screened too. A file is converted once, and its tensors share
the ranges of the graph (`edgeq.calibration.shared_ranges`). An operator that no layer of the graph is matched with has
the precision of the layer whose result it reads: a depthwise head, for example, which only TFLite files have in INT8.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from edgeq.calibration.followed_ranges import collect_ranges, match_tensors
from edgeq.calibration.shared_ranges import computed_twins, operators_of, twins_of_nodes
from edgeq.calibration.source import CalibrationSource
from edgeq.calibrators.ranges import Ranges
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.onnx.writer import FloatModel, quantizable_graph
from edgeq.exporting.planning.selection import select_layers
from edgeq.exporting.tflite.graph import Graph
from edgeq.exporting.tflite.keep import operator_name
from edgeq.exporting.tflite.writer import RangeSources, TfliteModel, TfliteOptions, plan, write
from edgeq.targets import Target

_REASON = "kept by the search"


@dataclass(frozen=True)
class TfliteFiles:
    """Writes trials as TFLite files.

    Attributes:
        converted: The float TFLite file of the model.
        target: Whose engines run the files.
        ranges: Those of its tensors.
        operators: Name of a layer of the graph -> the operators of the file that compute it in INT8; only layers that
            have some.
    """

    converted: TfliteModel
    target: Target
    ranges: RangeSources
    operators: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(
        cls,
        model: FloatModel,
        converted: TfliteModel,
        target: Target,
        ranges: Ranges,
        layers: Collection[str],
        probes: Sequence[np.ndarray],
        calibration: CalibrationSource,
        out: Path,
        threads: int | None,
    ) -> TfliteFiles:
        """Returns what writes trials of a model.

        Args:
            model: The ONNX graph.
            converted: The TFLite file of the same model.
            target: Whose engines run the files.
            ranges: Ranges of the graph.
            layers: Names of the layers of the graph that may be in INT8.
            probes: Inputs `(1, C, H, W)` that both are run on, to find out which tensors are the same.
            calibration: Where the images are, if the ranges do not suffice.
            out: Folder for the ranges of what the graph has no counterpart of.
            threads: CPU threads for calibration.

        Raises:
            MismatchError: the ranges do not suffice, and there are neither images nor kept inputs.
        """
        options = TfliteOptions(target_schemes=target.tflite)
        matched = match_tensors(model, converted, list(ranges.tensors), probes)
        known = collect_ranges(converted, matched, ranges, calibration, ("int8",), options, out, threads)
        twins = computed_twins(converted, matched) | twins_of_nodes(model, converted, layers, probes)
        in_int8 = {each.name for each in plan(converted, "int8", options).values() if not each.is_float}
        matching = {name: layer for layer in layers for name in operators_of(model, twins, (layer,))[0]}
        operators: dict[str, list[str]] = {}
        for name, layer in owners_of(converted.graph, matching).items():
            if name in in_int8:
                operators.setdefault(layer, []).append(name)
        return cls(converted, target, known, {layer: tuple(names) for layer, names in operators.items()})

    def write(self, layers: Collection[str], method: str | None, folder: Path) -> Artifact:
        """Returns the file that computes some layers in INT8, and all others that it has in float.

        Args:
            layers: Names of layers of the graph; without any it is the float file.
            method: The method that ranges are computed by; `None` takes them as they were calibrated.
            folder: Where to write it.
        """
        if not layers:
            return write(self.converted, self.target.name, "fp32", folder, TfliteOptions())
        kept = {name: _REASON for layer, names in self.operators.items() if layer not in layers for name in names}
        options = TfliteOptions(kept, target_schemes=self.target.tflite)
        return write(self.converted, self.target.name, "int8", folder, options, self._by_method(method))

    def _by_method(self, method: str | None) -> RangeSources:
        if method not in self._sources:
            used = {id(ranges): ranges for ranges, _ in self.ranges.tensors.values()}
            changed = {
                key: ranges if method in (None, ranges.method) else ranges.with_method(str(method))
                for key, ranges in used.items()
            }
            tensors = {name: (changed[id(ranges)], key) for name, (ranges, key) in self.ranges.tensors.items()}
            self._sources[method] = replace(self.ranges, tensors=tensors)
        return self._sources[method]

    @cached_property
    def _sources(self) -> dict[str | None, RangeSources]:
        return {}


def screened_target(model: FloatModel, target: Target) -> Target:
    """Returns the target by whose rules a graph is screened for what TFLite files have in INT8.

    That is more than the target's other engine runs so: depthwise layers, or layers before a SiLU, without which there
    is nothing left of YOLOX-nano. LiteRT rounds what a layer writes, as that engine does. Where that loses no layer,
    files are screened so, which is nearer to what they compute; otherwise depthwise layers are as the layer before
    them, because no calibration has seen all that they read.

    Args:
        model: The graph.
        target: The target, with its rules for ONNX files.
    """
    rules = target.rules.of_any_size
    rounded, free = rules.requested("DepthwiseConv"), replace(rules, output_pairs="none")
    graph, _ = quantizable_graph(model, target)
    has_all = select_layers(graph, rounded).quantized >= select_layers(graph, free).quantized
    return replace(target, rules=rounded if has_all else free)


def owners_of(graph: Graph, matching: Mapping[str, str]) -> dict[str, str]:
    """Returns name of an operator -> its layer, also of those that read what a layer, or such an operator, gives."""
    owners = dict(matching)
    for operator in graph.operators:
        producers = (graph.producer[index] for index in graph.activations(operator) if index in graph.producer)
        before = (owners.get(operator_name(graph, producer)) for producer in producers)
        owner = next((layer for layer in before if layer is not None), None)
        if owner is not None:
            owners.setdefault(operator_name(graph, operator), owner)
    return owners
