"""What is said of a document that is refused: in one line, where, what was found and what was wanted.

`edgeq.boundary` parses documents; the parser's own words name types as a programmer does, and leave out keys.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgeq.errors import EdgeqError

INT64 = 2**63
"""Integers of documents are less than this, and not less than its negative."""

_PLACE = re.compile(r"(?P<problem>.*) - at `(?P<place>\$.*)`", re.DOTALL)
_STEP = re.compile(r"""\.(?P<field>[^.\[\]]+)|\[(?P<key>\d+|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\]""")
_ANY_KEY = "[...]"
# Beyond so many keys the one that is wrong is not looked for.
_MAX_KEYS = 200
_AT_BYTE = re.compile(r"(?P<problem>.*) \(byte (?P<byte>\d+)\)")
_MAX_SHOWN = 60
_MAX_PLACE = 200
_WORDS = {
    "array": "a list",
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "object": "keys with values",
    "str": "text",
}


@contextlib.contextmanager
def refusals(
    source: object, kind: str, advice: str, place: str, error: type[EdgeqError], wanted: Any, reparse: Callable[[], Any]
) -> Iterator[None]:
    """Turns what a parser raises in the block into one line.

    Args:
        source: Where the document comes from.
        kind: What it should be.
        advice: What to do about one that is not; ends the message.
        place: Where in the source it stands, `$` for the whole.
        error: Class of the error.
        wanted: The type that it is parsed into.
        reparse: Returns the document as plain values.

    Raises:
        EdgeqError: the parser refuses it; of the class `error`.
    """
    expected = f"; expected {kind}" + (f"; {advice}" if advice else "")
    try:
        yield
    except msgspec.ValidationError as refused:
        found = _PLACE.fullmatch(str(refused))
        problem, inner = (found["problem"], found["place"]) if found else (str(refused), "$")
        inner = _with_keys(inner, str(refused), wanted, reparse)
        where = _cut(place + inner[1:], _MAX_PLACE)
        said = _explain(problem, inner, wanted, reparse)
        raise error(f"{source}: {'' if where == '$' else f'{where} '}{said}{expected}") from refused
    except UnicodeDecodeError as refused:
        raise error(f"{source}: cannot be read as {kind} ({refused})") from refused
    except msgspec.DecodeError as refused:
        raise error(f"{source}: is not valid JSON ({_with_line(str(refused), reparse)}){expected}") from refused
    except (ValueError, RecursionError, OverflowError) as refused:
        raise error(f"{source}: {first_line(refused)}{expected}") from refused


def _explain(problem: str, place: str, wanted: Any, reparse: Callable[[], Any]) -> str:
    """Returns what is wrong at a place, with what was found there and, for a choice, what there is to choose from."""
    if problem.startswith("Object missing required field"):
        return f"has no {_key(problem)}"
    schema = _schema_at(wanted, place)
    if problem.startswith("Object contains unknown field"):
        known = ", ".join(schema.get("properties", {}))
        return f"has an unknown key {_key(problem)}" + (f" (known: {known})" if known else "")
    shown = _shown_at(place, reparse)
    choices = ", ".join(map(str, schema.get("enum", ())))
    if problem.startswith("Invalid enum value") and choices:
        return f"is {shown or problem.removeprefix('Invalid enum value ')}, wanted one of {choices}"
    if problem.startswith("Expected "):
        said = problem.removeprefix("Expected ").partition(", got ")
        return f"is {shown or _in_words(said[2], {}) or 'out of range'}, wanted {_in_words(said[0], schema)}"
    return problem if place == "$" else f"is refused: {problem}" if shown is None else f"is {shown}: {problem}"


def _key(problem: str) -> str:
    """Returns the key that msgspec names, in quotes: in a message of edgeq, backticks are for parameters."""
    return repr(_cut(problem.partition("`")[2].removesuffix("`"), _MAX_SHOWN))


def _in_words(said: str, schema: Mapping[str, Any]) -> str:
    """Returns what msgspec calls the wanted type, in words: "`int | null`" is "a whole number"."""
    types, _, limit = said.strip("`").partition("` ")
    words = " or ".join(_WORDS.get(each, each) for each in types.split(" | ") if each != "null")
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None and most not in (None, INT64 - 1):
        return f"{words} from {least:g} to {most:g}"
    if least is not None and least != -INT64:
        return f"{words} from {least:g}"
    return f"{words} {limit}".rstrip()


def _shown_at(place: str, reparse: Callable[[], Any]) -> str | None:
    """Returns the start of what stands at a place; `None` where the place is not exact or that is a large part."""
    with contextlib.suppress(ValueError, LookupError, TypeError, RecursionError):
        value = _at(reparse(), place)
        if isinstance(value, (dict, list)) and len(value) > 4:
            return "a list" if isinstance(value, list) else "an object"
        return _cut(repr(value), _MAX_SHOWN)
    return None


def _at(document: Any, place: str) -> Any:
    """Returns what stands at a place; raises `LookupError` or `TypeError` if nothing does."""
    end = 1
    while end < len(place):
        step = _STEP.match(place, end)
        if step is None:
            raise LookupError(place)
        document, end = document[step["field"] or ast.literal_eval(step["key"])], step.end()
    return document


def _with_keys(place: str, refused: str, wanted: Any, reparse: Callable[[], Any]) -> str:
    """Returns a place with the keys that msgspec leaves out: with them alone the document is refused as before."""
    with contextlib.suppress(ValueError, LookupError, TypeError, RecursionError):
        document = copy.deepcopy(reparse()) if _ANY_KEY in place else None
        while _ANY_KEY in place:
            before, _, after = place.partition(_ANY_KEY)
            parent = _at(document, before)
            entries = dict(parent)
            for key, value in list(entries.items())[:_MAX_KEYS]:
                parent.clear()
                parent[key] = value
                if _is_refused(document, wanted, refused):
                    place = f"{before}[{key!r}]{after}"
                    break
            else:
                break
    return place


def _is_refused(document: Any, wanted: Any, refused: str) -> bool:
    try:
        msgspec.convert(document, wanted, dec_hook=decode_other)
    except msgspec.ValidationError as error:
        return str(error) == refused
    return False


def _cut(text: str, length: int) -> str:
    """Returns a text fit for one line of a terminal: printable, and not longer than that."""
    printable = "".join(each if each.isprintable() else "?" for each in text[: length + 1])
    return printable if len(text) <= length else f"{printable[: length - 3]}..."


def _schema_at(wanted: Any, place: str) -> dict[str, Any]:
    """Returns the JSON schema of what a type wants at a place; empty where that is not one thing."""
    with contextlib.suppress(TypeError, KeyError, RuntimeError):
        whole = msgspec.json.schema(wanted, schema_hook=lambda _: {"type": "string"})
        schema = _resolved(whole, whole)
        for step in _STEP.finditer(place.replace(_ANY_KEY, "[0]"), 1):
            inner = schema.get("properties", {}).get(step["field"])
            schema = _resolved(inner or schema.get("items") or schema.get("additionalProperties") or {}, whole)
        return schema
    return {}


def _resolved(schema: Any, whole: Mapping[str, Any]) -> dict[str, Any]:
    options = [each for each in schema.get("anyOf", ()) if each.get("type") != "null"]
    if len(options) == 1:
        schema = options[0]
    if "$ref" in schema:
        schema = whole["$defs"][schema["$ref"].rpartition("/")[2]]
    return dict(schema)


def decode_other(wanted: type, value: Any) -> Any:
    """Returns a value as a type that the parser does not know: a text as a path; raises `TypeError` for others."""
    if wanted is Path and isinstance(value, str):
        return Path(value)
    raise TypeError(f"{value!r} for a {wanted}")


def _with_line(problem: str, reparse: Callable[[], Any]) -> str:
    """Returns a parser's complaint with the line instead of the byte, where Python's parser tells it."""
    try:
        reparse()
    except json.JSONDecodeError as error:
        return f"line {error.lineno}: {error.msg}"
    except (ValueError, RecursionError) as error:
        return first_line(error)
    found = _AT_BYTE.fullmatch(problem)
    return f"{found['problem']} at byte {found['byte']}" if found else problem


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, or its class if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
