"""The benchmark of learned rounding on a small classifier: every file in both engines, FP32 first."""

from __future__ import annotations

import json
import sys

from benchmarks import reconstruction
from edgeq.calibration.reconstruction import reconstruct
from edgeq.calibration.reconstruction.learning import Settings
from edgeq.calibration.source import CalibrationSource
from edgeq.sources.model import ModelRequest
from tests.tuning.nets import save_classifier

AIMET = """
import json, shutil, sys

import numpy

job = json.load(open(sys.argv[2]))
assert numpy.load(job["inputs"]).shape[0] == 12
for kind in ("nearest", "learned"):
    shutil.copyfile(job["model"], job[kind])
print(json.dumps({"aimet": "0", "wall_s": 100.0, "cpu_s": 90.0}))
"""
"""What the test runs instead of AIMET: its files are FP32."""


def test_the_table_has_every_file_in_both_engines_and_is_kept(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(reconstruct, "Settings", lambda: Settings(iterations=60, positions=128, rate=0.05))
    file, preset, labels, calib = save_classifier(tmp_path, images=12)
    request = ModelRequest(str(file), preset=str(preset))
    one = reconstruction.Subject("net", request, CalibrationSource(calib), labels, labels.parent)
    text = reconstruction.run({"net": one}, tmp_path / "work", tmp_path).read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| net | ")]
    assert [row[1:3] for row in rows[:8]] == [
        [title, engine] for title in reconstruction.TITLES for engine in reconstruction.ENGINES
    ]
    assert all(row[4] == "" for row in rows[:2]) and all(float(row[6].strip(" |")) > 0 for row in rows[:8])
    kept = json.loads((tmp_path / "work" / "net.reconstruct.json").read_text())
    assert kept["reconstruction"]["images"] == 12
    assert reconstruction.run({"net": one}, tmp_path / "work", tmp_path).read_text() == text
    python = tmp_path / "python"
    python.write_text(f"#!{sys.executable}\n{AIMET}")
    python.chmod(0o755)
    page = reconstruction.run_aimet({"net": one}, tmp_path / "work", tmp_path, python, 7).read_text()
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| net | ")]
    assert [row[1] for row in rows] == [
        "FP32", "edgeq, to nearest", "AIMET, to nearest", "edgeq, learned", "AIMET, AdaRound"
    ]  # fmt: skip
    assert rows[2][2] == rows[0][2], "the test gives FP32 for AIMET's file"
    signals = [float(row[5]) for row in rows[1:]]
    assert signals[1] == signals[3] == 120 and all(5 < each < 60 for each in signals[::2])
    assert rows[4][6] == "1.5 (7 iterations per layer) |"
