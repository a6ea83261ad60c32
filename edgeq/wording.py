"""How messages put numbers into words."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

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
