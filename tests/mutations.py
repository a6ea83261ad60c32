"""Documents that were changed in one place, as damage, another program or malice would: for tests of what is read.

Changes are made to the text, so that the result need not be JSON or TOML any more.
"""

from __future__ import annotations

import json
import random
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edgeq.errors import MAX_MESSAGE, EdgeqError

_MARK = "@@changed@@"
_VALUES: dict[str, str] = {
    "null": "null",
    "true": "true",
    "minus one": "-1",
    "zero": "0",
    "a fraction": "0.5",
    "a large float": "1e308",
    "a float beyond float64": "1e400",
    "the largest integer": str(2**63 - 1),
    "an integer beyond 64 bits": str(2**63),
    "an integer beyond floats": str(10**400),
    "an integer of 5,000 digits": "9" * 5000,
    "NaN": "NaN",
    "infinity": "-Infinity",
    "text": '"text"',
    "empty text": '""',
    "a null character": '"a\\u0000b"',
    "a lone surrogate": '"\\ud800"',
    "digits": '"' + "7" * 40 + '"',
    "an empty list": "[]",
    "a list": "[1, null, {}]",
    "an empty object": "{}",
    "an object": '{"a": [1]}',
    "a nested list": "[" * 70 + "]" * 70,
    "a deep list": "[" * 100_000 + "]" * 100_000,
    "an open list": "[" * 100_000,
    "a deep object": '{"a":' * 50_000 + "1" + "}" * 50_000,
}
_IN_TOML = {"null": '"null"', "NaN": "nan", "infinity": "-inf"}


def surprise(path: Path, read: Callable[[Path], object]) -> str | None:
    """Returns what reading a file raised that is no error of ours, is more than a line, or does not name the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read(path)
    except EdgeqError as error:
        said = str(error)
        # What is wrong between results, and not in one file of them, names the artifact.
        named = path.name in said or path.stem in said or str(path.parent) in said or "x86" in said
        if "\n" in said or len(said) > MAX_MESSAGE or not (named or "a prediction that cannot be used" in said):
            return f"{said[:200]!r}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:120]}"
    return None


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield from _paths(entry, (*path, key))


def mutate_json(document: Any, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yields what was changed, and the changed text, `count` times."""
    rng = random.Random(seed)  # noqa: S311 - nothing secret
    # Of long lists every entry is like the first ones.
    paths = [path for path in _paths(document) if not any(isinstance(step, int) and step > 3 for step in path)]
    for _ in range(count):
        path = rng.choice(paths)
        name, change = rng.choice(_CHANGES)
        yield f"{name} at {list(path)}", change(document, path, rng)


