"""Documents that were changed in one place, as damage, another program or malice would: for tests of what is read.

Changes are made to the text, so that the result need not be JSON or TOML any more.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

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
