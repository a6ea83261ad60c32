"""The benchmark of large models, on a small one."""

from __future__ import annotations

import pytest

from benchmarks import big_models


@pytest.mark.slow
def test_big_models(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    size = big_models.Size("tiny", 32, 1, 2, 32)
    text = big_models.run(tmp_path, (size,)).read_text()
    rows = [line.split("|")[3].strip() for line in text.splitlines() if line.startswith("| tiny")]
    assert rows == ["open", "fp32", "int8"]
    # What an interrupted run has finished is not done again.
    monkeypatch.setattr(big_models, "STEPS", dict.fromkeys(big_models.STEPS))
    assert big_models.run(tmp_path, (size,)).read_text() == text
