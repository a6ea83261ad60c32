"""The benchmarks of weights of few bits: every cell of their tables, on a small classifier and a small product."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import (
    awq_against_llm_compressor,
    checkpoint_memory,
    gptq_against_llm_compressor,
    low_bit_kernels,
    low_bit_weights,
)
from benchmarks.low_bit_weights import Subject, Variant, even
from edgeq.exporting.costs.low_bit_products import read_products
from edgeq.schemes import NF4
from edgeq.sources.model import ModelRequest, open_model
from tests.tuning.nets import save_classifier


def test_methods_are_scored_and_kept(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file, preset, _, _ = save_classifier(tmp_path, images=4, calibration=2)
    model = open_model(ModelRequest(str(file), preset=str(preset))).model
    monkeypatch.setattr(low_bit_weights, "_BATCH", 1)
    inputs = np.random.default_rng(0).uniform(0, 1, (4, *model.preprocessing.input_shape)).astype(np.float32)
    feeds = [{model.input.name: each[None]} for each in inputs]
    classes = np.zeros(4, np.int64)
    rows = (even(4, 8, ("rtn", "gptq")), even(2, None, ("awq",)), Variant("NF4", "64", NF4, ("rtn",)))
    opened = {"net": (lambda: Subject("net", model, feeds, inputs, classes), rows)}
    text = low_bit_weights.run(opened, tmp_path / "work", tmp_path).read_text()
    cells = [line.split(" | ") for line in text.splitlines() if line.startswith(("| 4", "| 2", "| NF4"))]
    assert [[bool(cell.strip(" |")) for cell in row[3:]] for row in cells] == [
        [True, False, True, False, False, False], [False, False, False, False, True, False],
        [True, False, False, False, False, False],
    ]  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "work" / "net").glob("*.json") if path.name[0] in "24N") == [
        "2.row.awq.json", "4.8.gptq.json", "4.8.rtn.json", "NF4.64.rtn.json",
    ]  # fmt: skip
    monkeypatch.setattr(low_bit_weights, "score", None)
    assert low_bit_weights.run(opened, tmp_path / "work", tmp_path).read_text() == text


def test_products_are_timed_against_fp32(tmp_path) -> None:
    pytest.importorskip("openvino")
    kernels = (low_bit_kernels.KERNELS[4], low_bit_kernels.KERNELS[-4])
    table = tmp_path / "products.csv"
    text = low_bit_kernels.run(tmp_path, table, kernels, ((64, 96),), 3).read_text()
    assert [(each.engine, each.bits, each.inputs, each.rows) for each in read_products(table).products] == [
        ("onnxruntime", 4, 64, 1), ("onnxruntime", 4, 64, 128), ("openvino", 4, 64, 1), ("openvino", 4, 64, 128),
    ]  # fmt: skip
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if ", 4 bits" in line]
    assert [row[0] for row in rows] == ["ONNX Runtime, 4 bits, groups of 32", "OpenVINO, 4 bits, groups of 32"]
    for row in rows:
        assert all(float(cell) > 0 for cell in row[1:]) and float(row[-1]) < 0.2  # rounding to 4 bits, and no more


def test_the_memory_of_a_checkpoint_is_measured_in_its_own_process(tmp_path) -> None:
    size = checkpoint_memory.Size(2, 32, 64, 4, 2, 64, tokens=(2, 8), group_size=32)
    text = checkpoint_memory.run(tmp_path, size, ["rtn"], 1).read_text()
    (row,) = (line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| rtn"))
    assert row[1] == "2 of 2" and float(row[4].replace(",", "")) > 10  # an interpreter alone has more


def test_methods_are_compared_by_what_layers_lose(tmp_path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2, 200, 32)) @ rng.normal(size=(32, 32))
    seen, others = (each.T @ each / len(each) for each in rows)
    layers = [gptq_against_llm_compressor.Layer(rng.normal(size=(16, 32)).astype(np.float32), seen, others)]
    methods = {name: gptq_against_llm_compressor.our_method(name) for name in gptq_against_llm_compressor.OURS}
    grids = {"3 bits": gptq_against_llm_compressor.grid(3, 16)}
    text = gptq_against_llm_compressor.run(tmp_path, layers, grids, methods, "none").read_text()
    (row,) = (line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| 3 bits"))
    assert row[1] == "1.000" and all(float(cell) < 1 for cell in row[2:])


def test_decoders_are_compared_by_what_they_say(tmp_path) -> None:
    transformers = pytest.importorskip("transformers")
    import torch

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=20, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, initializer_range=0.3,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    methods = {name: awq_against_llm_compressor.ours(name) for name in ("rtn", "gptq")}
    text = awq_against_llm_compressor.run(tmp_path, model, methods, (3,), "none", 8).read_text()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith(("| rtn", "| gptq"))]
    (rounded, gptq) = (float(row[1]) for row in rows)
    assert 0 < gptq < rounded < 1
