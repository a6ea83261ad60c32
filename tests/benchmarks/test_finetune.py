"""The benchmark of training on a small classifier: each precision as it is and trained, beside FP32."""

from __future__ import annotations

from benchmarks import finetune
from benchmarks.reconstruction import Subject
from edgeq.calibration.source import CalibrationSource
from edgeq.sources.model import ModelRequest
from tests.tuning.nets import save_classifier


def test_the_tables_have_every_file_and_what_training_did(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file, preset, labels, calib = save_classifier(tmp_path, images=16, calibration=16)
    one = Subject("net", ModelRequest(str(file), preset=str(preset)), CalibrationSource(calib), labels, labels.parent)
    result = finetune.run({"net": one}, 16, tmp_path / "work", tmp_path)
    rows = [[cell.strip() for cell in line.split("|")] for line in result.read_text().splitlines()]
    rows = [row for row in rows if row[1:2] == ["net"]]
    assert [row[2] for row in rows] == ["FP32", "INT8", "INT8, trained", "W4A8", "W4A8, trained", "INT8", "W4A8"]
    assert all(bool(row[5]) == row[2].endswith("trained") for row in rows[:5])
    assert [row[3] for row in rows[5:]] == ["16, 4"] * 2
