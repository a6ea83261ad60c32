"""Trials: files of one model that differ in how their layers are computed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import edgeq
from edgeq.calibration.mean_errors import mean_errors
from edgeq.calibrators.ranges import Ranges
from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.jobs import MeanErrors, Reconstruct
from edgeq.exporting.onnx.writer import (
    FloatModel,
    engine_graph,
    plan_int8,
    quantizable_graph,
    write_fp32,
    write_int8,
)
from edgeq.exporting.planning.keep import Kept, VitPlan, resolve_keep
from edgeq.exporting.planning.plan import QuantPlan
from edgeq.exporting.planning.selection import Selection, select_layers
from edgeq.files import sha256_json
from edgeq.notes import without_notes
from edgeq.targets import Target
from edgeq.tuning.candidate import AS_CALIBRATED, FLOAT, INT8, W4A8, Candidate, Recipe
from edgeq.tuning.groups import By, LayerGroup, find_groups
from edgeq.tuning.tflite_files import TfliteFiles

_PATTERN = "trial"

_NAMED = 6
"""A title names so many groups at most."""


@dataclass(frozen=True)
class Calibrated:
    """A float model and the ranges of its tensors."""

    model: FloatModel
    ranges: Ranges


@dataclass(frozen=True)
class LearnedRounding:
    """What learns the rounding of weights.

    Attributes:
        learn: Does so for a plan.
        digest: Of the inputs that it learns on.
    """

    learn: Reconstruct
    digest: str


@dataclass(frozen=True)
class Subject:
    """What trials are made from.

    Attributes:
        model: The float model.
        target: Whose rules say which layers run in INT8, and how.
        ranges: Calibrated ranges of the model.
        by: Whether layers or blocks are tried.
        vit_plan: What of a transformer may run in INT8.
        rescaled: Way of rescaling -> the model with rescaled channels, and its ranges, for recipes that want it.
        rounding: Learns rounding, for recipes that want it.
        files: Writes trials as TFLite files; by default they are ONNX files.
    """

    model: FloatModel
    target: Target
    ranges: Ranges
    by: By
    vit_plan: VitPlan = "balanced"
    rescaled: Mapping[str, Calibrated] = field(default_factory=dict)
    rounding: LearnedRounding | None = None
    files: TfliteFiles | None = None

    @cached_property
    def groups(self) -> tuple[LayerGroup, ...]:
        """The groups of the layers that the target runs in INT8, in the order of the network.

        Raises:
            InputError: it runs none.
        """
        found = self._all_groups
        if self.files is not None:
            found = tuple(group for group in found if not self.files.operators.keys().isdisjoint(group.layers))
        if not found:
            raise InputError(
                f"{self.model.name}: {self.target.name} runs none of its layers in INT8, so there is nothing to try; "
                "choose another `target`"
            )
        return found

    @cached_property
    def selection(self) -> Selection:
        """What the target runs in INT8 by its rules."""
        graph, _ = quantizable_graph(self.model, self.target)
        return select_layers(graph, self.target.rules, self._kept, self.vit_plan)

    @cached_property
    def _all_groups(self) -> tuple[LayerGroup, ...]:
        return find_groups(self.selection, self.by)

    @property
    def may_correct_biases(self) -> bool:
        """Whether there are inputs to correct biases on, and files that are written with such."""
        return bool(self.ranges.samples) and self.files is None

    @cached_property
    def four_bits(self) -> frozenset[str]:
        """Names of the layers whose weights may have 4 bits; none if the target's engines take no such files."""
        if self.files is not None:
            return frozenset()
        graph, _ = quantizable_graph(self.model, self.target)
        selection = select_layers(graph, self.target.rules.in_w4a8, self._kept, self.vit_plan)
        return frozenset(each.name for each in selection.decisions if each.scheme.is_w4a8)

    def plan(self) -> QuantPlan:
        """Returns the plan of the file with all groups in INT8."""
        with without_notes():
            return plan_int8(self.model, self.target, self.ranges, self._kept, self.vit_plan)[1]

    @staticmethod
    def of_groups(groups: Collection[LayerGroup], recipe: Recipe = AS_CALIBRATED, precision: str = INT8) -> Candidate:
        """Returns the candidate in which exactly these groups are quantized, all to one precision."""
        return Candidate({group.name: precision for group in groups}, recipe)

    def layers(self, candidate: Candidate) -> dict[str, str]:
        """Returns name of a layer -> its precision, for those that are not in float."""
        return {
            layer: INT8 if precision == W4A8 and layer not in self.four_bits else precision
            for group in self.groups
            if (precision := candidate.precision(group.name)) != FLOAT
            for layer in group.layers
            if layer not in candidate.in_float
        }

    def plan_digest(self, candidate: Candidate) -> str:
        """Identifies which layers are computed in which precision, on which grids, by which rules and repairs.

        The float file is the same whatever the recipe. Another version of edgeq, or other grids of weights, may make
        another file of the same layers.
        """
        precisions = self.layers(candidate)
        layers = sorted(name if precision == INT8 else f"{name}:{precision}" for name, precision in precisions.items())
        recipe = candidate.recipe if layers else AS_CALIBRATED
        repairs: dict[str, Any] = {"rescale": recipe.rescale, "corrects_biases": recipe.corrects_biases}
        if recipe.learns_rounding:
            repairs["rounding"] = self._rounding.digest
        further: list[Any] = [] if recipe == Recipe(recipe.method) else [repairs]
        further += [] if self.files is None else [self.files.converted.digest]
        source, rules = self._source(recipe), self.target.rules
        schemes = {operator: [str(scheme) for scheme in found] for operator, found in rules.schemes.items()}
        made_by = [edgeq.__version__, schemes]
        return sha256_json([source.ranges.digest, self.target.name, rules.isa, layers, made_by, *further])

    def title(self, candidate: Candidate) -> str:
        """Returns what a store calls a candidate."""
        layers = self.layers(candidate)
        inside = [group.name for group in self.groups if any(layer in layers for layer in group.layers)]
        missing = [group.name for group in self.groups if not all(layer in layers for layer in group.layers)]
        if not inside:
            return "float"
        named, text = (missing, "all in INT8 but {}") if len(missing) < len(inside) else (inside, "{} in INT8")
        title = text.format(self._some(named)) if missing else "all in INT8"
        narrow = [group.name for group in self.groups if W4A8 in map(layers.get, group.layers)]
        title += f", {self._some(narrow)} with weights of 4 bits" if narrow else ""
        return title if candidate.recipe == AS_CALIBRATED else f"{title} ({candidate.recipe})"

    def _some(self, names: list[str]) -> str:
        return f"{len(names)} {self.by}s" if len(names) > _NAMED else ", ".join(names)

    def write(self, candidate: Candidate, folder: Path) -> Artifact:
        """Returns the file of a candidate, in the format that is scored.

        Args:
            candidate: Which groups run in which precision; if all are in float, the file is the float one.
            folder: Where to write it.

        Raises:
            InputError: it wants a precision that no file is written in.
        """
        if self.files is None:
            return self.write_graph(candidate, folder)
        with without_notes():
            return self.files.write(self.layers(candidate), candidate.recipe.method, folder)

    def write_graph(self, candidate: Candidate, folder: Path) -> Artifact:
        """Returns the ONNX file of a candidate, which the screening reads.

        It is what `edgeq export --plan rules` writes if it keeps the others in float; if any layer is in `w4a8`, it is
        such a file, in which the layers in INT8 keep weights of 8 bits.

        Args:
            candidate: Which groups run in which precision; if all are in float, the file is the float one.
            folder: Where to write it.

        Raises:
            InputError: it wants a precision that no file is written in.
        """
        layers = self.layers(candidate)
        if unknown := sorted(set(layers.values()) - {INT8, W4A8}):
            raise InputError(f"precision {unknown[0]}: layers of a trial are in {FLOAT}, {INT8} or {W4A8}")
        with without_notes():
            if not layers:
                return write_fp32(self.model, self.target, folder)
            source = self._source(candidate.recipe)
            others = tuple(layer for group in self._all_groups for layer in group.layers if layer not in layers)
            kept = Kept({**self._kept.nodes, _PATTERN: others})
            errors = _mean_errors(source) if candidate.recipe.corrects_biases else None
            return write_int8(
                source.model, self.target, folder, source.ranges, kept, self.vit_plan, mean_errors=errors,
                precision="w4a8" if W4A8 in layers.values() else "int8",
                wide=[layer for layer, precision in layers.items() if precision == INT8],
                reconstruct=self._rounding.learn if candidate.recipe.learns_rounding else None,
            )  # fmt: skip

    @property
    def _rounding(self) -> LearnedRounding:
        assert self.rounding is not None  # noqa: S101 - no recipe wants it otherwise
        return self.rounding

    def _source(self, recipe: Recipe) -> Calibrated:
        """Returns the model and the ranges that a recipe starts from."""
        if recipe not in self._sources:
            plain = Calibrated(self.model, self.ranges)
            found = plain if recipe.rescale is None else self.rescaled[recipe.rescale]
            if recipe.method not in (None, found.ranges.method):
                found = Calibrated(found.model, found.ranges.with_method(str(recipe.method)))
            self._sources[recipe] = found
        return self._sources[recipe]

    @cached_property
    def _sources(self) -> dict[Recipe, Calibrated]:
        return {}

    @cached_property
    def _kept(self) -> Kept:
        return resolve_keep(engine_graph(self.model, self.target), vit_plan=self.vit_plan)


def _mean_errors(source: Calibrated) -> MeanErrors | None:
    """Returns what measures the errors that biases take back, on the inputs that were kept with the ranges."""
    feed = source.model.input
    feeds = [{feed.name: feed.encode(sample.array())} for sample in source.ranges.samples]
    return partial(mean_errors, feeds=feeds) if feeds else None
