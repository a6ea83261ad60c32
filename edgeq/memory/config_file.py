"""Reads the `config.json` of a Hugging Face folder: keys and numbers alone, never code of the folder."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from edgeq.boundary import Plain, convert, read_json
from edgeq.errors import InputError, ModelError

Size = Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]
"""A width, a length or a count of a model."""

KIND = "a config.json of transformers"

_CONFIG, _PREPROCESSOR = "config.json", "preprocessor_config.json"
_MAX_BYTES = 1 << 24
# A nested config states only what differs from the defaults of its class; the model's own states all sizes.
_NESTED = ("text_config", "vision_config", "qformer_config")

T = TypeVar("T")


@dataclass(frozen=True)
class ConfigFile:
    """A model's description.

    Attributes:
        path: The file.
        document: What it holds.
        images: What `preprocessor_config.json` next to it holds; empty without.
    """

    path: Path
    document: Mapping[str, Any]
    images: Mapping[str, Any]

    @property
    def model_type(self) -> str:
        """The family."""
        return str(self.document["model_type"])

    @property
    def architecture(self) -> str:
        """The class that the weights are of; empty if the file does not say."""
        stated = self.document.get("architectures")
        return str(stated[0]) if isinstance(stated, list) and stated else ""

    @property
    def name(self) -> str:
        """What a table calls the model: its folder, or the file if it has a name to itself."""
        return self.path.resolve().parent.name if self.path.name == _CONFIG else self.path.stem

    def read(self, wanted: type[T], key: str = "", required: Collection[str] = ()) -> T:
        """Returns the config, or a nested one, as a type.

        Args:
            wanted: The type.
            key: Name of the nested config; empty for the model's own.
            required: Keys that must be stated.

        Raises:
            InputError: a key is missing, or a value is not what the type wants.
        """
        found, place = (self.document.get(key) or {}, f"$.{key}") if key else (self.document, "$")
        if isinstance(found, Mapping):
            missing = [name for name in required if found.get(name) is None]
            if missing:
                raise InputError(f"{self.path}: {place} has no {missing[0]!r}; wanted {KIND}, whole")
            found = {name: value for name, value in found.items() if value is not None}
        return convert(found, wanted, source=self.path, kind=KIND, place=place)

    def nested(self, key: str) -> Mapping[str, Any]:
        """Returns a nested config; empty if there is none."""
        found = self.document.get(key)
        return found if isinstance(found, Mapping) else {}

    def require_architecture(self, known: Collection[str]) -> str:
        """Returns the class that the weights are of, by default the first of those that are known.

        Raises:
            ModelError: it is another one, whose weights would be counted wrong.
        """
        stated = self.architecture or next(iter(known))
        if stated not in known:
            raise ModelError(f"{self.path}: is of the class {stated}, wanted one of {', '.join(known)}")
        return stated


def read_config(model: Path) -> ConfigFile:
    """Returns the description of a model.

    Args:
        model: A Hugging Face folder, or its `config.json`.

    Raises:
        InputError: there is no config.json, it is not JSON, or it names no family.
        ModelError: the model brings code, which is never run.
    """
    path = model / _CONFIG if model.is_dir() else model
    if model.is_dir() and not path.is_file():
        raise InputError(f"{model}: holds no {_CONFIG}; wanted a Hugging Face folder, or its {_CONFIG}")
    document = _object(path)
    brings_code = [document, *(document.get(key) for key in _NESTED)]
    if any(isinstance(each, Mapping) and each.get("auto_map") for each in brings_code):
        raise ModelError(
            f"{path}: brings code (auto_map, which needs trust_remote_code), and edgeq never runs code of a model; "
            "take a version of the model that transformers supports itself"
        )
    if not isinstance(document.get("model_type"), str):
        raise InputError(f"{path}: has no 'model_type'; wanted {KIND}")
    beside = path.with_name(_PREPROCESSOR)
    return ConfigFile(path, document, _object(beside) if beside.is_file() else {})


def _object(path: Path) -> dict[str, Any]:
    document = read_json(path, Plain, kind=KIND, max_bytes=_MAX_BYTES)
    if not isinstance(document, dict):
        raise InputError(f"{path}: holds no keys; wanted {KIND}")
    return document
