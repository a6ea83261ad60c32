"""What all commands have in common: how they end when they are interrupted, and which numbers they take."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import typer
import typer.core

from edgeq.cli.defaults import project_defaults
from edgeq.cli.events import INTERRUPTED
from edgeq.cli.names import COMMANDS, QUANTIZE_DEFAULTS
from edgeq.cli.printing import say
from edgeq.project import FILE


class Commands(typer.core.TyperGroup):
    """Says in one line that a command was interrupted; takes no number that is not finite."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for command in self.commands.values():
            if command.callback is not None:
                command.callback = _finite(command.callback)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Returns name, command and the rest of its words; what other tools call a command is that command."""
        typed = args[0]
        name, command, rest = super().resolve_command(ctx, [COMMANDS.get(typed, typed), *args[1:]])
        if name is not None and command is not None and not ctx.resilient_parsing:
            # Words are parsed a second time for it, so only where a project has defaults.
            defaults = project_defaults(name, _given(command, name, rest, ctx)) if FILE.is_file() else {}
            ctx.default_map = {name: {**defaults, **QUANTIZE_DEFAULTS.get(typed, {})}}
        return name, command, rest

    def invoke(self, ctx: Any) -> Any:
        """Runs a command; an interruption is one line."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            say("error: interrupted", err=True)
            raise typer.Exit(INTERRUPTED) from None


def _given(command: Any, name: str, words: list[str], parent: Any) -> set[str]:
    """Returns the parameters that words state; a word that is wrong is refused later."""
    context = command.make_context(name, [*words], parent=parent, resilient_parsing=True)
    sources = {each.name: context.get_parameter_source(each.name) for each in command.params}
    return {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}


def _finite(run: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a command that refuses `nan` and `inf`: no limit stops the one, and nothing ever reaches the other."""

    @functools.wraps(run)
    def checked(**options: Any) -> Any:
        for name, value in options.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise typer.BadParameter(f"--{name.replace('_', '-')} {value}: wanted a finite number")
        return run(**options)

    return checked
