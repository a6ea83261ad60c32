"""YAML, as `edgeq.boundary` reads JSON and TOML: parsed into a type, or refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from edgeq.boundary import MAX_DEPTH, MAX_TOML_BYTES, convert, read_limited
from edgeq.errors import InputError

T = TypeVar("T")


def read_yaml(source: Path, wanted: type[T], *, kind: str) -> T:
    """Returns the content of a YAML file as a value of a type.

    Only plain values are made, and aliases are refused: a few of them, nested, stand for more values than fit into a
    computer.

    Raises:
        InputError: the file is missing, unreadable, over 1 MiB, not YAML, nested too deep, has aliases, or is not of
            that type.
    """
    import yaml

    content = read_limited(source, kind, MAX_TOML_BYTES)
    try:
        depth = 0
        for event in yaml.parse(content, yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"has the alias *{event.anchor}, which is not read; write its value out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise ValueError(f"is nested deeper than {MAX_DEPTH} levels")
        document = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError) as error:
        said = " ".join(str(error).split())
        raise InputError(f"{source}: cannot be read as YAML ({said[:200]}); expected {kind}") from error
    return convert(document, wanted, source=source, kind=kind)
