"""Plain tables of names, extended by entry points: `name -> "package.module:attribute"`, loaded on first use."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint
from typing import Any

from edgeq.errors import InputError
from edgeq.wording import did_you_mean


def load_object(kind: str, reference: str) -> Any:
    """Returns the attribute that `package.module:attribute` names.

    Args:
        kind: What it should be, for the error ("decoder").
        reference: The module, a colon, the attribute.

    Raises:
        InputError: the reference is malformed, or module or attribute are missing.
    """
    module_name, separator, attribute = reference.partition(":")
    if not (separator and module_name and attribute):
        raise InputError(f"{kind} {reference!r}: wanted the form package.module:attribute")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InputError(
            f"{kind} {reference!r}: cannot import {module_name} ({error}); is its folder on PYTHONPATH?"
        ) from error
    except SystemExit as error:
        raise InputError(f"{kind} {reference!r}: importing {module_name} ends the process") from error
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise InputError(f"{kind} {reference!r}: {module_name} has no {attribute!r}") from None


def load_entry(kind: str, table: Mapping[str, str], name: str) -> Any:
    """Returns the object registered as `name` in a table of ours or in the entry point group of its kind.

    The group of `weight method` is `edgeq.weight_methods`.

    Raises:
        InputError: nothing of that name is registered; the message lists what is.
    """
    if name in table:
        return load_object(kind, table[name])
    for entry in entry_points(group=_group(kind)):
        if entry.name == name:
            return entry.load()
    known = registered(kind, table)
    raise InputError(f"unknown {kind} {name!r}; {did_you_mean(name, known)}known: {', '.join(known)}")


def registered(kind: str, table: Mapping[str, str]) -> list[str]:
    """Returns the sorted names that `load_entry` knows for a kind."""
    return sorted({*table, *(entry.name for entry in entry_points(group=_group(kind)))})


def entry_points(group: str) -> Iterable[EntryPoint]:
    """Returns the entry points of a group that installed packages declare.

    The files of all packages are read for it, so that is done once for each state of the path.
    """
    return _declared(group, tuple(sys.path))


@functools.cache
def _declared(group: str, _path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    return tuple(importlib.metadata.entry_points(group=group))


def _group(kind: str) -> str:
    return f"edgeq.{kind.replace(' ', '_')}s"
