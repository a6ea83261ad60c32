"""The verdict on a quantized file, in a sentence: ship it or not, or so few images prove nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgeq.wording import compared_with_fp32, counted

if TYPE_CHECKING:
    from edgeq.reporting.comparison import Drop
    from edgeq.reporting.document import Entry

MAX_DROP = 1.0
"""Points of the score that a file may lose, unless the user says otherwise."""

_AS_FAST = 1.03
_ROUNDED_TO = 2  # digits of a number of images that would prove something


@dataclass(frozen=True)
class Verdict:
    """What to do with a file.

    Attributes:
        entry: Number of its row.
        kind: `ship`, `not proved`, `loses too much` or `not faster`.
        sentence: The same in a sentence, with the figures that it rests on.
    """

    entry: int
    kind: Literal["ship", "not proved", "loses too much", "not faster"]
    sentence: str


def judge(entry: Entry, reference: Entry, max_drop: float = MAX_DROP) -> Verdict | None:
    """Returns the verdict on a row; `None` if it was not compared with FP32 in score and time.

    Args:
        entry: The row of a quantized file.
        reference: That of FP32, in the same engine.
        max_drop: Points of the score that it may lose.
    """
    drop, ratio = entry.drop, entry.ratio_to_fp32
    if drop is None or ratio is None:
        return None
    name, title = entry.precision_name.upper(), entry.score_title(drop.name)
    brings = f"{name} is {compared_with_fp32(ratio)}{_smaller(entry, reference)}"
    if drop.low is None or drop.high is None:
        why = entry.no_interval or "its loss has no interval"
        return Verdict(entry.number, "not proved", f"{brings}; not proved: {why}.")
    limit = f"{max_drop:g} {'point' if max_drop == 1 else 'points'}"
    if drop.low > max_drop:
        lost = f"{brings}, and loses {drop.low:.2f} to {drop.high:.2f} points of {title}, more than {limit}"
        return Verdict(entry.number, "loses too much", f"{lost}: edgeq tune looks for a better file.")
    if drop.high > max_drop:
        more = _images_to_prove(drop, max_drop, entry.images)
        images = counted(entry.images or 0, "image")
        unresolved = f"not proved: {images} cannot resolve {limit} of {title}{more}"
        return Verdict(entry.number, "not proved", f"{brings}; {unresolved}.")
    within = f"within {limit} of FP32's {title}"
    if ratio > 1 / _AS_FAST:
        return Verdict(entry.number, "not faster", f"{brings}, and {within}: take FP32 unless size matters.")
    return Verdict(entry.number, "ship", f"{brings}, and {within}: ship it.")


def _smaller(entry: Entry, reference: Entry) -> str:
    if not entry.size_bytes or not reference.size_bytes:
        return ""
    factor = reference.size_bytes / entry.size_bytes
    return f", {factor:.1f}x smaller" if factor > _AS_FAST else ""


def _images_to_prove(drop: Drop, max_drop: float, images: int | None) -> str:
    """Returns how many images would tell on which side of the limit a loss is, if it stays what it is.

    The width of an interval falls with the square root of the number of images.
    """
    high, low = drop.high or 0.0, drop.low or 0.0
    gap, half = max_drop - drop.points, high - drop.points if drop.points < max_drop else drop.points - low
    if not images or gap == 0 or half <= 0:
        return ""
    needed = images * (half / gap) ** 2
    step = 10 ** max(0, math.floor(math.log10(needed)) + 1 - _ROUNDED_TO)
    return f"; about {math.ceil(needed / step) * step:,} would"
