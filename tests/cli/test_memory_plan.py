"""`edgeq plan` on the command line: what it prints, its JSON, its exit code, and a real process beside a plan."""

from __future__ import annotations

import importlib.util
import json

import pytest
from typer.testing import CliRunner

import edgeq
from edgeq.cli.app import app
from edgeq.cli.memory_plan import memory_bar
from tests.memory.named_models import write_config, write_description


def run(*arguments: object):
    return CliRunner().invoke(app, ["plan", *map(str, arguments)])


def test_a_plan_is_printed_and_written(tmp_path):
    model = write_config(tmp_path, "llava-1.5-13b")
    result = run(model, "--memory", "16GB", "--context", 2048, "--image", 336, "--json", tmp_path / "plan.json")
    assert result.exit_code == 0, result.output
    assert "13,351,494,656 parameters, on orin-nx; context 2,048 of 4,096 tokens" in result.output
    assert "recommended: asymmetric, 3.61 GB left, room for a context of 4,096 tokens" in result.output
    written = json.loads((tmp_path / "plan.json").read_text())
    assert written["chosen"] == "asymmetric"
    assert written["parts"][3]["bytes_by_precision"]["fp16"] == 2 * 12_688_184_320
    assert written["results_version"] == 1
    assert "measured" not in written


def test_nothing_that_fits_is_exit_code_1(tmp_path):
    result = run(write_config(tmp_path, "llava-1.5-7b"), "--memory", "7.4GB")
    assert result.exit_code == 1
    assert "nothing fits in 7.40 GB; what would:" in result.output
    assert "keys and values in int8: asymmetric-8 takes" in result.output
    assert "(--kv int8)" in result.output


def test_the_bar_shows_every_large_piece_and_where_the_memory_ends(tmp_path):
    model = write_config(tmp_path, "llava-1.5-13b")
    fitting, too_large = edgeq.plan(model), edgeq.plan(model, device="orin-nano")
    assert memory_bar(fitting) == "[VVEEDDDDDDDDDDDDDDDDDDDDDDDDHkkkkkkkeeeessssss..................]"
    inside, beyond = memory_bar(too_large).split("]")
    assert len(inside) - 1 == round(64 * too_large.budget_bytes / too_large.use.total)
    assert set(beyond) == {"k", "a", "e", "s"}


@pytest.mark.slow
def test_a_process_takes_what_was_planned(tmp_path, monkeypatch):
    """Weights, keys and values are equal to the byte; the peak is near, which other processes cannot change."""
    pytest.importorskip("transformers")
    small = {
        "model_type": "llama", "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 4,
        "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 8000,
    }  # fmt: skip
    model = write_description(tmp_path / "small", small)
    found = edgeq.plan(model, device="local", context=2048, measure=True).measured
    assert found is not None
    assert (found.weights, found.cache) == (found.planned_weights, found.planned_cache)
    assert found.planned_activations < found.activations < 2 * found.planned_activations
    assert found.peak == pytest.approx(found.planned_peak, rel=0.1)
    assert found.random_weights
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    refused = run(model, "--device", "local", "--measure")
    assert "needs the package transformers" in str(refused.exception)


def test_a_model_too_large_for_this_machine_is_not_started(tmp_path):
    pytest.importorskip("transformers")
    changes = {"num_hidden_layers": 9_000_000}
    model = write_config(tmp_path, "llama-3.2-1b", **changes)
    refused = run(model, "--device", "local", "--measure")
    assert "are free here; omit `measure`" in str(refused.exception)
