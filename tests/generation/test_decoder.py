"""What a decoder is fed, run by run: masks, positions and the cache."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeq.bundles.contents import KeyValueCache
from edgeq.errors import InputError
from edgeq.generation.decoder import Decoder

_CACHE = KeyValueCache(layers=1, kv_heads=1, head_dim=2)


class Echo:
    """Parts whose cache is what they were fed, and whose logits are the embeddings."""

    def __init__(self, positions, cache=_CACHE):
        part = SimpleNamespace(name="decoder")
        self.bundle = SimpleNamespace(cache=cache, positions=positions, folder="folder", parts=[part])
        self.fed = []

    def run(self, part, inputs):
        assert part == "decoder"
        self.fed.append(inputs)
        embeds = inputs["inputs_embeds"]
        new = embeds[:, None]
        present = {
            f"present.0.{kind}": np.concatenate([inputs[f"past_key_values.0.{kind}"], new], axis=2)
            for kind in ("key", "value")
        }
        return {"logits": embeds, **present}


def _decoder(parts: Any) -> Decoder:
    return Decoder(parts)


def _embeds(*rows):
    return np.array(rows, np.float32)[..., None].repeat(2, axis=-1)


def test_rows_are_filled_on_the_left_and_counted_from_their_first_token():
    parts = Echo("sequential")
    decoder = _decoder(parts)
    decoder.read(_embeds([1, 2, 3], [0, 0, 4]), np.array([[1, 1, 1], [0, 0, 1]]))
    decoder.step(_embeds([5], [6]))
    assert parts.fed[0]["position_ids"].tolist() == [[0, 1, 2], [0, 0, 0]]
    assert parts.fed[1]["position_ids"].tolist() == [[3], [1]]
    assert parts.fed[1]["attention_mask"].tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]]
    assert parts.fed[1]["past_key_values.0.key"][..., 0].tolist() == [[[1, 2, 3]], [[0, 0, 4]]]


def test_kept_rows_take_their_past_along():
    parts = Echo("sequential")
    decoder = _decoder(parts)
    decoder.read(_embeds([1, 2], [3, 4]), np.ones((2, 2), np.int64))
    decoder.keep([1, 1, 0])
    decoder.step(_embeds([5], [6], [7]))
    assert parts.fed[1]["past_key_values.0.value"][..., 0].tolist() == [[[3, 4]], [[3, 4]], [[1, 2]]]
    assert parts.fed[1]["position_ids"].tolist() == [[2], [2], [2]]


def test_texts_have_equal_positions_on_three_axes():
    parts = Echo("multimodal")
    _decoder(parts).read(_embeds([1, 2]), np.ones((1, 2), np.int64))
    assert parts.fed[0]["position_ids"].tolist() == [[[0, 1]]] * 3


def test_a_model_without_a_cache_writes_no_text():
    with pytest.raises(InputError, match="folder: has no decoder with keys and values, only decoder; it cannot"):
        _decoder(Echo("sequential", cache=None))
