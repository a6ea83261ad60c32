"""`edgeq quickstart`: shows what was found and the commands for it, and runs them if the user agrees."""

from __future__ import annotations

import shlex
import subprocess
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from edgeq.cli.printing import say
from edgeq.cli.words import as_options

if TYPE_CHECKING:
    from collections.abc import Sequence


def quickstart(
    yes: Annotated[bool, typer.Option("--yes", help="Run the commands without asking.")] = False,
) -> None:
    """Look at the models, data sets, boards and engines here; propose the commands for them, and run them after a yes.

    `edgeq` alone does the same in a folder with a model. Nothing runs where nobody can be asked, except with --yes.
    """
    from edgeq.verbs.quickstart import look_around

    found = look_around()
    for line in found.surroundings.lines:
        say(as_options(line))
    if found.missing is not None:
        say(f"error: {found.missing}", err=True)
        raise typer.Exit(1)
    say()
    for words in found.commands:
        say(_command(words))
    say()
    if not yes and not _agreed():
        return
    for words in found.commands:
        say(f"$ {_command(words)}")
        sys.stdout.flush()
        if code := subprocess.run([sys.executable, "-m", "edgeq", *words], check=False).returncode:
            raise typer.Exit(code)


def _agreed() -> bool:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    return typer.confirm("Run them?")


def _command(words: Sequence[str]) -> str:
    """Returns a command as it is typed; a pattern is left for the shell."""
    return " ".join(["edgeq", *(word if "*" in word and " " not in word else shlex.quote(word) for word in words)])
