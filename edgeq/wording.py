"""How messages put numbers into words."""

from __future__ import annotations


def counted(count: int, one: str, many: str | None = None) -> str:
    """Returns a number of things in words: "0 images", "1 image", "2,000 images".

    Args:
        count: How many, >= 0.
        one: The word for one.
        many: The word for any other number, where it is not `one` with an s.
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"
