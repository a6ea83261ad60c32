"""Texts as tokens: by the bundle's `tokenizer.json`, or as bare numbers for models without one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from edgeq.bundles.manifest import Bundle
from edgeq.errors import InputError, MismatchError, MissingDependencyError

_FILE = "tokenizer.json"


class Tokenizer(Protocol):
    """Turns texts into tokens and back."""

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text, with those that begin one."""

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of tokens, without special ones and without spaces around it."""

    def written(self, ids: Sequence[int]) -> str:
        """Returns what `encode` turns into exactly these special tokens."""


def tokenizer_of(bundle: Bundle) -> Tokenizer:
    """Returns the tokenizer of a bundle; raises as `read_tokenizer` does."""
    paths = [bundle.folder / file.file for file in bundle.tokenizer]
    return read_tokenizer(paths, bundle.tokens.eos)


def read_tokenizer(files: Sequence[Path], ends: Sequence[int]) -> Tokenizer:
    """Returns the tokenizer of a model; that of bare numbers if there is no `tokenizer.json`.

    Args:
        files: Its files.
        ends: Tokens that end a text.

    Raises:
        InputError: its file cannot be read.
        MissingDependencyError: the package tokenizers is not installed.
    """
    path = next((each for each in files if each.name == _FILE), None)
    if path is None:
        return NumberTokens()
    try:
        import tokenizers
    except ImportError as error:
        raise MissingDependencyError("tokenizers", "language", "Reading a tokenizer") from error
    try:
        return TokenizerFile(tokenizers.Tokenizer.from_file(str(path)), path, ends)
    except Exception as error:  # tokenizers raises Exception itself
        raise InputError(f"{path}: is not a tokenizer ({error}); export the model again") from error


class TokenizerFile:
    """A tokenizer of the package tokenizers.

    Args:
        tokenizer: It.
        path: Its file, for messages.
        ends: Tokens that end a text.
    """

    def __init__(self, tokenizer: Any, path: Path, ends: Sequence[int]) -> None:
        self._tokenizer, self._path, self._ends = tokenizer, path, frozenset(ends)
        # A file may have been saved by a training run that cut and filled its texts.
        tokenizer.no_padding()
        tokenizer.no_truncation()

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text; one that ends it is cut, for the model to write on."""
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids[:-1] if ids and ids[-1] in self._ends else ids

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of tokens."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text.strip()

    def written(self, ids: Sequence[int]) -> str:
        """Returns special tokens as text.

        Raises:
            MismatchError: the tokenizer does not know one of them.
        """
        words = [self._tokenizer.id_to_token(each) for each in ids]
        for each, word in zip(ids, words, strict=True):
            if word is None or self._tokenizer.token_to_id(word) != each:
                raise MismatchError(
                    f"{self._path}: knows no token {each}, which is one of images in this model; "
                    "the tokenizer is of another model, export the model again"
                )
        return "".join(words)


class NumberTokens:
    """Tokens of a model without a tokenizer, written as numbers with spaces between them."""

    def encode(self, text: str) -> list[int]:
        """Returns the numbers of a text.

        Raises:
            InputError: it holds anything else.
        """
        if not all(word.isdecimal() for word in text.split()):
            raise InputError(
                f"{json.dumps(text[:40])}: the model has no tokenizer.json; write prompts and texts as its numbers of "
                "tokens (`5 17 42`), or export the model from a folder with a tokenizer"
            )
        return [int(word) for word in text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the numbers."""
        return " ".join(map(str, ids))

    def written(self, ids: Sequence[int]) -> str:
        """Returns the numbers, with spaces around them."""
        return f" {self.decode(ids)} "
