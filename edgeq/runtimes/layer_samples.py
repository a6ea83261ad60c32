"""What the profilers of all engines have in common: how samples of a layer become its time, and names of precisions."""

from __future__ import annotations

from collections.abc import Sequence

_PRECISIONS = {
    "i8": "int8", "u8": "int8", "uint8": "int8", "f32": "fp32", "float": "fp32", "f16": "fp16", "float16": "fp16",
    "bfloat16": "bf16", "undef": "",
}  # fmt: skip

_DIGITS = 5


def precision_name(stated: str) -> str:
    """Returns what edgeq calls a precision that an engine states; what it does not know stays as it is."""
    return _PRECISIONS.get(stated.lower(), stated.lower())


def typical_ms(samples: Sequence[float]) -> float:
    """Returns the mean of the faster half: what disturbs a run makes it slower, never faster.

    A mean, because profilers count whole microseconds, of which small layers take few.
    """
    kept = sorted(samples)[: max(1, len(samples) // 2)]
    return round(sum(kept) / len(kept), _DIGITS)
