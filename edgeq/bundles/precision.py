"""The precision of each part: `vision=int8`, `decoder=w4g128-gptq`, and presets for all of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from edgeq.bundles.contents import TABLE
from edgeq.calibrators import get_method
from edgeq.errors import InputError
from edgeq.memory.storage import scheme_of
from edgeq.quantizers.recipes import BY_INPUTS, get_recipe
from edgeq.schemes import PerGroup, Scheme

HEAD = "head"
"""What `part` calls the decoder's last layer, which scores the tokens. It is in the decoder's file."""

FLOATS = ("fp32", "fp16")

STATIC = "int8"
"""Weights and activations in 8 bits, by ranges of calibration images: for parts that read images."""

_STATIC_PARTS = ("vision",)

PRESETS: Mapping[str, Mapping[str, str]] = {
    "asymmetric": {"decoder": "w4g128", "text": "w4g128", "encoder": "w4g128"},
    "uniform-8": dict.fromkeys(("vision", "connector", "decoder", "text", "encoder", HEAD), "w8g128"),
    "uniform-4": dict.fromkeys(("vision", "connector", "decoder", "text", "encoder", HEAD), "w4g128"),
}
"""Preset -> precision of the parts that are not in FP16. Tables of words are FP16 in all of them."""

_CODEBOOK_METHOD = "rtn"
_RANGES_METHOD = "lp"


@dataclass(frozen=True)
class Precision:
    """How the weights of a part are stored.

    Attributes:
        name: `fp32`, `fp16`, `int8`, `nf4`, or bits and groups: `w4g128`, `w4g32a`.
        method: A name of `edgeq.quantizers.recipes.RECIPES`, of `int8` one of `edgeq.calibrators.METHODS`; empty for
            floats, and where it is left to whether there is something to calibrate on.
    """

    name: str
    method: str = ""

    @property
    def is_float(self) -> bool:
        """Whether nothing is quantized."""
        return self.name in FLOATS

    @property
    def is_static(self) -> bool:
        """Whether activations are quantized, too."""
        return self.name == STATIC

    @property
    def group_size(self) -> int:
        """Inputs that share a scale.

        Raises:
            InputError: each output has one scale, for which engines have no kernel.
        """
        granularity = scheme_of(self.name).granularity
        if not isinstance(granularity, PerGroup):
            raise InputError(
                f"precision {self.name}: has no group of inputs that share a scale; engines compute weights of few "
                f"bits in groups, write {self.name.removesuffix('a')}g128 for example"
            )
        return granularity.size

    @property
    def scheme(self) -> Scheme:
        """How a weight is stored: unsigned integers, as kernels take them, or a codebook's."""
        found, size = scheme_of(self.name), self.group_size
        if found.codebook is not None:
            return found
        return Scheme(bits=found.bits, signed=False, symmetric=found.symmetric, granularity=PerGroup(size))

    def resolved(self, *, has_samples: bool) -> Precision:
        """Returns the precision with its method.

        Args:
            has_samples: Whether there is something to calibrate on.

        Raises:
            InputError: the method needs what there is not.
        """
        if self.is_float:
            return self
        if self.is_static:
            if not has_samples:
                raise InputError(f"precision {STATIC}: is calibrated on images; add `calib` with images of this part")
            return Precision(self.name, self.method or _RANGES_METHOD)
        default = BY_INPUTS if has_samples and self.scheme.codebook is None else _CODEBOOK_METHOD
        method = self.method or default
        if get_recipe(method).reads_inputs and not has_samples:
            raise InputError(
                f"precision {self.name}-{method}: {method} reads what layers are given; add `calib` with inputs of "
                f"this part, or write {self.name}-rtn or {self.name}-hqq"
            )
        if self.scheme.codebook is not None and method != _CODEBOOK_METHOD:
            raise InputError(f"precision {self.name}-{method}: {self.name} is rounded to nearest; write {self.name}")
        return Precision(self.name, method)


def parse_precision(text: str) -> Precision:
    """Returns the precision that a text such as `w4g128-gptq` means.

    Raises:
        InputError: there is no such precision or method.
    """
    name, _, method = text.strip().partition("-")
    found = Precision(name, method)
    if found.is_float:
        if method:
            raise InputError(f"precision {text!r}: {name} has no method; write {name}")
        return found
    if found.is_static:
        if method:
            get_method(method)
        return found
    scheme_of(name)
    found.group_size  # noqa: B018 - refuses what has none
    if method:
        get_recipe(method)
    return found


def precisions_of(parts: Sequence[str], preset: str | None, stated: Collection[str]) -> dict[str, Precision]:
    """Returns part -> precision; a decoder's head is one of them.

    Args:
        parts: Names of the model's parts.
        preset: A name of `PRESETS`; by default everything is FP32.
        stated: Entries `PART=PRECISION`, which come before the preset.

    Raises:
        InputError: a part, precision or preset is unknown, or a part is stated twice.
    """
    if preset is not None and preset not in PRESETS:
        raise InputError(f"`preset` {preset!r}: for a model in parts wanted one of {', '.join(PRESETS)}")
    names = (*parts, HEAD) if "decoder" in parts else tuple(parts)
    given: dict[str, Precision] = {}
    for entry in stated:
        name, separator, text = entry.partition("=")
        if not separator or name not in names:
            raise InputError(f"`part` {entry!r}: wanted PART=PRECISION, with a part of {', '.join(names)}")
        if name in given:
            raise InputError(f"`part` {entry!r}: states {name} a second time")
        given[name] = parse_precision(text)
        if name == TABLE and not given[name].is_float:
            raise InputError(f"`part` {entry!r}: a table of words is looked up, for which engines have floats only")
        if name not in _STATIC_PARTS and given[name].is_static:
            raise InputError(
                f"`part` {entry!r}: activations are quantized in parts that read images, vision; write {name}=w8g128"
            )
    default = {} if preset is None else PRESETS[preset]
    found = {name: Precision(default.get(name, "fp32" if preset is None else "fp16")) for name in names} | given
    if HEAD in found and HEAD not in given and preset is None:
        # The head of a decoder of few bits is left in halves: it decides about every token.
        found[HEAD] = found["decoder"] if found["decoder"].is_float else Precision("fp16")
    return found
