"""The precisions that are tried for a model's parts, the one with the least loss first.

The order is that of measurements: 8 bits cost next to nothing in any part; of 4 bits and fewer the vision part and the
connector bear least, although the decoder is many times as large. docs/plan.md has the figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeq.errors import InputError
from edgeq.memory.architecture import Part
from edgeq.memory.storage import scheme_of

_LANGUAGE = ("text", "decoder", "encoder")

EIGHT, FOUR = "w8", "w4g128"
"""8 bits with a scale per output channel, 4 bits with one per group of 128: what engines have kernels for."""


@dataclass(frozen=True)
class Rung:
    """A precision for every part of a model.

    Attributes:
        name: What it is called.
        precisions: Part -> precision.
        risky: Whether it is known to cost much of the score.
    """

    name: str
    precisions: Mapping[str, str]
    risky: bool = False


def rungs(parts: Sequence[Part], floats: str, pinned: Mapping[str, str]) -> tuple[Rung, ...]:
    """Returns what to try, each choice once.

    Args:
        parts: The model's parts.
        floats: The float type of the device's engines.
        pinned: Part -> the precision that it has in any case.

    Raises:
        InputError: there is no such part or precision.
    """
    names = [part.name for part in parts]
    for name, precision in pinned.items():
        if name not in names:
            raise InputError(f"`part` {name}={precision}: the model has no such part; it has {', '.join(names)}")
        scheme_of(precision)
    tried = (
        _rung(floats, names, pinned, {}, floats),
        _rung("decoder-8", names, pinned, dict.fromkeys(_LANGUAGE, EIGHT), floats),
        _rung("uniform-8", names, pinned, dict.fromkeys(names, EIGHT), floats),
        _rung("asymmetric", names, pinned, dict.fromkeys(_LANGUAGE, FOUR), floats),
        _rung("asymmetric-8", names, pinned, dict.fromkeys(names, EIGHT) | dict.fromkeys(_LANGUAGE, FOUR), floats),
        _rung("uniform-4", names, pinned, dict.fromkeys(names, FOUR), floats, risky=True),
    )
    first: dict[tuple[str, ...], Rung] = {}
    for rung in tried:
        first.setdefault(tuple(rung.precisions.values()), rung)
    return tuple(first.values())


def _rung(
    name: str,
    parts: Sequence[str],
    pinned: Mapping[str, str],
    precisions: Mapping[str, str],
    floats: str,
    *,
    risky: bool = False,
) -> Rung:
    return Rung(name, {part: pinned.get(part) or precisions.get(part, floats) for part in parts}, risky)
