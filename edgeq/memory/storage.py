"""Bytes of weights in a precision: integers, their scales and zero points, and floats."""

from __future__ import annotations

import re

from edgeq.errors import InputError
from edgeq.memory.weights import Weights
from edgeq.schemes import FLOAT16, FLOAT32, PerAxis, PerGroup, Scheme

_SCALE_BYTES = 2
_FLOAT_BYTES = {"fp32": 4, "fp16": 2}
# Double quantization ("QLoRA", Dettmers et al., 2023): a scale of 8 bits for 64 values, a float32 for 256 scales.
_CODEBOOK_GROUP, _SCALES_IN_GROUP = 64, 256
_NAMED = {
    "fp32": FLOAT32,
    "fp16": FLOAT16,
    "nf4": Scheme(bits=4, signed=False, granularity=PerGroup(_CODEBOOK_GROUP), codebook="nf4"),
}
_UNIFORM = re.compile(r"w([2-8])(?:g([0-9]{1,4}))?(a?)")
_GROUPS = range(8, 257)

PRECISIONS = "fp32, fp16, nf4, w8, or w and 2 to 8 bits with a group of 8 to 256 (w4g128; w4g32a has zero points)"
"""The precisions that `scheme_of` knows, for help texts and errors."""


def scheme_of(precision: str) -> Scheme:
    """Returns how a precision stores the weights of linear layers.

    Args:
        precision: `fp32`, `fp16`, `nf4`, or `wK` for K bits with a scale per output channel, `wKgN` with one per group
            of N inputs; `a` at the end means asymmetric, with a zero point for every scale.

    Raises:
        InputError: there is no such precision.
    """
    if precision in _NAMED:
        return _NAMED[precision]
    found = _UNIFORM.fullmatch(precision)
    if found is None or (found[2] and int(found[2]) not in _GROUPS):
        raise InputError(f"unknown precision {precision!r}; wanted {PRECISIONS}")
    granularity = PerGroup(int(found[2])) if found[2] else PerAxis()
    symmetric = not found[3]
    return Scheme(bits=int(found[1]), signed=symmetric, symmetric=symmetric, granularity=granularity)


def stored_bytes(weights: Weights, precision: str, floats: str) -> int:
    """Returns what weights take in a file and in memory.

    Integers are packed without gaps in each row. Scales are of 2 bytes; zero points have the bits of the weights.

    Args:
        weights: What is stored.
        precision: Of the matrices, see `scheme_of`.
        floats: Of everything else: `fp32` or `fp16`.

    Raises:
        InputError: there is no such precision.
    """
    scheme, others = scheme_of(precision), weights.others * _FLOAT_BYTES[floats]
    if not scheme.is_integer:
        return weights.quantizable * scheme.bits // 8 + others
    rows = {shape: shape[0] * count for shape, count in weights.matrices.items()}
    integers = sum(count * -(-inputs * scheme.bits // 8) for (_, inputs), count in rows.items())
    scales = sum(count * _groups(inputs, scheme) for (_, inputs), count in rows.items())
    zero_points = 0 if scheme.symmetric else -(-scales * scheme.bits // 8)
    return integers + _scale_bytes(scales, scheme) + zero_points + others


def _groups(inputs: int, scheme: Scheme) -> int:
    return -(-inputs // scheme.granularity.size) if isinstance(scheme.granularity, PerGroup) else 1


def _scale_bytes(scales: int, scheme: Scheme) -> int:
    if scheme.codebook is not None:
        return scales + 4 * -(-scales // _SCALES_IN_GROUP)
    return scales * _SCALE_BYTES
