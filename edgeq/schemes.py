"""How numbers are stored and layers computed: declarations that targets, plans, methods and writers share. Data only.

The words are those of ONNX (axis, block), TFLite (narrow range) and torchao (`PerTensor`, `PerAxis`, `PerGroup`) where
these agree.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

Kind = Literal["integer", "float4_e2m1fn", "float8_e4m3fn", "float16", "bfloat16", "float32"]

LOW_BITS = tuple(f"w{bits}" for bits in range(2, 9))
"""Precisions of files for CPUs whose weights alone have few bits."""

STATIC_PRECISIONS = ("int8", "int16x8")
"""Precisions of TFLite files that need ranges."""

MAX_BITS = 16
"""Most bits of a weight or an activation; the sums, and the biases that are added to them, have more."""

_SUM_BITS = (32, 64)

FLOAT8_MAX = 448.0
"""The largest number of `float8_e4m3fn`."""

FLOAT4_MAX = 6.0
"""The largest number of `float4_e2m1fn`."""

_FLOAT_BITS = {"float4_e2m1fn": 4, "float8_e4m3fn": 8, "float16": 16, "bfloat16": 16, "float32": 32}


@dataclass(frozen=True)
class PerTensor:
    """One scale for the whole tensor."""


@dataclass(frozen=True)
class PerAxis:
    """One scale for each index of an axis.

    Attributes:
        axis: The axis; `None` in a declaration means that of the output channels, which depends on the operator.
    """

    axis: int | None = None


@dataclass(frozen=True)
class PerGroup:
    """One scale for every `size` neighbours along an axis; the last group may be shorter.

    Attributes:
        size: Neighbours in a group.
        axis: The axis that the groups divide, for a weight that of its inputs; negative ones count from the end.
    """

    size: int
    axis: int = -1

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"groups of {self.size}: wanted at least 1")


Granularity = PerTensor | PerAxis | PerGroup


@dataclass(frozen=True)
class Scheme:
    """How the numbers of one tensor are stored.

    Attributes:
        kind: `integer`, or the floating-point type.
        bits: Of an integer: 1 to 16, and 32 or 64 for biases; of a float, those of its type.
        signed: Whether integers below zero exist.
        symmetric: Whether the grid lies around zero, so that the zero point is 0 (the middle, of unsigned integers).
        granularity: What has a scale of its own.
        codebook: Name of the table that integers are indices of, such as `nf4`; `None` for evenly spaced numbers.
        narrow_range: Whether the smallest integer is left out, which makes a signed grid as long on either side.
        real_zero: Whether the zero point is any number and not an integer, so that 0 need not lie on the grid.
        double_quantized: Whether the scales are stored in FP8 themselves, in blocks (`edgeq.quantizers.codebooks`).

    Raises:
        ValueError: the kind has no such bits, or a float has a codebook.
    """

    kind: Kind = "integer"
    bits: int = 8
    signed: bool = True
    symmetric: bool = True
    granularity: Granularity = field(default_factory=PerTensor)
    codebook: str | None = None
    narrow_range: bool = False
    real_zero: bool = False
    double_quantized: bool = False

    def __post_init__(self) -> None:
        if not self.is_integer and self.bits != _FLOAT_BITS[self.kind]:
            raise ValueError(f"{self.kind} of {self.bits} bits: it has {_FLOAT_BITS[self.kind]}")
        if self.is_integer and not (1 <= self.bits <= MAX_BITS or self.bits in _SUM_BITS):
            raise ValueError(f"{self.bits} bits: wanted 1 to {MAX_BITS}, or 32 or 64 for a bias")
        if not self.is_integer and self.codebook is not None:
            raise ValueError(f"{self.kind} has no codebook; {self.codebook!r} is for integers")
        if self.real_zero and (self.symmetric or self.codebook is not None):
            raise ValueError("a zero point that is any number is for evenly spaced numbers that lie around none")

    @property
    def is_integer(self) -> bool:
        """Whether integers are stored."""
        return self.kind == "integer"

    @property
    def is_float8(self) -> bool:
        """Whether floats of 8 bits are stored, which have a scale as integers have."""
        return self.kind == "float8_e4m3fn"

    @property
    def is_float4(self) -> bool:
        """Whether floats of 4 bits are stored, whose scales are FP8 and have a scale themselves (NVFP4)."""
        return self.kind == "float4_e2m1fn"

    @property
    def is_quantized(self) -> bool:
        """Whether what is stored has a scale."""
        return self.is_integer or self.is_float8 or self.is_float4

    @property
    def qmin(self) -> int:
        """The smallest integer."""
        lowest = -(1 << self.bits - 1) if self.signed else 0
        return lowest + int(self.narrow_range)

    @property
    def qmax(self) -> int:
        """The largest integer."""
        return (1 << self.bits - self.signed) - 1

    @property
    def dtype(self) -> str:
        """Numpy's name of the smallest type that holds the numbers; bfloat16, FP8 and FP4 are not numpy's own."""
        if not self.is_integer:
            return self.kind
        width = next(width for width in (8, 16, 32, 64) if self.bits <= width)
        return f"{'' if self.signed else 'u'}int{width}"

    @property
    def type_name(self) -> str:
        """Name of the type in ONNX and TFLite, such as `INT4`; not every one of them has every number of bits."""
        return f"{'' if self.signed else 'U'}INT{self.bits}" if self.is_integer else self.kind.upper()

    def with_bits(self, bits: int) -> Scheme:
        """Returns the same of another number of bits."""
        return replace(self, bits=bits)

    def along(self, granularity: Granularity) -> Scheme:
        """Returns the same of another granularity."""
        return replace(self, granularity=granularity)


FLOAT32 = Scheme("float32", 32)
INT32 = Scheme(bits=32)
INT8 = Scheme()
UINT8 = Scheme(signed=False, symmetric=False)
INT8_ASYMMETRIC = Scheme(symmetric=False)
INT16 = Scheme(bits=16)
INT64 = Scheme(bits=64)
FLOAT16 = Scheme("float16", 16)
INT4_BLOCKS = Scheme(bits=4, granularity=PerGroup(32))
"""Of every 32 neighbours along a layer's inputs; which axis that is depends on the operator."""
FLOAT4_BLOCKS = Scheme("float4_e2m1fn", 4, granularity=PerGroup(16))
"""NVFP4: of every 16 neighbours along a layer's inputs, with a scale in FP8 each, and one for these scales."""
NF4 = Scheme(bits=4, signed=False, codebook="nf4", granularity=PerGroup(64), double_quantized=True)
"""16 quantiles of the normal distribution, on scales in FP8 of every 64 neighbours: QLoRA's weights."""
INT8_WEIGHT = Scheme(granularity=PerAxis(), narrow_range=True)
"""-127..127 with a scale for each output channel, which is what all engines of ours take."""
INT4_WEIGHT = Scheme(bits=4, granularity=PerAxis())
"""-8..7 with a scale for each output channel: of so few levels the smallest is worth having."""


