"""Results as JSON: the one form that `--json` writes and that reports read.

A dataclass becomes an object with a key per field, in the order of its fields. A field with the metadata `INLINE` gives
its keys to the object around it; one with `OMIT_EMPTY` is left out while it is `None` or empty.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgeq.errors import InputError

RESULTS_VERSION = 1
"""Version of the form of results. Keys may be added within a version; none is removed, and none changes its meaning."""

INLINE = {"inline": True}
OMIT_EMPTY = {"omit_empty": True}
INLINE_OR_NOTHING = INLINE | OMIT_EMPTY


def to_json(value: Any) -> Any:
    """Returns a result, or a list of them, as JSON values: dicts, lists, texts, numbers and `None`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        document: dict[str, Any] = {}
        for field in dataclasses.fields(value):
            found = getattr(value, field.name)
            if field.metadata.get("omit_empty") and found in (None, (), {}):
                continue
            if field.metadata.get("inline"):
                document |= to_json(found)
            else:
                document[field.name] = to_json(found)
        return document
    if isinstance(value, msgspec.Struct):
        return msgspec.to_builtins(value)
    if isinstance(value, Mapping):
        return {str(key): to_json(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value


def require_version(source: object, version: int) -> None:
    """Checks that results are of a version that this edgeq reads.

    Raises:
        InputError: a newer edgeq has written them.
    """
    if version > RESULTS_VERSION:
        raise InputError(
            f"{source}: holds results of version {version}, this edgeq reads {RESULTS_VERSION}; update edgeq"
        )