def mutate_toml(text: str, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """The same for TOML: the value of a line is replaced, or a line left out, doubled or cut."""
    rng = random.Random(seed)  # noqa: S311 - nothing secret
    lines = text.splitlines()
    for _ in range(count):
        number = rng.randrange(len(lines))
        key, equals, _ = lines[number].partition("=")
        name = rng.choice([*_VALUES, "left out", "doubled", "cut", "another key"])
        changed = list(lines)
        if name == "left out":
            del changed[number]
        elif name == "doubled":
            changed.insert(number, lines[number])
        elif name == "cut":
            changed[number:] = [lines[number][: len(lines[number]) // 2]]
        elif name == "another key" or not equals:
            changed[number] = f"another{lines[number]}"
        else:
            changed[number] = f"{key}= {_IN_TOML.get(name, _VALUES[name])}"
        yield f"{name} in line {number + 1}", "\n".join(changed).encode("utf-8", "surrogatepass")


def _replaced(value: str) -> Callable[[Any, tuple[Any, ...], random.Random], bytes]:
    def change(document: Any, path: tuple[Any, ...], _rng: random.Random) -> bytes:
        return json.dumps(_with(document, path, _MARK)).replace(f'"{_MARK}"', value).encode()

    return change


def _with(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[path[0]] = _with(copy[path[0]], path[1:], value)
    return copy


def _without(document: Any, path: tuple[Any, ...], _rng: random.Random) -> bytes:
    if not path:
        return b""
    parent = document
    for step in path[:-1]:
        parent = parent[step]
    rest = dict(parent) if isinstance(parent, dict) else list(parent)
    del rest[path[-1]]
    return json.dumps(_with(document, path[:-1], rest)).encode()


def _doubled(document: Any, path: tuple[Any, ...], _rng: random.Random) -> bytes:
    """Gives a key of an object twice, with different values; doubles an entry of a list."""
    if not path:
        return json.dumps(document).encode() * 2
    text = json.dumps(_with(document, path, _MARK))
    value = document
    for step in path:
        value = value[step]
    again = f"{json.dumps(path[-1])}: " if isinstance(path[-1], str) else ""
    return text.replace(f'"{_MARK}"', f"{json.dumps(value)}, {again}[3]").encode()


def _renamed(document: Any, path: tuple[Any, ...], rng: random.Random) -> bytes:
    if not path or not isinstance(path[-1], str):
        return _without(document, path, rng)
    return json.dumps(document).replace(f'"{path[-1]}"', '"another"', 1).encode()


def _cut(document: Any, _path: tuple[Any, ...], rng: random.Random) -> bytes:
    text = json.dumps(document).encode()
    return text[: rng.randrange(len(text))]


def _flipped(document: Any, _path: tuple[Any, ...], rng: random.Random) -> bytes:
    text = bytearray(json.dumps(document).encode())
    text[rng.randrange(len(text))] ^= 1 << rng.randrange(8)
    return bytes(text)


_CHANGES: list[tuple[str, Callable[[Any, tuple[Any, ...], random.Random], bytes]]] = [
    *((name, _replaced(value)) for name, value in _VALUES.items()),
    ("left out", _without),
    ("doubled", _doubled),
    ("renamed", _renamed),
    ("cut", _cut),
    ("a flipped bit", _flipped),
]


def mutate_bytes(content: bytes, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """The same for files of any form: bits, bytes, blocks and lengths at random places."""
    rng = random.Random(seed)  # noqa: S311 - nothing secret
    for number in range(count):
        name, change = _BYTE_CHANGES[number % len(_BYTE_CHANGES)]
        changed = bytearray(content)
        # Headers decide what is allocated, so every other change is made there.
        place = rng.randrange(min(len(changed), 256) if number // len(_BYTE_CHANGES) % 2 else len(changed))
        change(changed, place, rng)
        yield f"{name} at byte {place}", bytes(changed)


def mutate_lines(text: str, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """The same for texts that are not JSON: a word or number is replaced, a line left out, doubled or cut, or bytes."""
    rng = random.Random(seed)  # noqa: S311 - nothing secret
    for number in range(count):
        lines = text.splitlines()
        row = rng.randrange(len(lines))
        name = ("a word", "left out", "doubled", "cut", "bytes")[number % 5]
        if name == "bytes":
            yield next(mutate_bytes(text.encode(), 1, rng.randrange(1 << 30)))
            continue
        if name == "left out":
            del lines[row]
        elif name == "doubled":
            lines.insert(row, lines[row])
        elif name == "cut":
            lines[row:] = [lines[row][: len(lines[row]) // 2]]
        else:
            words = list(re.finditer(r"[\w.+-]+", lines[row]))
            if words:
                word, value = rng.choice(words), rng.choice(_WORDS)
                lines[row] = lines[row][: word.start()] + value + lines[row][word.end() :]
                name = f"{word[0]!r:.40} is {value!r:.40}"
        yield f"{name} in line {row + 1}", "\n".join([*lines, ""]).encode("utf-8", "surrogatepass")


def _set_length(changed: bytearray, place: int, rng: random.Random) -> None:
    """Writes a number that may be read as a length, in 4 or 8 bytes of either order."""
    value = rng.choice((0, 1, 0x7F, 0xFFFF, 1 << 24, (1 << 31) - 1, (1 << 32) - 1, 1 << 40, (1 << 63) - 1))
    size = 8 if value >> 32 else rng.choice((4, 8))
    changed[place : place + size] = value.to_bytes(size, rng.choice(("little", "big")))


def _flip(changed: bytearray, place: int, rng: random.Random) -> None:
    changed[place] ^= 1 << rng.randrange(8)


def _set_byte(changed: bytearray, place: int, rng: random.Random) -> None:
    changed[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _cut_off(changed: bytearray, place: int, _rng: random.Random) -> None:
    del changed[place:]


def _insert(changed: bytearray, place: int, rng: random.Random) -> None:
    changed[place:place] = rng.randbytes(rng.choice((1, 4, 100)))


def _drop(changed: bytearray, place: int, rng: random.Random) -> None:
    del changed[place : place + rng.choice((1, 4, 100))]


def _repeat(changed: bytearray, place: int, rng: random.Random) -> None:
    block = changed[place : place + rng.choice((4, 100, 1000))]
    changed[place:place] = block * rng.choice((1, 1, 100))


def _zeros(changed: bytearray, place: int, rng: random.Random) -> None:
    size = min(rng.choice((4, 100, 4096)), len(changed) - place)
    changed[place : place + size] = bytes(size)


_BYTE_CHANGES: list[tuple[str, Callable[[bytearray, int, random.Random], None]]] = [
    ("a flipped bit", _flip),
    ("a length", _set_length),
    ("another byte", _set_byte),
    ("cut", _cut_off),
    ("inserted bytes", _insert),
    ("dropped bytes", _drop),
    ("doubled bytes", _repeat),
    ("zeros", _zeros),
]
_WORDS = (
    *("", "-1", "0", "1e400", "nan", "-inf", "1e308", "9" * 5000, "9" * 30, "text", "a\0b", "\ud800", "../../etc"),
    *("/dev/zero", "\x1b[2J", "x" * 100_000, "<a>" * 2000, "&lol;" * 100, "[" * 1000, "{}", "null", "- " * 500),
)
