"""The benchmark of models in parts, on the smallest family."""

from __future__ import annotations

import pytest

from benchmarks import bundles
from tests.benchmarks.conftest import table


def test_a_family_is_a_row(tmp_path):
    pytest.importorskip("transformers", reason="transformers, of the extra language, is not installed")
    _, (key, cells) = table(bundles.run(["opt"], tmp_path)).items()
    assert key[0] == "OPT"
    assert "decoder" in key[1]
    assert float(cells[0]) < 1e-4
    assert float(cells[1]) < 1e-4
    assert cells[2] == "32 of 32"
