"""A few kills of the cheapest long command; the benchmark kills all of them."""

from __future__ import annotations

from pathlib import Path

from benchmarks import kill_campaign


def test_nothing_is_left_of_killed_commands(tmp_path: Path) -> None:
    page = kill_campaign.run(tmp_path, kills=4, commands=("calibrate",)).read_text()
    assert "## Faults" not in page
    assert "| calibrate |" in page
