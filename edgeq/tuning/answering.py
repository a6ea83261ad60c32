"""What a worker does with the command `answer`: it opens versions of a bundle, and answers prompts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgeq.boundary import convert
from edgeq.bundles.manifest import parse_bundle
from edgeq.errors import InputError
from edgeq.exporting.artifact import parse_manifest
from edgeq.generation.exchanged_parts import ExchangedParts
from edgeq.generation.model import GeneratingModel, Prompt
from edgeq.generation.parts import OpenParts
from edgeq.generation.search import Limits, Tokens
from edgeq.packing import arrays_from_bytes, arrays_to_bytes
from edgeq.runtimes.commands import field
from edgeq.tuning.machine_lock import shared_machine

_MOST_BYTES = 1 << 30
_IDS, _IMAGE = "ids", "image."
_PACKED = ("uint8", "int32", "int64", "float32", "float64")


def pack_prompt(prompt: Prompt) -> bytes:
    """Returns a prompt as the content of a file.

    Raises:
        InputError: its images are of a type that does not travel.
    """
    for name, array in prompt.images.items():
        if array.dtype.name not in _PACKED:
            raise InputError(
                f"{prompt.name}: its {name} is {array.dtype.name}, which is not sent to workers; omit `workers` and "
                "`scheduler`"
            )
    images = {f"{_IMAGE}{name}": array for name, array in prompt.images.items()}
    return arrays_to_bytes({_IDS: np.array(prompt.ids, np.int64), **images})


def read_prompt(path: Path) -> Prompt:
    """Returns the prompt of a file that holds what `pack_prompt` returned.

    Raises:
        InputError: it is none.
    """
    try:
        arrays = arrays_from_bytes(path.read_bytes(), _MOST_BYTES)
        ids = tuple(arrays.pop(_IDS).tolist())
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: cannot be read as a prompt ({error}); start again") from error
    return Prompt(path.stem[:12], ids, {name.removeprefix(_IMAGE): array for name, array in arrays.items()})


def answers_of(parts: OpenParts, prompts: Sequence[Prompt], max_tokens: int, batch: int) -> list[Tokens]:
    """Returns the answer to each prompt, batch by batch; between batches others may time files.

    Args:
        parts: The parts, open.
        prompts: The prompts.
        max_tokens: Most tokens of an answer.
        batch: Prompts that are read together.

    Raises:
        InputError: a prompt is longer than the model's context.
        EngineError: the engine failed.
    """
    model, limits = GeneratingModel(parts), Limits(parts.bundle.tokens.eos, max_tokens)
    found: list[Tokens] = []
    for begin in range(0, len(prompts), batch):
        with shared_machine():
            found += model.generate(prompts[begin : begin + batch], limits)
    return found


class _Part(msgspec.Struct):
    file: str
    manifest: dict[str, Any]


class Answering:
    """The worker's side: answers one unit after the other, and keeps open what they share."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] = ()
        self._parts: ExchangedParts | None = None
        self._prompts: dict[str, Prompt] = {}

    def digests(self, command: Mapping[str, Any]) -> tuple[list[str], list[str]]:
        """Returns the digests of the files of parts, and of those of prompts, that a command names."""
        return [each.file for each in _parts(command).values()], field(command, "prompts", list)

    def answer(self, command: Mapping[str, Any], paths: Mapping[str, Path]) -> list[dict[str, Any]]:
        """Returns the tokens of each answer.

        Args:
            command: `AnswerUnit.command`.
            paths: Digest -> where the file lies.

        Raises:
            EdgeqError: the command cannot be understood, or the model not be run.
        """
        bundle = parse_bundle(field(command, "bundle", dict), Path("bundle"))
        runtime, threads = field(command, "runtime", str), field(command, "threads", int, type(None))
        key = (bundle.source_digest, runtime, threads)
        if self._parts is None or key != self._key:
            if self._parts is not None:
                self._parts.close()
            self._key, self._parts, self._prompts = key, ExchangedParts(bundle, runtime, threads), {}
        version = {
            part: dataclasses.replace(parse_manifest(paths[each.file], each.manifest), path=paths[each.file])
            for part, each in _parts(command).items()
        }
        prompts = [self._prompt(digest, paths[digest]) for digest in field(command, "prompts", list)]
        max_tokens, batch = field(command, "max_tokens", int), field(command, "batch", int)
        answers = answers_of(self._parts.opened(version), prompts, max_tokens, batch)
        return [{"position": position, "tokens": list(tokens)} for position, tokens in enumerate(answers)]

    def _prompt(self, digest: str, path: Path) -> Prompt:
        """Returns a prompt, which is read once as long as all of them are few."""
        if digest in self._prompts:
            return self._prompts[digest]
        prompt = read_prompt(path)
        if sum(array.nbytes for array in prompt.images.values()) * (len(self._prompts) + 1) <= _MOST_BYTES // 4:
            self._prompts[digest] = prompt
        return prompt


def _parts(command: Mapping[str, Any]) -> dict[str, _Part]:
    return convert(command.get("parts"), dict[str, _Part], source="a command", kind="a command", place="parts")
