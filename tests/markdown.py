"""Code blocks of Markdown pages, and whether a page says that one is not run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_NOT_RUN = re.compile(r"<!-- not run: (.+) -->")


@dataclass(frozen=True)
class Block:
    """A code block of a page.

    Attributes:
        line: Number of its first line.
        language: What a fence names; `sh` for an indented block.
        text: The code, without indentation and fences.
        above: The last line of text above it.
    """

    line: int
    language: str
    text: str
    above: str

    @property
    def not_run(self) -> str | None:
        """Why the page says that it is not run."""
        found = _NOT_RUN.fullmatch(self.above)
        return found[1] if found else None


def code_blocks(text: str) -> Iterator[Block]:
    """Yields the fenced and the indented code blocks of a page, in order."""
    lines = text.splitlines()
    above, number = "", 0
    while number < len(lines):
        line = lines[number]
        start = number + 1
        if line.startswith("```"):
            end = next(at for at in range(start, len(lines)) if lines[at].startswith("```"))
            yield Block(start, line[3:].strip(), "\n".join(lines[start:end]) + "\n", above)
            number = end
        elif line.startswith("    ") and (number == 0 or not lines[number - 1].strip()):
            end = start
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            code = "\n".join(each[4:] for each in lines[number:end]).rstrip("\n")
            yield Block(start, "sh", code + "\n", above)
            number = end - 1
        if line.strip():
            above = line.strip()
        number += 1


@dataclass(frozen=True)
class ShellCommand:
    """A line of a shell block: variables set for it, and its words, patterns not yet expanded."""

    environment: dict[str, str]
    words: list[str]

    def expanded(self, folder: Path) -> list[str]:
        """Returns the words as a shell in that folder would pass them on; a pattern must match something."""
        words = []
        for word in self.words:
            names = sorted(str(path.relative_to(folder)) for path in folder.glob(word)) if "*" in word else [word]
            if not names:
                raise FileNotFoundError(f"{word} matches nothing in {folder}")
            words += names
        return words


def shell_commands(text: str) -> Iterator[ShellCommand]:
    """Yields the commands of a shell block, one per line or per lines joined by a backslash."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        environment = {}
        while words and re.match(r"[A-Z_]+=", words[0]):
            name, _, value = words.pop(0).partition("=")
            environment[name] = value
        if words:
            yield ShellCommand(environment, words)
