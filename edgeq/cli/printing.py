"""How the command line prints lines: nothing that a file or a device says controls the terminal."""

from __future__ import annotations

import typer

from edgeq.wording import printable


def say(text: object = "", *, err: bool = False) -> None:
    """Prints a text, to stderr if it is an error; control characters are spelt out."""
    typer.echo(printable(str(text), keep="\n\t"), err=err)
