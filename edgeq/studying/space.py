"""`Space`: the choices that a study is about, as a template, a TOML file or a command line says them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from edgeq.boundary import Positive, read_toml
from edgeq.errors import InputError
from edgeq.quantizers.recipes import RECIPES, get_recipe
from edgeq.schemes import PerAxis, PerGroup, Scheme, minmax

Granularity: TypeAlias = int | str
"""Inputs that share a scale, or `row` (one scale for each output) or `tensor` (one for the whole weight)."""

Parts: TypeAlias = tuple[str, ...]
"""Names of parts of a network (`front`), several together (`front+end`), or one of `ALL`, `EACH` and `SUBSETS`."""

ALL, EACH, SUBSETS = "all", "each", "subsets"
"""All parts together; each alone; every choice of one or more."""

ALL_IMAGES = 0
"""The number of images that methods go by, where a study does not vary it: all that are given."""

LEFT_ALONE = 16
"""Bits of a weight that a trial leaves alone: FP16; and of an activation that stays in float."""

Sample = Literal["grid", "random", "sobol", "adaptive"]
"""How trials are chosen from a space: all, drawn, spread by a Sobol sequence, or where the front is in doubt."""

DETECTOR_EDGE = "detector-edge"
"""The study that compares files of a model in engines, and has no space."""

AXES = ("bits", "granularity", "method", "calibration", "activation", "component", "block", "layer")
"""The axes of a space."""

_BITS = (*range(2, 9), LEFT_ALONE)
_GROUPS = range(2, 1025)
_MAX_BLOCKS = 64
_MOST_IMAGES = 100_000


class _Axes(msgspec.Struct, forbid_unknown_fields=True):
    """The table `[axes]` of a file."""

    bits: list[int] | None = None
    granularity: list[int | str] | None = None
    method: list[str] | None = None
    calibration: list[int] | None = None
    activation: list[int] | None = None
    component: list[str] | None = None
    block: list[str] | None = None
    layer: list[str] | None = None


class _Choices(msgspec.Struct, forbid_unknown_fields=True):
    """An entry `[[further]]` of a file."""

    axes: _Axes = msgspec.field(default_factory=_Axes)
    blocks: Positive | None = None
    mixed: bool = False


class _File(msgspec.Struct, forbid_unknown_fields=True):
    """A file that declares a space."""

    question: str = ""
    axes: _Axes = msgspec.field(default_factory=_Axes)
    blocks: Positive | None = None
    mixed: bool = False
    further: list[_Choices] = msgspec.field(default_factory=list)


@dataclass(frozen=True)
class Variant:
    """How the weight of a layer is stored.

    Attributes:
        bits: 2 to 8.
        granularity: What shares a scale.
        method: A name of `edgeq.quantizers.recipes.RECIPES`.
        calibration: How many images a method goes by that reads any.
    """

    bits: int
    granularity: Granularity
    method: str
    calibration: int = ALL_IMAGES

    @classmethod
    def of(cls, bits: int, granularity: Granularity, method: str, calibration: int) -> Variant:
        """Returns how a weight is stored; what reads no images has no number of them."""
        return cls(bits, granularity, method, calibration if get_recipe(method).reads_inputs else ALL_IMAGES)

    def __str__(self) -> str:
        stored = f"w{self.bits} {self.method} {granularity_name(self.granularity)}"
        return f"{stored}{calibration_name(self.calibration)}"

    @property
    def scheme(self) -> Scheme:
        """The scheme of a matrix `(out, in)`; `tensor` is the min-max formula of published sweeps."""
        if self.granularity == "tensor":
            return minmax(self.bits)
        along = PerAxis(0) if self.granularity == "row" else PerGroup(int(self.granularity), 1)
        return Scheme(bits=self.bits, signed=False, symmetric=False, granularity=along)

    def stored_bits(self, outputs: int, inputs: int) -> int:
        """Returns the bits of a matrix with its scales (FP32) and zero points.

        AWQ's scales of channels go into the layer before and are not counted.

        Args:
            outputs: Its rows.
            inputs: Its columns.
        """
        if self.granularity == "tensor":
            scales = 1
        else:
            scales = outputs * (1 if self.granularity == "row" else -(-inputs // int(self.granularity)))
        zero = 32 if self.scheme.real_zero else self.bits
        return self.bits * outputs * inputs + scales * (32 + zero)


@dataclass(frozen=True)
class Space:
    """The choices of a study.

    Attributes:
        bits: Bits of weights; 16 leaves a layer alone.
        granularity: What shares a scale.
        method: Names of weight methods.
        calibration: How many images methods go by that read any; `ALL_IMAGES` is all that are given.
        activation: Bits of what quantized layers read: 8, with a range of each run, or 16 for floats.
        component: Components that are quantized.
        block: Groups of blocks that are quantized.
        layer: Kinds of layers that are quantized.
        blocks: Number of the groups of blocks.
        mixed: Whether each cell (component, group of blocks, kind) has its own bits, instead of some cells having
            the same bits and the others FP16.
        question: What it asks, in a sentence.
        further: More choices, whose trials are added; they have none of their own.

    Raises:
        InputError: an axis has no values, one twice, or one that there is not.
    """

    bits: tuple[int, ...] = (2, 3, 4, 8)
    granularity: tuple[Granularity, ...] = (32,)
    method: tuple[str, ...] = ("rtn",)
    calibration: tuple[int, ...] = (ALL_IMAGES,)
    activation: tuple[int, ...] = (LEFT_ALONE,)
    component: Parts = (ALL,)
    block: Parts = (ALL,)
    layer: Parts = (ALL,)
    blocks: int = 3
    mixed: bool = False
    question: str = ""
    further: tuple[Space, ...] = ()

    def __post_init__(self) -> None:
        for axis in AXES:
            values = getattr(self, axis)
            if not values or len(set(values)) != len(values):
                raise InputError(f"the axis {axis} has {list(values)}: wanted one or more values, each once")
        _require("bits", self.bits, _BITS, "2 to 8, or 16 for FP16")
        _require("activation", self.activation, (8, LEFT_ALONE), "8, or 16 for floats")
        _require("method", self.method, tuple(RECIPES), ", ".join(RECIPES))
        wanted = "row, tensor, or the inputs that share a scale, 2 to 1024"
        _require("granularity", self.granularity, ("row", "tensor", *_GROUPS), wanted)
        if self.calibration != (ALL_IMAGES,):
            _require("calibration", self.calibration, range(1, _MOST_IMAGES + 1), f"images, 1 to {_MOST_IMAGES:,}")
            if not any(get_recipe(method).reads_inputs for method in self.method):
                raise InputError(
                    f"the axis calibration has {list(self.calibration)}: {', '.join(self.method)} reads no images; add "
                    "a method that does, such as gptq"
                )
        if not 1 <= self.blocks <= _MAX_BLOCKS:
            raise InputError(f"`blocks` {self.blocks}: wanted 1 to {_MAX_BLOCKS} groups of blocks")

    def most_images(self, given: int) -> int:
        """Returns how many images methods go by at most, if so many are given without the axis `calibration`."""
        return max(max(each.calibration) for each in (self, *self.further)) or given

    def to_json(self) -> dict[str, object]:
        """Returns the space as JSON."""
        return dataclasses.asdict(self)


def _require(axis: str, values: Sequence[Granularity], known: Sequence[Granularity], wanted: str) -> None:
    for value in values:
        if value not in known:
            raise InputError(f"the axis {axis} has {value!r}: wanted {wanted}")


def template_names() -> tuple[str, ...]:
    """Returns the names of the studies that ship with edgeq."""
    found = resources.files("edgeq") / "data" / "studies"
    return tuple(sorted(each.name.removesuffix(".toml") for each in found.iterdir() if each.name.endswith(".toml")))


def read_space(source: Path | None, template: str | None) -> Space:
    """Returns the space of a file or of a template; without either the default one.

    Raises:
        InputError: both are given, there is no such template, or the file says something else than a space.
    """
    if source is not None and template is not None:
        raise InputError(f"`space` {source} and `template` {template} are given; omit one of them")
    if template is not None:
        if template == DETECTOR_EDGE:
            raise InputError(
                f"`template` {template}: compares files in engines and has no axes; run `edgeq study`, or export, "
                "evaluate and benchmark the files"
            )
        if template not in template_names():
            known = ", ".join((*template_names(), DETECTOR_EDGE))
            raise InputError(f"`template` {template}: no such study; wanted one of {known}")
        with resources.as_file(resources.files("edgeq") / "data" / "studies" / f"{template}.toml") as path:
            return _space(path)
    return Space() if source is None else _space(source)


def with_axes(space: Space, axes: Mapping[str, Sequence[str | int]], blocks: int | None, mixed: bool | None) -> Space:
    """Returns a space with other values of some axes.

    Args:
        space: The space; `further` choices are changed alike.
        axes: Name of an axis -> its values.
        blocks: Number of the groups of blocks; `None` leaves it.
        mixed: Whether each cell has its own bits; `None` leaves it.

    Raises:
        InputError: there is no such axis, or no such value.
    """
    further = tuple(with_axes(each, axes, blocks, mixed) for each in space.further)
    changed: dict[str, object] = {}
    for axis, values in axes.items():
        if axis not in AXES:
            raise InputError(f"no axis {axis!r}; wanted one of {', '.join(AXES)}")
        changed[axis] = tuple(_number(axis, value) for value in values)
    changed |= {} if blocks is None else {"blocks": blocks}
    changed |= {} if mixed is None else {"mixed": mixed}
    return dataclasses.replace(space, further=further, **changed)  # type: ignore[arg-type]


def parse_axis(text: str) -> tuple[str, tuple[str, ...]]:
    """Returns the name and the values of `bits=2,3,4`.

    Raises:
        InputError: it is no such text.
    """
    name, equals, values = text.partition("=")
    if not equals:
        raise InputError(f"the axis {text!r}: wanted NAME=VALUE,VALUE, such as bits=2,3,4")
    return name.strip(), tuple(value.strip() for value in values.split(",") if value.strip())


def _number(axis: str, value: str | int) -> str | int:
    """Returns a value of a command line as the axis has it."""
    is_number = (
        axis in ("bits", "granularity", "calibration", "activation") and isinstance(value, str) and value.isdecimal()
    )
    return int(value) if is_number else value


def _space(path: Path) -> Space:
    stated = read_toml(path, _File, kind="a study's space", advice="see docs/study.md")
    try:
        further = tuple(map(_stated, stated.further))
        return dataclasses.replace(_stated(stated), question=stated.question, further=further)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _stated(choices: _File | _Choices) -> Space:
    """Returns the axes of a file, or of one entry of it."""
    axes = {axis: values for axis in AXES if (values := getattr(choices.axes, axis)) is not None}
    return with_axes(Space(), axes, choices.blocks, choices.mixed)


def granularity_name(granularity: Granularity) -> str:
    """Returns what tables call what shares a scale: `g32`, `row`, `tensor`."""
    return f"g{granularity}" if isinstance(granularity, int) else granularity


def calibration_name(images: int) -> str:
    """Returns what follows how weights are stored: the number of images, or nothing if the study does not vary it."""
    return "" if images == ALL_IMAGES else f" c{images}"


def activation_name(bits: int) -> str:
    """Returns what follows how weights are stored: nothing if activations are floats, or else ` a8`."""
    return "" if bits == LEFT_ALONE else f" a{bits}"
