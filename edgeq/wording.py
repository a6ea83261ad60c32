"""How messages put numbers into words."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Sequence

_CONTROLS = frozenset({"Cc", "Cf", "Zl", "Zp"})
"""Unicode's categories of what moves a cursor, colours, hides or turns text around."""


def counted(count: int, one: str, many: str | None = None) -> str:
    """Returns a number of things in words: "0 images", "1 image", "2,000 images".

    Args:
        count: How many, >= 0.
        one: The word for one.
        many: The word for any other number, where it is not `one` with an s.
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def and_others(names: Sequence[str]) -> str:
    """Returns what follows the first of several names in a message: " and 3 more", nothing after a single one."""
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns "did you mean jetson-orin? " for a name that is close to known ones, at most three; else nothing.

    Capitals make no difference, and the beginning of a name is close to it.

    Args:
        name: What was asked for.
        known: What there is.
    """
    if not (asked := name.strip().lower()):
        return ""
    by_lower = {each.lower(): each for each in known}
    longer = sorted((each for each in by_lower if each.startswith(asked)), key=len)
    near = [asked] if asked in by_lower else [*dict.fromkeys([*longer, *difflib.get_close_matches(asked, by_lower)])]
    return f"did you mean {' or '.join(by_lower[each] for each in near[:3])}? " if near else ""


def compared_with_fp32(ratio: float, low: float | None = None, high: float | None = None) -> str:
    """Returns how fast a file is: "1.6x faster than FP32 (1.4x to 1.8x)", or slower, or as fast.

    Args:
        ratio: Its time as a multiple of FP32's.
        low: Lower end of the interval of the ratio; with `high`.
        high: Upper end.
    """
    is_faster = ratio < 1
    factor = 1 / ratio if is_faster else ratio
    said = f"{factor:.1f}x {'faster' if is_faster else 'slower'} than FP32"
    if f"{factor:.2f}" <= "1.02":
        said = "as fast as FP32"
        is_faster = True
    if low is None or high is None:
        return said
    ends = (1 / high, 1 / low) if is_faster else (low, high)
    return f"{said} ({ends[0]:.2f}x to {ends[1]:.2f}x{'' if 'x ' in said else ' its speed'})"


def printable(text: str, keep: str = "") -> str:
    """Returns a text in which characters that control a terminal are spelt out, each by its number.

    Names from files and answers of devices may hold colours, titles of windows, and text that runs backwards.

    Args:
        text: What is to be printed.
        keep: Characters that stay nevertheless, such as line ends.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        each if each in keep or unicodedata.category(each) not in _CONTROLS else ascii(each)[1:-1] for each in text
    )
