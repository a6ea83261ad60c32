"""Names and texts that come from outside, in the languages of a deployment folder: none of them runs or breaks a file.

Names of files and folders become plain; everything else (tensors, labels) is quoted by the rules of the language that
it stands in.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex

from edgeq.errors import InputError

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MAX_LENGTH = 120


def plain_name(name: str) -> str:
    """Returns a name that every shell, server and file system takes as it is: `[A-Za-z0-9._-]`, at most 120 characters.

    A plain name stays. In another one each other character becomes `_`, and the start of its SHA-256 is added before
    its last suffix, so that two names stay two.
    """
    if _PLAIN.fullmatch(name) and len(name) <= _MAX_LENGTH:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    stem, dot, suffix = re.sub(r"[^A-Za-z0-9._-]", "_", name).rpartition(".")
    stem, ending = (stem, f".{suffix}") if dot and len(suffix) <= len("tflite") else (f"{stem}{dot}{suffix}", "")
    return f"{stem.lstrip('._-')[:80] or 'model'}-{digest}{ending}"


def shell_word(text: str) -> str:
    """Returns a text as one word of a POSIX shell.

    Raises:
        InputError: it holds a NUL character, which no argument of a program can.
    """
    if "\0" in text:
        raise InputError(f"{text!r}: holds a NUL character, which no program takes as an argument; rename it")
    return shlex.quote(text)


def pbtxt_string(text: str) -> str:
    """Returns a text as a string of protobuf's text format, in ASCII."""
    return '"' + "".join(_pbtxt_byte(byte) for byte in text.encode("utf-8", "surrogatepass")) + '"'


def _pbtxt_byte(byte: int) -> str:
    character = chr(byte)
    return character if 0x20 <= byte < 0x7F and character not in "\"\\'" else f"\\{byte:03o}"


def code_span(text: str) -> str:
    """Returns a text as a code span of Markdown on one line, within a table too; odd characters as JSON has them."""
    shown = text if text.isprintable() else json.dumps(text)[1:-1]
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    space = " " if shown.startswith("`") or shown.endswith("`") or not shown.strip() else ""
    return f"{ticks}{space}{shown}{space}{ticks}".replace("|", "\\|")


def one_line(text: str) -> str:
    """Returns a text without line breaks and other control characters, for files of a line per text."""
    return "".join(character if character.isprintable() else " " for character in text)
