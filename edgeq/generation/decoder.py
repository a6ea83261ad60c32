"""A decoder with its keys and values: reads prompts, then one token at a time of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeq.bundles.contents import KeyValueCache
from edgeq.errors import InputError
from edgeq.generation.parts import OpenParts

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

_TIME_ROW_COLUMN = 3


class Decoder:
    """The decoder of a bundle, and what it remembers of the rows that it has read.

    Args:
        parts: The open parts.
    """

    def __init__(self, parts: OpenParts) -> None:
        cache = parts.bundle.cache
        if cache is None:
            names = ", ".join(part.name for part in parts.bundle.parts)
            raise InputError(
                f"{parts.bundle.folder}: has no decoder with keys and values, only {names}; it cannot generate text"
            )
        self._parts = parts
        self._cache: KeyValueCache = cache
        self._past: list[np.ndarray] = []
        self._mask: Integers = np.zeros((0, 0), np.int64)
        self._next: Integers = np.zeros(0, np.int64)

    def read(self, embeds: Floats, mask: Integers, places: Integers | None = None) -> Floats:
        """Returns the logits after every token of prompts, `(batch, seq, vocabulary)`; earlier ones are forgotten.

        Args:
            embeds: Embedded prompts `(batch, seq, width)`, filled up on the left.
            mask: 1 for tokens and 0 for filling, `(batch, seq)`.
            places: Time, row and column of each token, `(3, batch, seq)`, for models that tell them apart; by default
                all three count the tokens.
        """
        cache = self._cache
        empty = np.zeros((len(embeds), cache.kv_heads, 0, cache.head_dim), cache.dtype)
        self._past = [empty] * len(cache.past_names)
        self._mask = np.ascontiguousarray(mask, np.int64)
        if places is None:
            positions = np.maximum(self._mask.cumsum(axis=1) - 1, 0)
            self._next = positions[:, -1] + 1
            return self._run(embeds, positions)
        self._next = places.max(axis=(0, 2)) + 1
        return self._run(embeds, places)

    def step(self, embeds: Floats) -> Floats:
        """Returns the logits after one further token of each row, `(batch, vocabulary)`.

        Args:
            embeds: The embedded tokens `(batch, 1, width)`.
        """
        ones = np.ones((len(embeds), 1), np.int64)
        self._mask = np.concatenate([self._mask, ones], axis=1)
        positions, self._next = self._next[:, None], self._next + 1
        return self._run(embeds, positions)[:, -1]

    def keep(self, rows: Sequence[int] | Integers) -> None:
        """Goes on with some of the rows, in an order, one of them several times if it is named so."""
        self._past = [each[rows] for each in self._past]
        self._mask, self._next = self._mask[rows], self._next[rows]

    def _run(self, embeds: Floats, positions: Integers) -> Floats:
        if self._parts.bundle.positions == "multimodal" and positions.ndim < _TIME_ROW_COLUMN:
            positions = np.repeat(positions[None], _TIME_ROW_COLUMN, axis=0)
        inputs: dict[str, np.ndarray] = {
            "inputs_embeds": embeds,
            "attention_mask": self._mask,
            "position_ids": positions,
        }
        inputs |= dict(zip(self._cache.past_names, self._past, strict=True))
        outputs = self._parts.run("decoder", inputs)
        self._past = [outputs[name] for name in self._cache.present_names]
        logits: Floats = outputs["logits"].astype(np.float32, copy=False)
        return logits