@dataclass(frozen=True)
class LayerScheme:
    """How a layer is computed.

    Attributes:
        weight: How its weight is stored.
        activation: How its inputs are stored.
        bias: How its bias is stored.
        dynamic: Whether the range of its input is measured at every run, and not before.
    """

    weight: Scheme = FLOAT32
    activation: Scheme = FLOAT32
    bias: Scheme = FLOAT32
    dynamic: bool = False

    @property
    def is_float(self) -> bool:
        """Whether nothing of it is quantized."""
        return not (self.weight.is_quantized or self.activation.is_quantized)

    @property
    def is_static(self) -> bool:
        """Whether its activations need ranges beforehand."""
        return self.activation.is_quantized and not self.dynamic

    @property
    def is_weight_only(self) -> bool:
        """Whether its weight alone is stored in few bits."""
        return self.weight.is_quantized and not (self.activation.is_quantized or self.dynamic)

    @property
    def is_w4a8(self) -> bool:
        """Whether integers of 4 bits are multiplied by integers of 8 bits."""
        integers = self.weight.is_integer and self.activation.is_integer
        return integers and (self.weight.bits, self.activation.bits) == (4, 8)

    @property
    def is_fp8(self) -> bool:
        """Whether it multiplies floats of 8 bits."""
        return self.activation.is_float8

    @property
    def compute(self) -> Kind:
        """What it multiplies and adds in, which is the kind of its inputs; a weight of another kind is converted."""
        return self.activation.kind

    @property
    def name(self) -> str:
        """What manifests call it.

        `float`, `dynamic`, `int8`, `int16x8` (activations x weights), `fp8`, `w4a8`, `w4`, `fp4`.
        """
        weight, activation = self.weight.bits, self.activation.bits
        if self.is_float:
            return "float"
        if self.is_fp8:
            return "fp8"
        if not self.activation.is_integer:
            return "fp4" if self.weight.is_float4 else f"w{weight}"
        if not self.weight.is_integer:
            return f"int{activation}"
        if weight == 8:
            named = {8: "dynamic" if self.dynamic else "int8", 16: "int16x8"}
            return named.get(activation, f"w8a{activation}")
        return f"w{weight}a{activation}"

    @property
    def without_weight(self) -> LayerScheme:
        """The same of a layer that has no constant weight, such as a sum or a product of activations."""
        return replace(self, weight=FLOAT32, bias=FLOAT32)

    def with_bits(self, weight: int, activation: int) -> LayerScheme:
        """Returns the same of other bits, where integers are; with less than 8 the bias is float, as no kernel sets it.

        Args:
            weight: Bits of the weight.
            activation: Bits of the inputs.
        """
        narrow = replace(
            self,
            weight=self.weight.with_bits(weight) if self.weight.is_integer else self.weight,
            activation=self.activation.with_bits(activation) if self.activation.is_integer else self.activation,
        )
        return narrow if narrow == self else replace(narrow, bias=FLOAT32)


def minmax(bits: int) -> Scheme:
    """Returns `minmax-k` of published sweeps: `round((2**k - 1) s) / (2**k - 1)` with `s = (x - min) / (max - min)`.

    It has one scale for the whole tensor, whose least and greatest values lie on the grid exactly; 0 need not.

    Args:
        bits: k, 2 to 8.
    """
    return Scheme(bits=bits, signed=False, symmetric=False, real_zero=True)


FLOAT = LayerScheme()
W4 = LayerScheme(INT4_BLOCKS, FLOAT16, FLOAT16)
"""INT4 weights, everything else in FP16."""
W4_FLOAT = LayerScheme(Scheme(bits=4, signed=False, symmetric=False, granularity=PerGroup(32)))
"""Unsigned INT4 weights with a zero point for every 32 neighbours, everything else in FP32; 2 to 8 bits alike."""
FP4 = LayerScheme(FLOAT4_BLOCKS, FLOAT16, FLOAT16)
"""FP4 weights, everything else in FP16."""
FLOAT8 = Scheme("float8_e4m3fn", 8)
FP8 = LayerScheme(FLOAT8.along(PerAxis()), FLOAT8, FLOAT16)
"""FP8 weights with a scale for each output channel, FP8 activations with one, everything else in FP16."""
DYNAMIC_INT8 = LayerScheme(INT8_WEIGHT, UINT8, FLOAT32, dynamic=True)
"""INT8 weights, and the range of every input measured at run time."""
