"""Parameters as options: messages below the command line name `vit_plan`, people here are shown --vit-plan."""

from __future__ import annotations

import functools
import re

from edgeq.errors import EdgeqError

_WORD = re.compile(r"`([a-z]\w*)`")


def as_options(text: str) -> str:
    """Returns a message with each parameter in backticks as the option that sets it; all else stays as it is.

    A parameter of the Python API is called like its option, which is one in all commands: a message of one command may
    send the user to another, as "export it with `precision` int8" of `edgeq build` does.
    """
    return _WORD.sub(lambda found: _options().get(found[1], found[0]), text)


def said_of(error: Exception) -> str:
    """Returns what the command line says of an error, in one line."""
    said = " ".join(str(error).split())
    if isinstance(error, EdgeqError):
        return as_options(said)
    return f"unexpected {type(error).__name__}: {said} (EDGEQ_DEBUG=1 shows where)"


@functools.cache
def _options() -> dict[str, str]:
    """Returns parameter -> option, of every command."""
    import typer.main

    from edgeq.cli.app import app

    options = {
        option
        for command in typer.main.get_group(app).commands.values()
        for parameter in command.params
        for option in parameter.opts
        if option.startswith("--")
    }
    return {option.removeprefix("--").replace("-", "_"): option for option in options}
