"""`Bundle`: a folder with the parts of one model and `edgeq-bundle.json`, which says how they belong together."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from edgeq.boundary import Positive, convert, read_json
from edgeq.bundles.contents import (
    BundleFile,
    BundleMemory,
    BundlePart,
    Edge,
    ImageInput,
    KeyValueCache,
    Similarity,
    SpecialTokens,
)
from edgeq.errors import InputError, MismatchError
from edgeq.files import has_content, write_json

MANIFEST_NAME = "edgeq-bundle.json"
MANIFEST_VERSION = 1

_KIND = "a manifest of a bundle"
_EXPORT_AGAIN = "export the model again"


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A model in parts.

    Attributes:
        folder: Where its files lie; the manifest does not store it.
        name: What the model is called.
        family: Its `model_type` in transformers.
        architecture: Its class in transformers.
        target: Name of the target that it was written for.
        opset: Version of ONNX's operators in its files.
        parts: Its parts, in the order in which they run.
        edges: Which outputs feed which inputs.
        cache: The decoder's keys and values; `None` without a decoder.
        positions: What the decoder's `position_ids` are: `sequential` numbers `(batch, seq)`, those of Qwen2-VL
            `(3, batch, seq)` for time, row and column, or `none`.
        tokens: Its special tokens.
        images: How images are prepared; `None` without a vision part.
        similarity: How vectors of two towers are compared; `None` without two towers.
        tokenizer: Files of the tokenizer, chat templates included; none for a model of bare numbers.
        processor: Files that say how images are prepared, as transformers reads them.
        configuration: `config.json` and `generation_config.json`, as transformers reads them.
        memory: What it takes.
        source_digest: SHA-256 over the digests of the files that it was made from.
        tools: Package -> version of what wrote the files.

    Raises:
        ValueError: a part occurs twice, or an edge leads from or to something that the parts do not have.
    """

    folder: Path = Path()
    name: str
    family: str
    architecture: str
    target: str
    opset: Positive
    parts: tuple[BundlePart, ...]
    edges: tuple[Edge, ...] = ()
    cache: KeyValueCache | None = None
    positions: Literal["sequential", "multimodal", "none"] = "none"
    tokens: SpecialTokens = field(default_factory=SpecialTokens)
    images: ImageInput | None = None
    similarity: Similarity | None = None
    tokenizer: tuple[BundleFile, ...] = ()
    processor: tuple[BundleFile, ...] = ()
    configuration: tuple[BundleFile, ...] = ()
    memory: BundleMemory
    source_digest: str
    tools: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [part.name for part in self.parts]
        if len(set(names)) < len(names):
            raise ValueError(f"a part occurs twice in {', '.join(names)}")
        for edge in self.edges:
            _require_fitting(edge, self.part(edge.source), self.part(edge.target))
        if self.cache is not None:
            _require_cache(self.cache, self.part("decoder"))

    @property
    def files(self) -> tuple[BundleFile, ...]:
        """All files, without the manifest."""
        models = [file for part in self.parts for file in (part.model, part.weights) if file is not None]
        return (*models, *self.tokenizer, *self.processor, *self.configuration)

    def part(self, name: str) -> BundlePart | None:
        """Returns the part of that name, if the bundle has it."""
        return next((part for part in self.parts if part.name == name), None)

    def require_part(self, name: str) -> BundlePart:
        """Returns the part of that name.

        Raises:
            InputError: the bundle has no such part.
        """
        if (found := self.part(name)) is None:
            known = ", ".join(part.name for part in self.parts)
            raise InputError(f"{self.folder}: has no part {name!r}; its parts are {known}")
        return found

    def path(self, name: str) -> Path:
        """Returns where the model file of a part lies; raises as `require_part` does."""
        return self.folder / self.require_part(name).model.file

    def to_json(self) -> dict[str, Any]:
        """Returns the content of its manifest."""
        document = dataclasses.asdict(self) | {"manifest_version": MANIFEST_VERSION}
        del document["folder"]
        return document

    def save(self) -> None:
        """Writes the manifest into `folder`."""
        write_json(self.folder / MANIFEST_NAME, self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Bundle:
        """Returns the bundle of a folder, or of its manifest; every file is there and has the bytes described.

        Raises:
            InputError: there is no manifest, or it is not one of ours.
            MismatchError: a file is missing, or is not the one that the manifest describes.
        """
        bundle = read_manifest(Path(path))
        for file in bundle.files:
            if (problem := file_problem(bundle, file)) is not None:
                raise MismatchError(problem)
        return bundle


def is_bundle(path: Path) -> bool:
    """Returns whether a path is the folder or the manifest of a bundle."""
    return path.name == MANIFEST_NAME or (path / MANIFEST_NAME).is_file()


def read_manifest(path: Path) -> Bundle:
    """Returns what the manifest of a bundle says; its files are not looked at.

    Raises:
        InputError: there is no manifest, or it is not one of ours.
    """
    manifest = path if path.name == MANIFEST_NAME else path / MANIFEST_NAME
    if not manifest.is_file():
        raise InputError(f"{path}: holds no {MANIFEST_NAME}; wanted the folder that `edgeq export` wrote of a model")
    document: dict[str, Any] = read_json(manifest, dict[str, Any], kind=_KIND, advice=_EXPORT_AGAIN)
    return parse_bundle(document, manifest)


def parse_bundle(document: Mapping[str, Any], manifest: Path) -> Bundle:
    """Returns what the content of a manifest says; its files are not looked at.

    Args:
        document: The content.
        manifest: Where it lies; the files are next to it.

    Raises:
        InputError: it is not one of ours.
    """
    version = convert(document, _Versioned, source=manifest, kind=_KIND, advice=_EXPORT_AGAIN).manifest_version
    if version != MANIFEST_VERSION:
        raise InputError(
            f"{manifest}: manifest version {version}, this edgeq reads {MANIFEST_VERSION}; {_EXPORT_AGAIN}"
        )
    document = _without_number_of_tiles({key: value for key, value in document.items() if key != "folder"}, manifest)
    bundle = convert(document, Bundle, source=manifest, kind=_KIND, advice=_EXPORT_AGAIN)
    return dataclasses.replace(bundle, folder=manifest.parent)


class _Versioned(msgspec.Struct):
    manifest_version: int


def _without_number_of_tiles(document: dict[str, Any], manifest: Path) -> dict[str, Any]:
    """Returns a manifest whose key `tiles`, where it is a number as in earlier ones, says nothing.

    The number was always 0. Such a manifest does not say which values patches have.

    Raises:
        InputError: it is an earlier one of a model that takes patches.
    """
    images = document.get("images")
    if not isinstance(images, Mapping) or images.get("tiles") != 0:
        return document
    if images.get("patches") is not None:
        raise InputError(
            f"{manifest}: `tiles` in `images` is a number, as in bundles of an earlier edgeq, which do not say how "
            f"values of patches are scaled; {_EXPORT_AGAIN}"
        )
    return document | {"images": {**images, "tiles": None}}


def _require_fitting(edge: Edge, source: BundlePart | None, target: BundlePart | None) -> None:
    """Raises `ValueError` unless an edge joins an output to an input of its type and width."""
    output = None if source is None else source.output(edge.output)
    taken = None if target is None else target.input(edge.input)
    said = f"the edge {edge.source}.{edge.output} -> {edge.target}.{edge.input}"
    if output is None or taken is None:
        raise ValueError(f"{said} leads {'from' if output is None else 'to'} something that the part does not have")
    fixed = [
        (a, b) for a, b in zip(output.shape, taken.shape, strict=False) if isinstance(a, int) and isinstance(b, int)
    ]
    if output.dtype != taken.dtype or len(output.shape) != len(taken.shape) or any(a != b for a, b in fixed):
        raise ValueError(
            f"{said} joins {output.dtype} {list(output.shape)} to {taken.dtype} {list(taken.shape)}; parts of "
            "different models were exchanged"
        )


def _require_cache(cache: KeyValueCache, decoder: BundlePart | None) -> None:
    """Raises `ValueError` unless the decoder takes and gives every tensor of the cache."""
    if decoder is None:
        raise ValueError("there is a cache, and no decoder")
    given = {each.name for each in decoder.inputs}, {each.name for each in decoder.outputs}
    for names, wanted in zip(given, (cache.past_names, cache.present_names), strict=True):
        if missing := [name for name in wanted if name not in names]:
            raise ValueError(f"the decoder has no {missing[0]!r}, which the cache of {cache.layers} layers needs")


def file_problem(bundle: Bundle, file: BundleFile) -> str | None:
    """Returns what is wrong with a file of a bundle, `None` if it has the bytes that the manifest describes."""
    path = bundle.folder / file.file
    if not path.is_file():
        return f"{path}: is missing; the bundle's manifest lists it, {_EXPORT_AGAIN}"
    if has_content(path, file.size_bytes, file.sha256):
        return None
    return (
        f"{path}: is not the file that {MANIFEST_NAME} describes; it was changed, or exchanged with a part of another "
        f"bundle, {_EXPORT_AGAIN}"
    )
