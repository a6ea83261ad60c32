"""The benchmark of text's speed: every row of its table, on a decoder of one narrow layer."""

from __future__ import annotations

import pytest

from benchmarks import decoder_speed
from edgeq.generation.benchmark import GenerationSampling


def test_every_precision_writes_text_in_both_engines(tmp_path) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("transformers")
    shape = decoder_speed.SHAPE | {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "vocab_size": 128, "max_position_embeddings": 32,
    }  # fmt: skip
    sampling = GenerationSampling(prompt_tokens=8, new_tokens=4, rounds=1, seconds=0)
    text = decoder_speed.run(tmp_path, shape, sampling).read_text()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith(("| fp32 |", "| w"))]
    rows = [row for row in rows if row[1] in decoder_speed.ENGINES]
    assert [row[:2] for row in rows] == [
        [weights, engine] for engine in decoder_speed.ENGINES for weights in ("fp32", "w8", "w4")
    ]
    sizes = [float(row[2]) for row in rows]
    assert all(float(cell) > 0 for row in rows for cell in row[3:])
    assert sizes[0] >= sizes[1] >= sizes[2]
