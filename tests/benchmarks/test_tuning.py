"""The page of tuned files: what is measured is in its table, and what is not has its reason."""

from __future__ import annotations

import json

from benchmarks import tuning

SCORE = {"name": "top-1", "value": 0.9, "images": 500}
MEASURED = {"ms": 2.0, "size": 4_000_000, "load": 0.3, "stable": True}


FOUND = {
    "name": "resnet20",
    "engine": "openvino",
    "calibrated": 64,
    "rows": [
        {"title": "FP32", "score": SCORE, "ratio": [1.0, 1.0, 1.0], **MEASURED},
        {
            "title": "tuned for 0.3 points", "score": {**SCORE, "value": 0.899, "drop": [0.1, -0.2, 0.4]},
            "ratio": [0.4, 0.38, 0.42], "layers": "18 of 20", "trials": 21, "minutes": 3.2, **MEASURED,
        },
        {"title": "tuned for half of default's time", "why": "no file keeps the budget"},
    ],
    "kept": ["conv1: float: INT8 costs about 0.4 points for 2.0% of the time"],
}  # fmt: skip


def test_a_section_has_a_row_for_each_file_and_says_why_one_is_missing():
    lines = tuning.section(FOUND)
    assert lines[0] == "## ResNet-20 in openvino: top-1 of 500 images"
    assert "Calibrated on 64 images." in lines
    rows = [line for line in lines if line.startswith("| ")]
    assert {row.count("|") for row in rows} == {len(tuning.HEAD) + 1}
    assert "+0.10 (-0.20 to +0.40) | 0.40 (0.38 to 0.42) | 4.00 | 18 of 20 | 21 | 3.2" in rows[2]
    assert "none: no file keeps the budget" in rows[3]
    assert "- conv1: float: INT8 costs about 0.4 points for 2.0% of the time" in lines


def test_the_page_names_what_was_not_run(tmp_path):
    kept = tmp_path / "work" / "resnet20" / "openvino.json"
    kept.parent.mkdir(parents=True)
    kept.write_text(json.dumps(FOUND))
    page = tuning.run(["resnet20"], ["openvino"], tmp_path, 64, "python", tmp_path / "work", tmp_path).read_text()
    assert tuning.section(FOUND)[0] in page
    line = next(line for line in page.splitlines() if line.startswith("Not run"))
    assert all(name in line for name in ("FastestDet", "CenterNet-R18", "ViT", "onnxruntime", "YuNet", "UltraFace"))
    assert "ResNet-20" not in line
