from __future__ import annotations

from pathlib import Path

from benchmarks import load


def test_jobs_are_done_in_two_sizes(tmp_path: Path) -> None:
    page = load.run(tmp_path, {"read a CSV": 80, "match classes": 80}).read_text()
    assert "| read a CSV | 80 images |" in page
    assert "| match classes | 80 classes |" in page


def test_the_jobs_that_load_more_work_in_small(tmp_path: Path) -> None:
    for name in ("read COCO", "score ten images", "write a report"):
        (tmp_path / name).mkdir()
        assert load.JOBS[name][2](8, tmp_path / name)()
