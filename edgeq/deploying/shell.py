"""Shell scripts for POSIX sh, which every board has. What a script needs is checked before it does anything."""

from __future__ import annotations

from collections.abc import Iterable

from edgeq.deploying.quoting import shell_word


class Script:
    """A script in the making. `$here` is the folder that it lies in."""

    def __init__(self, purpose: str, usage: Iterable[str]) -> None:
        self._lines = [
            "#!/bin/sh",
            f"# {purpose}",
            *(f"#   {line}" for line in usage),
            "set -eu",
            'here=$(CDPATH="" cd -- "$(dirname -- "$0")" && pwd)',
            "",
            "fail() {",
            "    printf 'error: %s\\n' \"$1\" >&2",
            "    exit 1",
            "}",
            "",
        ]

    def add(self, *lines: str) -> None:
        """Adds lines as they are: what they name from outside is quoted by the caller."""
        self._lines += lines

    def require_program(self, name: str, advice: str, otherwise: str, variable: str = "") -> None:
        """Ends the script with one line if a program is missing.

        Args:
            name: The program.
            advice: What to do.
            otherwise: Where else it may lie; empty for nowhere.
            variable: Environment variable that names another one, and the shell variable that holds it then.
        """
        word = f'"${variable.lower()}"' if variable else shell_word(name)
        if variable:
            self.add(f"{variable.lower()}=${{{variable}:-{name}}}")
        if otherwise:
            self.add(
                f"if ! command -v {word} >/dev/null 2>&1 && [ -x {shell_word(otherwise)} ]; then",
                f"    {variable.lower()}={shell_word(otherwise)}",
                "fi",
            )
        message = shell_word(f"{name} is missing; {advice}")
        self.add(f"command -v {word} >/dev/null 2>&1 || fail {message}")

    def require_argument(self, name: str, meaning: str) -> None:
        """Ends the script with one line if it has no argument."""
        self.add(f"[ $# -ge 1 ] || fail {shell_word(f'{name} is missing: {meaning}')}")

    def require_file(self, path: str, advice: str) -> None:
        """Ends the script with one line if a file of the folder is missing."""
        self.add(f'[ -f "$here"/{shell_word(path)} ] || fail {shell_word(f"{path} is missing; {advice}")}')

    def text(self) -> str:
        """Returns the script."""
        return "\n".join(self._lines) + "\n"


def in_folder(path: str) -> str:
    """Returns a path of the folder as a word of a script."""
    return f'"$here"/{shell_word(path)}'
