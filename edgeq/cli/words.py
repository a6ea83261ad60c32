"""Parameters as options: messages below the command line name `vit_plan`, people here are shown --vit-plan."""

from __future__ import annotations

import functools
import os
import re

from edgeq.errors import MAX_MESSAGE, EdgeqError
from edgeq.wording import printable

_MAX_NAME = 200

_WORD = re.compile(r"`([a-z]\w*)`")


def as_options(text: str) -> str:
    """Returns a message with each parameter in backticks as the option that sets it; all else stays as it is.

    A parameter of the Python API is called like its option, which is one in all commands: a message of one command may
    send the user to another, as "export it with `precision` int8" of `edgeq build` does.
    """
    return _WORD.sub(lambda found: _options().get(found[1], found[0]), text)


def said_of(error: Exception) -> str:
    """Returns what the command line says of an error, in one line of at most some screens."""
    said = printable(" ".join(str(error).split()))
    if isinstance(error, EdgeqError):
        return _cut(as_options(said))
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{_cut(printable(os.fsdecode(error.filename)), _MAX_NAME)}: {error.strerror}"
    return f"unexpected {type(error).__name__}: {_cut(said)} (EDGEQ_DEBUG=1 shows where)"


def _cut(text: str, length: int = MAX_MESSAGE) -> str:
    return text if len(text) <= length else f"{text[:length]}..."


@functools.cache
def _options() -> dict[str, str]:
    """Returns parameter -> option, of every command and of edgeq itself."""
    import typer.main

    from edgeq.cli.app import app

    group = typer.main.get_group(app)
    options = {
        option
        for command in (group, *group.commands.values())
        for parameter in command.params
        for option in parameter.opts
        if option.startswith("--")
    }
    return {option.removeprefix("--").replace("-", "_"): option for option in options}
