"""XML of annotations: elements and text, and nothing that a parser would have to fetch or expand."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

from edgeq.boundary import read_text
from edgeq.errors import InputError

Element = ElementTree.Element


def read_xml(source: Path, *, kind: str) -> Element:
    """Returns the root of an XML file in UTF-8.

    A document type is refused: entities are declared there, which read other files or grow without bound
    (https://cwe.mitre.org/data/definitions/776.html). No annotation tool writes one.

    Raises:
        InputError: the file is missing, unreadable, not XML, or has a document type.
    """
    text = read_text(source, kind=kind)
    if "<!doctype" in text.lower() or "<!entity" in text.lower():
        raise InputError(f"{source}: has a document type (<!DOCTYPE ...>), which is not read; expected {kind}")
    # The stated encoding would be followed otherwise, and in another one the two lines above see nothing.
    parser = ElementTree.XMLParser(encoding="utf-8")  # noqa: S314 - without entities
    try:
        return ElementTree.fromstring(text.encode(), parser)  # noqa: S314 - without entities
    except (ElementTree.ParseError, ValueError) as error:
        raise InputError(f"{source}: is not valid XML ({error}); expected {kind}") from error


MAX_SIDE = 1 << 20
"""Pixels of a side of an image that annotations may state."""


def size_in(width: str | None, height: str | None) -> tuple[int, int] | None:
    """Returns width and height in pixels; `None` where they are no such numbers."""
    sides = number_in(width), number_in(height)
    return (int(sides[0]), int(sides[1])) if all(1 <= side <= MAX_SIDE for side in sides) else None


def number_in(text: str | None) -> float:
    """Returns a number; NaN where there is none."""
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan
