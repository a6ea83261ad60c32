"""Writes what the commands say about themselves to docs/cli.md and, as one table, to README.md.

`make docs` runs it; tests/test_docs.py fails if the files are out of step.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import typer
import typer.main

from edgeq.files import write_text

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "cli.md"
README = ROOT / "README.md"
BEGIN, END = "<!-- cli:begin -->", "<!-- cli:end -->"


@dataclass(frozen=True)
class Parameter:
    """An argument or option of a command.

    Attributes:
        spelling: As written on the command line: `--out -o VALUE`, `--keep / --no-keep`, `MODEL`, `IMAGES...`.
        help: Its help text; the default value is added at its end.
        required: Whether the command fails without it.
        is_option: Whether it is an option; otherwise a positional argument.
    """

    spelling: str
    help: str
    required: bool
    is_option: bool


@dataclass(frozen=True)
class Command:
    """A command with its help text and its parameters; hidden ones are left out."""

    name: str
    help: str
    parameters: tuple[Parameter, ...]

    @property
    def summary(self) -> str:
        """The first paragraph of the help text, on one line."""
        return " ".join(self.help.partition("\n\n")[0].split())

    @property
    def usage(self) -> str:
        """The command line with its arguments and required options."""
        arguments = [
            each.spelling if each.required else f"[{each.spelling}]" for each in self.parameters if not each.is_option
        ]
        needed = [each.spelling for each in self.parameters if each.is_option and each.required]
        return " ".join([self.name, *arguments, *needed, "[OPTIONS]"])


def read_commands(app: typer.Typer, program: str = "edgeq") -> list[Command]:
    """Returns the visible commands of an app, in the order of its help; first the app itself, if it takes options."""
    return list(_commands(typer.main.get_command(app), program))


def reference(commands: list[Command]) -> str:
    """Returns Markdown with one section a command: usage, help text, a table of arguments and options."""
    head = "<!-- Written by `make docs` from edgeq/cli/app.py; change the help texts there. -->\n# Commands\n"
    return "\n".join([head, *(_section(command) for command in commands)])


def overview(commands: list[Command]) -> str:
    """Returns a Markdown table of the commands with one sentence each."""
    rows = [
        f"| [`{command.name}`](docs/cli.md#{_slug(command.name)}) | {_cell(command.summary)} |"
        for command in commands
        if " " in command.name
    ]
    return "\n".join(["| Command | What it does |", "|---|---|", *rows])


def with_overview(readme: str, commands: list[Command]) -> str:
    """Returns the README's text with the table between its two markers replaced.

    Raises:
        ValueError: the markers are missing, doubled or in the wrong order.
    """
    pattern = re.compile(f"(?<={BEGIN}\n).*(?={END})", re.DOTALL)
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or not pattern.search(readme):
        raise ValueError(f"README.md: wanted one line {BEGIN} and after it one line {END}")
    return pattern.sub(lambda _old: overview(commands) + "\n", readme)


def main() -> None:
    """Writes both files."""
    from edgeq.cli.app import app

    commands = read_commands(app)
    readme = with_overview(README.read_text(encoding="utf-8"), commands)
    write_text(REFERENCE, reference(commands))
    write_text(README, readme)


# typer's classes differ between versions, hence Any; only what all of them have is read here.
def _commands(command: Any, name: str) -> Iterator[Command]:
    if not command.hidden and command.callback is not None:
        hints = get_type_hints(inspect.unwrap(command.callback))
        shown = [each for each in command.params if each.name in hints and not getattr(each, "hidden", False)]
        parameters = tuple(_parameter(each, hints[each.name]) for each in shown)
        yield Command(name, inspect.cleandoc(command.help or ""), parameters)
    for word, child in getattr(command, "commands", {}).items():
        yield from _commands(child, f"{name} {word}")


def _parameter(found: Any, annotation: Any) -> Parameter:
    is_option = found.param_type_name == "option"
    text = " ".join((found.help or "").split())
    is_switch = bool in (annotation, *get_args(annotation))
    if is_option:
        names = " ".join(sorted(found.opts, key=len, reverse=True))
        value = found.metavar or _value(annotation)
        spelling = " / ".join([names, *found.secondary_opts]) if is_switch else f"{names} {value}"
    else:
        # A metavar may bring its own brackets and dots.
        spelling = (found.metavar or found.name.upper()).strip("[].") + ("..." if found.nargs == -1 else "")
    if text and not is_switch and (default := _default(found)):
        text += f" Default: `{default}`."
    return Parameter(spelling, text, found.required, is_option)


def _value(annotation: Any) -> str:
    """Returns the placeholder for a value of the annotated type: `INTEGER`, `a|b`, ..."""
    inner = [argument for argument in get_args(annotation) if argument is not type(None)]
    if get_origin(annotation) is Literal:
        return "|".join(map(str, inner))
    if inner:
        return _value(inner[0])
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return "|".join(str(member.value) for member in annotation)
    return {int: "INTEGER", float: "NUMBER", Path: "PATH"}.get(annotation, "TEXT")


def _default(found: Any) -> str:
    default = found.default
    if default is None or default in ((), [], "") or callable(default) or not found.show_default:
        return ""
    values = default if isinstance(default, list | tuple) else [default]
    return " ".join(str(value.value if isinstance(value, Enum) else value) for value in values)


def _section(command: Command) -> str:
    rows = [f"| `{_cell(each.spelling)}` | {_cell(each.help)} |" for each in command.parameters]
    table = ["| Argument or option | Meaning |", "|---|---|", *rows, ""] if rows else []
    return "\n".join([f"## {command.name}", "", f"    {command.usage}", "", command.help, "", *table])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _slug(heading: str) -> str:
    return heading.replace(" ", "-")


if __name__ == "__main__":
    main()
