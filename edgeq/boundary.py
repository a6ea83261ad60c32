"""What comes in from a file, a process or a device: parsed into a type, or refused in one line.

Every JSON and TOML document is read here. Limits on size, nesting and digits hold before a parser runs, numbers are
finite and integers fit 64 bits, and a document that is not of the expected type is an error that says where in it
(`$.inputs[0].shape`), what was found, and what was expected. Types are dataclasses and `msgspec.Struct`s; what their
`__post_init__` raises as a `ValueError` is reported at the same place. Keys that a type does not have are ignored,
except by a `Struct` that forbids them.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import sys
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from edgeq.errors import EdgeqError, InputError
from edgeq.refusals import INT64, decode_other, first_line, refusals

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")

MAX_BYTES = 1 << 30
"""Largest JSON document that is read: twice COCO's largest annotation file."""
MAX_TOML_BYTES = 1 << 20
MAX_DEPTH = 64
"""Most levels of lists and objects; results of `edgeq bench` have seven."""

Integer = Annotated[int, msgspec.Meta(ge=-INT64, le=INT64 - 1)]
"""Any integer of 64 bits."""
Count = Annotated[int, msgspec.Meta(ge=0, le=INT64 - 1)]
"""How many there are of something: 0 or more."""
Positive = Annotated[int, msgspec.Meta(ge=1, le=INT64 - 1)]
"""1 or more."""
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
"""A number of 0 or more."""
Plain: Any = Any
"""Any JSON or TOML value, as plain Python values."""
Raw = msgspec.Raw
"""JSON text of a part that is parsed later, by a type that depends on the rest."""

# Shorter runs of digits fit 64 bits.
_LONG_INTEGER = re.compile(rb"(?<![0-9.])[0-9]{19}")
_AS_ZERO, _LONG = bytes.maketrans(b"123456789", b"000000000"), b"0" * 19
# A key of more than 64 parts with points between them.
_LONG_KEY = re.compile(rb"""(?<![\w"'-])(?:["'\w-]+[ \t]*\.[ \t]*){64}""")
_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_TEXT = re.compile(rb'"[^"]*"')
_STRUCTURE = b'"[]{}'
_OTHERS = bytes(set(range(256)) - set(_STRUCTURE))
_AS_SQUARE = bytes.maketrans(b"{}", b"[]")


def read_json(source: Path, wanted: type[T], *, kind: str, advice: str = "", max_bytes: int = MAX_BYTES) -> T:
    """Returns the content of a JSON file as a value of a type.

    Args:
        source: The file.
        wanted: The type.
        kind: What the file should be, for the error ("a COCO annotation file").
        advice: What to do about a file that is not; ends the message.
        max_bytes: The largest file that is read.

    Raises:
        InputError: the file is missing, unreadable, too large, not JSON, or not of that type.
    """
    content = read_limited(source, kind, max_bytes)
    return parse_json(content, wanted, source=source, kind=kind, advice=advice)


def parse_json(
    content: bytes | Raw,
    wanted: type[T],
    *,
    source: object,
    kind: str,
    advice: str = "",
    place: str = "$",
    error: type[EdgeqError] = InputError,
) -> T:
    """Returns a JSON text as a value of a type.

    Args:
        content: UTF-8.
        wanted: The type.
        source: Where it comes from, for the error.
        kind: What it should be, for the error.
        advice: What to do about one that is not; ends the message.
        place: Where in the source it stands, for the error.
        error: Class of the error.

    Raises:
        EdgeqError: it is not JSON or not of that type; of the class `error`.
    """
    whole = bytes(content)
    with refusals(source, kind, advice, place, error, wanted, lambda: json.loads(whole, parse_constant=_refuse)):
        if not isinstance(content, Raw):  # a part of a document was checked with the whole
            _require_sound(whole)
        return msgspec.json.decode(whole, type=wanted, dec_hook=decode_other)


def read_toml(source: Path, wanted: type[T], *, kind: str, advice: str = "") -> T:
    """Returns the content of a TOML file as a value of a type.

    Args:
        source: The file.
        wanted: The type.
        kind: What the file should be, for the error.
        advice: What to do about a file that is not; ends the message.

    Raises:
        InputError: the file is missing, unreadable, over 1 MiB, not TOML, or not of that type.
    """
    content = read_limited(source, kind, MAX_TOML_BYTES)
    return parse_toml(content, wanted, source=source, kind=kind, advice=advice)


