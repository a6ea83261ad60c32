"""The JSON objects that a runner is driven by."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edgeq.errors import InputError


def parse_command(line: bytes) -> dict[str, Any]:
    """Returns the command on a line.

    Raises:
        InputError: it is no JSON object.
    """
    try:
        command = json.loads(line)
    except ValueError as error:
        raise InputError(f"a command that is not JSON ({error})") from error
    if not isinstance(command, dict):
        raise InputError(f"a command that is a {type(command).__name__}, wanted a JSON object")
    return command


def field(command: Mapping[str, Any], name: str, *kinds: type) -> Any:
    """Returns a field of a command.

    Raises:
        InputError: it is of another type than one of `kinds`.
    """
    value = command.get(name)
    if not isinstance(value, kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise InputError(f"field {name!r} of a command is {value!r}, wanted {wanted}")
    return value
