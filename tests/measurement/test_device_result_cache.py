"""What devices of a benchmark have measured outlives the run that did not end."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgeq.measurement.device_result_cache import KeptResults
from edgeq.results.reading import read_results
from edgeq.tasks import score_types

V1 = Path(__file__).parents[1] / "data" / "results_v1"
RESULTS = read_results([V1 / "bench.json"], score_types())


@pytest.fixture
def kept(tmp_path, monkeypatch) -> KeptResults:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return KeptResults("orin", {"threads": 4})


def test_results_are_taken_by_the_next_run_of_the_same_job(kept, caplog):
    assert kept.read() is None
    kept.write(RESULTS)
    assert KeptResults("orin", {"threads": 4}).read() == RESULTS
    assert re.search(r"orin: reusing what the interrupted run measured at \d{4}-\d\d-\d\d \d\d:\d\d", caplog.text)
    assert KeptResults("orin", {"threads": 2}).read() is None
    kept.forget()
    assert kept.read() is None


def test_a_full_disk_is_no_reason_to_fail(kept, tmp_path, caplog):
    (tmp_path / "edgeq").write_text("a file where the folder should be")
    kept.write(RESULTS)
    assert "orin: its results are not kept for the next run" in caplog.text