def parse_toml(content: bytes, wanted: type[T], *, source: object, kind: str, advice: str = "") -> T:
    """Returns a TOML text as a value of a type; see `read_toml`.

    Raises:
        InputError: it is not TOML or not of that type.
    """
    if _may_hold_long_integer(content):
        raise InputError(f"{source}: holds a number of 19 digits or more; expected {kind}")
    if _LONG_KEY.search(content):  # tomllib takes the square of their length
        raise InputError(f"{source}: is nested deeper than {MAX_DEPTH} levels; expected {kind}")
    try:
        document = tomllib.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: cannot be read as {kind} ({error})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source}: is not valid TOML ({first_line(error)}); expected {kind}") from error
    return convert(document, wanted, source=source, kind=kind, advice=advice)


def convert(
    document: Any,
    wanted: type[T],
    *,
    source: object,
    kind: str,
    advice: str = "",
    place: str = "$",
    error: type[EdgeqError] = InputError,
) -> T:
    """Returns a document of plain values (dicts, lists, texts, numbers) as a value of a type; see `parse_json`.

    Raises:
        EdgeqError: it is not of that type, holds a number that is not finite, or is nested too deep.
    """
    with refusals(source, kind, advice, place, error, wanted, lambda: document):
        require_plain(document)
        return msgspec.convert(document, wanted, dec_hook=decode_other)


def read_limited(source: Path, kind: str, max_bytes: int = MAX_BYTES) -> bytes:
    """Returns the bytes of a file.

    Raises:
        InputError: it is missing, cannot be read, or is larger than `max_bytes`.
    """
    try:
        with source.open("rb") as stream:
            content = stream.read(max_bytes + 1)
    except FileNotFoundError:
        raise InputError(f"{source}: no such file; expected {kind}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{source}: cannot be read as {kind} ({error})") from error
    if len(content) > max_bytes:
        raise InputError(f"{source}: has more than {max_bytes} bytes; expected {kind}")
    return content


def read_text(source: Path, *, kind: str) -> str:
    """Returns the UTF-8 text of a file, without a byte order mark.

    Raises:
        InputError: the file is missing, unreadable, too large, or not UTF-8.
    """
    try:
        return read_limited(source, kind).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: cannot be read as {kind} ({error})") from error


def require_plain(document: Any, depth: int = MAX_DEPTH) -> None:
    """Checks the numbers and the nesting of plain values.

    Raises:
        ValueError: a number is not finite or an integer of more than 64 bits, or lists and objects are nested deeper.
    """
    if isinstance(document, float) and not math.isfinite(document):
        raise ValueError(f"holds {document}, which is not a finite number")
    if isinstance(document, int) and not -INT64 <= document < INT64:
        raise ValueError("holds an integer of more than 64 bits")
    if isinstance(document, (dict, list, tuple)):
        if depth == 0:
            raise ValueError(f"is nested deeper than {MAX_DEPTH} levels")
        for entry in document.values() if isinstance(document, dict) else document:
            require_plain(entry, depth - 1)


def _may_hold_long_integer(content: bytes) -> bool:
    # The first condition is several times as fast, and enough for nearly all files.
    return _LONG in content.translate(_AS_ZERO) and _LONG_INTEGER.search(content) is not None


def _require_sound(content: bytes) -> None:
    """Checks encoding, nesting and integers of a JSON text before it is parsed."""
    content.decode("utf-8")
    if _is_nested_deeper(content, MAX_DEPTH):
        raise ValueError(f"is nested deeper than {MAX_DEPTH} levels")
    if _may_hold_long_integer(content):
        # Such a run of digits may stand in a text or behind a point: only the parser can tell.
        with contextlib.suppress(json.JSONDecodeError):  # reported with its place by the parser that follows
            json.loads(content, parse_int=_bounded)


def _is_nested_deeper(content: bytes, limit: int) -> bool:
    if content.count(b"[") + content.count(b"{") <= limit:
        return False
    if b"\\" in content:
        content = _ESCAPE.sub(b"", content)
    # Two quotes without a bracket between them change nothing about what is inside a text.
    left = _TEXT.sub(b"", content.translate(None, _OTHERS).replace(b'""', b"")).translate(_AS_SQUARE)
    for _ in range(limit):
        shorter = left.replace(b"[]", b"")
        if len(shorter) == len(left):
            return left.count(b"[") > limit
        left = shorter
    return b"[" in left


def _bounded(digits: str) -> int:
    if len(digits) > 20 or not -INT64 <= int(digits) < INT64:
        raise ValueError(f"holds an integer of {len(digits.lstrip('-'))} digits, wanted at most 64 bits")
    return int(digits)


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON; write null")
