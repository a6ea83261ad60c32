"""The trials of a study: which layers have which weights, from a space and the layers that a model has."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from edgeq.errors import InputError
from edgeq.results.study import FP16, UNIFORM_8
from edgeq.studying.components import COMPONENTS
from edgeq.studying.layers import ENDS, KINDS, StudyLayer, block_names
from edgeq.studying.sampling import draw
from edgeq.studying.space import (
    ALL,
    ALL_IMAGES,
    EACH,
    LEFT_ALONE,
    SUBSETS,
    Sample,
    Space,
    Variant,
    activation_name,
    calibration_name,
    granularity_name,
)
from edgeq.wording import counted

_MOST_TRIALS = 100_000
_MOST_SUBSETS = 6
"""More parts than this have too many subsets to try."""

_NAMED = 3
"""A sentence names so many cells at most."""


@dataclass(frozen=True)
class Cell:
    """Layers that are quantized together: those of some components, groups of blocks and kinds.

    Attributes:
        name: What it is called: `backbone, front, attention`, without what the study does not vary.
        layers: Names of its layers.
    """

    name: str
    layers: tuple[str, ...]


@dataclass(frozen=True)
class StudyTrial:
    """A choice of weights for all layers.

    Attributes:
        name: What it is called.
        cells: Name of a cell -> how its weights are stored; other layers have FP16 weights.
        weights: Name of a layer -> how its weight is stored.
        method: The method of all, empty if nothing is quantized.
        calibration: How many images it goes by, if the study varies that.
        granularity: What shares a scale, empty if nothing is quantized.
        activation: Bits of what quantized layers read.
    """

    name: str
    cells: Mapping[str, Variant] = field(default_factory=dict)
    weights: Mapping[str, Variant] = field(default_factory=dict)
    method: str = ""
    granularity: str = ""
    activation: int = LEFT_ALONE
    calibration: int = ALL_IMAGES

    @property
    def recipe(self) -> str:
        """The method, and how many images it goes by if the study varies that."""
        return f"{self.method}{calibration_name(self.calibration)}"

    @property
    def stored(self) -> str:
        """How all quantized weights are stored and multiplied, in words; empty if not all are in one way."""
        return "" if self.variant is None else f"{self.variant}{activation_name(self.activation)}"

    @property
    def variant(self) -> Variant | None:
        """How all quantized weights are stored; `None` if nothing is quantized, or not all in one way."""
        variants = set(self.weights.values())
        return next(iter(variants)) if len(variants) == 1 else None

    @cached_property
    def identity(self) -> tuple[tuple[str, str], ...]:
        """What makes it another trial than others."""
        multiplied = () if self.activation == LEFT_ALONE else (("", activation_name(self.activation)),)
        return (*multiplied, *sorted((name, str(variant)) for name, variant in self.weights.items()))


class Grid(Protocol):
    """All choices of a space.

    Attributes:
        lengths: How many values each axis has.
        cells: The cells that trials are made of.
        refused: Whether some choices cannot be.
    """

    lengths: tuple[int, ...]
    cells: tuple[Cell, ...]
    refused: bool

    def trial(self, choice: Sequence[int]) -> StudyTrial | None:
        """Returns the trial of one index per axis; `None` if it names no layer, or cannot be."""


@dataclass(frozen=True)
class Planned:
    """The trials of a study.

    Attributes:
        trials: The trials, no two alike; the mark of 16 bits first, and that of 8 last if no other trial is it.
        cells: The cells that they are made of, in the order of the network.
        asked: How many were asked for.
        space: How many the whole space has.
        notes: What was left out, and why.
        grid: What further trials are chosen from, once these are scored; `None` if all are known.
        choices: Identity of a trial -> its place in the grid, for those that came from it.
        seed: Draws the further trials.
    """

    trials: tuple[StudyTrial, ...]
    cells: tuple[Cell, ...]
    asked: int
    space: int
    notes: tuple[str, ...]
    grid: Grid | None = None
    choices: Mapping[tuple[tuple[str, str], ...], tuple[int, ...]] = field(default_factory=dict)
    seed: int = 0

    @property
    def to_come(self) -> int:
        """How many trials are chosen once others are scored."""
        return 0 if self.grid is None else max(self.asked - len(self.choices), 0)


def plan_trials(space: Space, layers: Sequence[StudyLayer], sample: Sample, trials: int | None, seed: int) -> Planned:
    """Returns the trials of a space for the layers of a model.

    Args:
        space: What is asked for.
        layers: What the model has.
        sample: How trials are chosen.
        trials: How many, for all but `grid`.
        seed: Draws them.

    Raises:
        InputError: the axes name nothing that the model has, the grid is too large, or options do not go together.
    """
    if not layers:
        raise InputError("the model has no layer with a separate weight that a study could change")
    if space.further and sample != "grid":
        raise InputError(f"`sample` {sample}: the space has several grids; try all of them, or give a space of one")
    fp16, eight = _marks(layers)
    found = {fp16.identity: fp16}
    cells: dict[str, Cell] = {}
    notes: dict[str, None] = {}
    asked = total = empty = 0
    grid: Grid | None = None
    places: dict[tuple[tuple[str, str], ...], tuple[int, ...]] = {}
    for choices in (space, *space.further):
        parts = _Parts(choices, layers)
        grid = _Mixed(choices, parts) if choices.mixed else _Uniform(choices, parts)
        numbers = draw(grid.lengths, sample, trials, seed, _MOST_TRIALS)
        made = {choice: trial for choice in numbers if (trial := grid.trial(choice)) is not None}
        for choice, trial in made.items():
            found.setdefault(trial.identity, trial)
            places.setdefault(trial.identity, choice)
        cells |= {cell.name: cell for cell in grid.cells}
        notes |= dict.fromkeys(parts.notes)
        if grid.refused:
            notes["groups of the whole tensor are for rtn; trials of other methods with them are left out"] = None
        asked, total, empty = asked + len(numbers), total + math.prod(grid.lengths), empty + len(numbers) - len(made)
    if len(found) == 1:
        raise InputError("no trial of the study names a layer of the model; choose other axes")
    found.setdefault(eight.identity, eight)
    if empty:
        notes[f"{empty:,} of {asked:,} trials name no layer of the model, or cannot be; they are not run"] = None
    planned = Planned(tuple(found.values()), tuple(cells.values()), asked, total, tuple(notes))
    if sample != "adaptive" or trials is None:
        return planned
    return dataclasses.replace(planned, asked=min(trials, total), grid=grid, choices=places, seed=seed)


class _Parts:
    """The parts of a model that a space names."""

    def __init__(self, space: Space, layers: Sequence[StudyLayer]) -> None:
        self.layers = layers
        self.notes: list[str] = []
        has = {
            "component": [each for each in COMPONENTS if any(layer.component == each for layer in layers)],
            "block": list(block_names(space.blocks)),
            "layer": [each for each in KINDS if any(layer.kind == each for layer in layers)],
        }
        known = {"component": COMPONENTS, "block": tuple(has["block"]), "layer": KINDS}
        self.values = {axis: self._values(axis, getattr(space, axis), has[axis], known[axis]) for axis in has}

    def _values(
        self, axis: str, stated: Sequence[str], has: Sequence[str], known: Sequence[str]
    ) -> list[frozenset[str]]:
        """Returns the sets of parts that an axis names."""
        inside = [each for each in has if each not in ENDS]
        named = {
            ALL: [frozenset(inside)],
            EACH: [frozenset({each}) for each in inside],
            SUBSETS: _subsets(inside) if len(inside) <= _MOST_SUBSETS else None,
        }
        found: list[frozenset[str]] = []
        for value in stated:
            if value in named:
                sets = named[value]
                if sets is None:
                    raise InputError(f"the axis {axis}: {len(inside)} parts have too many subsets; name some")
                found += sets
                continue
            parts = [each.strip() for each in value.split("+")]
            for part in parts:
                if part not in known:
                    raise InputError(f"the axis {axis} has {part!r}: wanted {', '.join((*has, ALL, EACH, SUBSETS))}")
            if missing := [part for part in parts if part not in has]:
                self.notes.append(f"{axis} {value}: the model has no {' or '.join(missing)}; not run")
            else:
                found.append(frozenset(parts))
        unique = list(dict.fromkeys(each for each in found if each))
        if not unique:
            raise InputError(f"the axis {axis} names nothing that the model has; it has {', '.join(has)}")
        return unique

    def inside(self, component: frozenset[str], block: frozenset[str], kind: frozenset[str]) -> tuple[str, ...]:
        """Returns the names of the layers that lie in all of three sets of parts."""
        return tuple(
            each.name
            for each in self.layers
            if each.component in component and each.block in block and each.kind in kind
        )

    def title(self, component: frozenset[str], block: frozenset[str], kind: frozenset[str]) -> str:
        """Returns the name of a cell, without the axes that do not vary."""
        chosen = {"component": component, "block": block, "layer": kind}
        varied = [axis for axis in chosen if len(self.values[axis]) > 1]
        return ", ".join(self._joined(axis, chosen[axis]) for axis in varied) or "all layers"

    def _joined(self, axis: str, parts: frozenset[str]) -> str:
        order = list(dict.fromkeys(getattr(layer, "kind" if axis == "layer" else axis) for layer in self.layers))
        return "+".join(sorted(parts, key=lambda part: order.index(part) if part in order else len(order)))

    def products(self) -> Iterator[tuple[frozenset[str], frozenset[str], frozenset[str]]]:
        """Yields every choice of sets of parts."""
        yield from itertools.product(self.values["component"], self.values["block"], self.values["layer"])


class _Uniform:
    """Trials in which all quantized layers have weights of one kind."""

    def __init__(self, space: Space, parts: _Parts) -> None:
        self._space, self._parts = space, parts
        self._products = list(parts.products())
        choices = (
            space.bits, space.granularity, space.method, space.calibration, space.activation, self._products
        )  # fmt: skip
        self.lengths = tuple(map(len, choices))
        self.refused = _has_refused(space)
        named = {parts.title(*each): parts.inside(*each) for each in self._products}
        self.cells = tuple(Cell(name, layers) for name, layers in named.items() if layers)

    def trial(self, choice: Sequence[int]) -> StudyTrial | None:
        space, where, activation = self._space, self._products[choice[5]], self._space.activation[choice[4]]
        bits, granularity, method = space.bits[choice[0]], space.granularity[choice[1]], space.method[choice[2]]
        variant = Variant.of(bits, granularity, method, space.calibration[choice[3]])
        layers = self._parts.inside(*where)
        if not layers or not _is_possible(variant) or variant.bits == LEFT_ALONE:
            return None
        cell = self._parts.title(*where)
        stored = granularity_name(variant.granularity)
        return StudyTrial(
            f"{variant}{activation_name(activation)}: {cell}", {cell: variant}, dict.fromkeys(layers, variant),
            variant.method, stored, activation, variant.calibration,
        )  # fmt: skip


class _Mixed:
    """Trials in which each cell has its own bits."""

    def __init__(self, space: Space, parts: _Parts) -> None:
        self._space = space
        named = {parts.title(*each): parts.inside(*each) for each in parts.products()}
        self.cells = tuple(Cell(name, layers) for name, layers in named.items() if layers)
        taken = [layer for cell in self.cells for layer in cell.layers]
        if len(set(taken)) != len(taken):
            raise InputError("in a mixed study each layer is of one cell; name parts once, as with `each`")
        common = (space.granularity, space.method, space.calibration, space.activation)
        self.lengths = (*map(len, common), *[len(space.bits)] * len(self.cells))
        self.refused = _has_refused(space)

    def trial(self, choice: Sequence[int]) -> StudyTrial | None:
        space = self._space
        granularity, method = space.granularity[choice[0]], space.method[choice[1]]
        activation, bits = space.activation[choice[3]], [space.bits[each] for each in choice[4:]]
        images = Variant.of(LEFT_ALONE, granularity, method, space.calibration[choice[2]]).calibration
        cells = {
            cell.name: Variant(count, granularity, method, images)
            for cell, count in zip(self.cells, bits, strict=True)
            if count != LEFT_ALONE
        }
        if not cells or not all(map(_is_possible, cells.values())):
            return None
        layers = {layer: cells[cell.name] for cell in self.cells if cell.name in cells for layer in cell.layers}
        stored = granularity_name(granularity)
        name = f"{'-'.join(map(str, bits))} {method} {stored}{calibration_name(images)}{activation_name(activation)}"
        return StudyTrial(name, cells, layers, method, stored, activation, images)


def _is_possible(variant: Variant) -> bool:
    """Returns whether a method makes such weights: the min-max formula is one of rounding."""
    return variant.granularity != "tensor" or variant.method == "rtn"


def _has_refused(space: Space) -> bool:
    return "tensor" in space.granularity and any(method != "rtn" for method in space.method)


def _marks(layers: Sequence[StudyLayer]) -> list[StudyTrial]:
    """Returns the trials that every study has: nothing quantized, and everything rounded to 8 bits."""
    names = [each.name for each in layers if each.kind not in ENDS] or [each.name for each in layers]
    eight = Variant(8, "row", "rtn")
    return [
        StudyTrial(FP16),
        StudyTrial(UNIFORM_8, {"all layers": eight}, dict.fromkeys(names, eight), eight.method, "row"),
    ]


def _subsets(parts: Sequence[str]) -> list[frozenset[str]]:
    return [frozenset(chosen) for count in range(1, len(parts) + 1) for chosen in itertools.combinations(parts, count)]


def described(cells: Sequence[Cell]) -> str:
    """Returns what a study is made of, in words."""
    named = ", ".join(f"{cell.name} ({counted(len(cell.layers), 'layer')})" for cell in cells[:_NAMED])
    return named if len(cells) <= _NAMED else f"{named} and {len(cells) - _NAMED} more"
