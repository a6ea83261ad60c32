"""What model files say about themselves: class names, the task, the input's size, as exporters write them.

Ultralytics writes Python literals (`names`, `imgsz`, `stride`, `task`) into the properties of an ONNX file, and the
same as JSON or a literal into a ZIP archive at the end of a TFLite file. Others write JSON, or one name per line.
Nothing is evaluated: literals are parsed, and only up to a size and a depth.
"""

from __future__ import annotations

import ast
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_NAME_KEYS = ("names", "class_names", "classes", "labels", "id2label", "character")
_MAX_TEXT = 1 << 18
_MAX_DEPTH = 8
_MAX_NAMES = 20_000
_MAX_NAME = 200
_MAX_SIDE = 1 << 14
_TEXT_FILES = (".json", ".txt")


@dataclass(frozen=True)
class FileMetadata:
    """What a model file says about itself.

    Attributes:
        names: Class names by class index; empty if it names none, or only numbers them.
        classes: How many classes it names or numbers; 0 if it does not say.
        size: Height and width of the input in pixels, or `None`.
        task: What the model is for, as its exporter calls it (`detect`, `segment`, ...); empty if it does not say.
        keypoints: How many keypoints an object has, and how many numbers each, or `None`.
        author: Who made the model or the exporter.
        properties: Everything as it was written.
    """

    names: tuple[str, ...] = ()
    classes: int = 0
    size: tuple[int, int] | None = None
    task: str = ""
    keypoints: tuple[int, int] | None = None
    author: str = ""
    properties: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, properties: Mapping[str, str]) -> FileMetadata:
        """Returns what properties say, as far as it can be understood; the rest is as if it were not there."""
        found = next((names for key in _NAME_KEYS if (names := _names(properties.get(key, "")))), ())
        numbered = all(name in (str(index), f"class{index}", f"class_{index}") for index, name in enumerate(found))
        return cls(
            names=() if numbered else found,
            classes=len(found),
            size=_size(properties.get("imgsz", "")),
            task=properties.get("task", "")[:_MAX_NAME],
            keypoints=_size(properties.get("kpt_shape", "")),
            author=properties.get("author", "")[:_MAX_NAME],
            properties=properties,
        )


def tflite_metadata(path: Path) -> FileMetadata:
    """Returns what lies in the archive at the end of a TFLite file: the properties, or names, in its files of text."""
    properties: dict[str, str] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if Path(entry.filename).suffix in _TEXT_FILES and entry.file_size <= _MAX_TEXT:
                    with archive.open(entry) as stream:
                        properties |= _properties(stream.read(_MAX_TEXT).decode("utf-8", "replace"))
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError):
        return FileMetadata.of(properties)
    return FileMetadata.of(properties)


def _properties(text: str) -> dict[str, str]:
    """Returns the entries of a literal object, as texts; a plain text is taken for one name per line."""
    value = _literal(text)
    if isinstance(value, dict):
        return {str(key): entry if isinstance(entry, str) else repr(entry) for key, entry in value.items()}
    return {"labels": text} if value is None else {}


def _literal(text: str) -> Any:
    """Returns the value of a JSON text or Python literal; `None` for what is neither, too long, or nested too deep."""
    if len(text) > _MAX_TEXT or _depth(text) > _MAX_DEPTH:
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return None


def _depth(text: str) -> int:
    """Returns how deep brackets are nested at most, those within texts included; signs count too, they nest as well."""
    depth = deepest = run = 0
    for letter in text:
        run = run + 1 if letter in "-+~" else 0
        depth += (letter in "([{") - (letter in ")]}")
        deepest = max(deepest, depth, run)
    return deepest


def _names(text: str) -> tuple[str, ...]:
    value = _literal(text)
    if isinstance(value, dict):
        value = {str(key): name for key, name in value.items()}
        value = [value.get(str(index)) for index in range(len(value))]
    elif value is None and "\n" in text.strip():
        value = [line.strip() for line in text.strip().splitlines()]
    if not isinstance(value, Sequence) or isinstance(value, str) or not 0 < len(value) <= _MAX_NAMES:
        return ()
    if not all(isinstance(name, (str, int)) and 0 < len(str(name)) <= _MAX_NAME for name in value):
        return ()
    names = tuple("".join(letter for letter in str(name) if letter.isprintable()) for name in value)
    return names if all(names) else ()


def _size(text: str) -> tuple[int, int] | None:
    value = _literal(text)
    sides = [value, value] if isinstance(value, int) else value
    if not isinstance(sides, (list, tuple)) or len(sides) != 2:
        return None
    if not all(isinstance(side, int) and not isinstance(side, bool) and 0 < side <= _MAX_SIDE for side in sides):
        return None
    return sides[0], sides[1]
