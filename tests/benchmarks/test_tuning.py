"""The page of tuned files: what is measured is in its tables, what is not has its reason, and who dominates whom."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from benchmarks import tuning
from benchmarks.tuned_files import NNCF
from benchmarks.tuning_page import HEAD, Section, page, save_fronts
from tests.test_order import ROOT

SCORE = {"name": "top-1", "value": 0.9, "images": 500}
SIZE = 4_000_000


def row(title: str, size: int, **facts: Any) -> dict[str, Any]:
    return {"title": title, "path": f"{title}.onnx", "score": SCORE, "size": size, **facts}


FOUND: dict[str, Any] = {
    "name": "resnet20",
    "engine": "openvino",
    "calibrated": 64,
    "rows": [
        row("FP32", 4 * SIZE),
        row(
            "tuned for 0.3 points", SIZE, drop=[0.1, -0.2, 0.4], gain=[0.2, -0.1, 0.6], layers="18 of 20", trials="21",
            minutes=3.2,
        ),
        {"title": "tuned for half of default's time", "why": "no file keeps the budget"},
        row(NNCF, SIZE, drop=[0.3, 0.1, 0.6], trials="4.0 passes"),
    ],
    "kept": ["conv1: float: INT8 costs about 0.4 points for 2.0% of the time"],
}  # fmt: skip


def times(own: list[float]) -> dict[str, Any]:
    """Returns times of the files; `own` is that of edgeq's file over NNCF's, with its interval."""
    files = {
        "FP32.onnx": {"ms": 5.0, "ratio": [1.0, 1.0, 1.0], "peer_ratio": [2.5, 2.4, 2.6]},
        "tuned for 0.3 points.onnx": {"ms": 2.0, "ratio": [0.4, 0.38, 0.42], "peer_ratio": own},
        f"{NNCF}.onnx": {"ms": 2.0, "ratio": [0.4, 0.38, 0.42], "peer_ratio": [1.0, 1.0, 1.0]},
    }
    return {"files": files, "load": 0.3, "stable": True}


def test_a_section_has_a_row_for_each_file_and_says_why_one_is_missing():
    lines = Section.of(FOUND, times([1.0, 0.99, 1.01])).lines()
    assert lines[0] == "## ResNet-20 in openvino: top-1 of 500 images"
    assert "Calibrated on 64 images." in lines
    rows = [line for line in lines if line.startswith("| ")]
    assert {each.count("|") for each in rows} == {len(HEAD) + 1}
    assert (
        "| +0.10 (-0.20 to +0.40) | +0.20 (-0.10 to +0.60) | 0.40 (0.38 to 0.42) | 1.00 (0.99 to 1.01) | 4.00 "
        "| 18 of 20 | 21 | 3.2 |"
    ) in rows[2]
    nearest = "| tuned for half of default's time: none [1]; the fastest here: tuned for 0.3 points | 0.9000 | +0.10"
    assert rows[3].startswith(nearest), "the fastest file that exists, and its loss"
    assert "[1] no file keeps the budget." in lines
    assert "- conv1: float: INT8 costs about 0.4 points for 2.0% of the time" in lines


@pytest.mark.parametrize(
    ("own", "gain", "size", "words"),
    [
        ([0.9, 0.8, 0.95], [0.2, -0.1, 0.6], SIZE, "dominates"),
        ([1.01, 0.99, 1.02], [0.2, -0.1, 0.6], SIZE, "dominates within the intervals"),
        ([0.9, 0.8, 0.95], [-0.2, -0.6, 0.1], SIZE, "dominates within the intervals"),
        ([1.05, 1.02, 1.06], [0.2, -0.1, 0.6], SIZE, "does not dominate"),
        ([0.9, 0.8, 0.95], [-0.2, -0.6, -0.1], SIZE, "does not dominate"),
        ([0.9, 0.8, 0.95], [0.2, -0.1, 0.6], SIZE + 1, "dominates in points and time"),
        ([1.01, 0.99, 1.02], [0.2, -0.1, 0.6], SIZE + 1, "dominates in points and time within the intervals"),
    ],
)
def test_a_file_dominates_if_it_is_no_worse_in_points_time_and_size(own, gain, size, words):
    rows = [
        {**each, "gain": gain, "size": size} if "tuned for 0.3" in each["title"] else each for each in FOUND["rows"]
    ]
    section = Section.of({**FOUND, "rows": rows}, times(own))
    assert section.nearest == (section.rows[1], words)
    assert f"| {words} (tuned for 0.3 points) |" in page([section], [])


def test_without_a_file_of_nncf_the_summary_says_why():
    none = {"title": NNCF, "why": "not done in 20 minutes of the CPU"}
    section = Section.of({**FOUND, "rows": [*FOUND["rows"][:3], none]}, times([1.0, 0.99, 1.01]))
    text = page([section], [])
    assert "| none [1] |  |  | +0.10" in text
    assert "[1] ResNet-20 in openvino: not done in 20 minutes of the CPU." in text.splitlines()


def test_files_without_those_of_nncf_are_kept_and_shown_until_it_was_run(tmp_path, monkeypatch):
    own = {"litert": FOUND["rows"][:3], "onnxruntime": [*FOUND["rows"][:3], {"title": NNCF, "why": "not run"}]}
    monkeypatch.setattr(tuning, "measure", lambda name, engine, *_: {**FOUND, "engine": engine, "rows": own[engine]})
    monkeypatch.setattr(tuning, "timed", lambda rows, engine, folder: times([1.0, 0.99, 1.01]))
    asked = (["resnet20"], ["onnxruntime", "litert"], tmp_path, 64)
    text = tuning.run(*asked, "none", tmp_path / "work", tmp_path).read_text()
    assert "## ResNet-20 in litert on x86, not on ARM: top-1" in text
    assert "[1] ResNet-20 in onnxruntime: not run." in text
    assert "| ResNet-20 | litert on x86, not on ARM | writes no TFLite files |" in text
    again = tuning.run(*asked, "none", tmp_path / "work", tmp_path, times_only=True).read_text()
    assert again == text
    monkeypatch.setattr(tuning, "measure", lambda name, engine, *_: {**FOUND, "engine": engine})
    assert "NNCF accuracy control | 0.9000" in tuning.run(*asked, "python", tmp_path / "work", tmp_path).read_text()


def test_the_page_names_what_was_not_run_and_draws_what_was(tmp_path):
    work = tmp_path / "work" / "resnet20" / "openvino"
    work.mkdir(parents=True)
    (work / "files.json").write_text(json.dumps(FOUND))
    (work / "times.json").write_text(json.dumps(times([1.0, 0.99, 1.01])))
    text = tuning.run(["resnet20"], ["openvino"], tmp_path, 64, "python", tmp_path / "work", tmp_path).read_text()
    assert Section.of(FOUND, times([1.0, 0.99, 1.01])).lines()[0] in text
    line = next(line for line in text.splitlines() if line.startswith("Not run"))
    assert all(name in line for name in ("FastestDet", "CenterNet-R18", "ViT", "ResNet-20 in onnxruntime", "YuNet"))
    assert "ResNet-20 in openvino" not in line
    picture = (tmp_path / "tuning.svg").read_text()
    assert "ResNet-20 in openvino: 0.40 and +0.10 points, NNCF 0.40 and +0.30." in picture


def test_a_search_may_have_taken_fp32_itself(tmp_path):
    taken = {**FOUND["rows"][0], "title": "tuned for 0.3 points", "gain": [0.3, -0.1, 0.6]}
    section = Section.of({**FOUND, "rows": [FOUND["rows"][0], taken, *FOUND["rows"][2:]]}, times([1.0, 0.99, 1.01]))
    assert "| tuned for 0.3 points | 0.9000 |  |" in page([section], [])
    save_fronts([section], tmp_path / "front.svg")
    assert "NNCF 0.40 and +0.30" in (tmp_path / "front.svg").read_text()


def test_both_may_end_with_fp32_itself(tmp_path):
    rows = [{**FOUND["rows"][0], "title": title} for title in ("FP32", "tuned for 0.3 points", NNCF)]
    found = times([1.0, 0.99, 1.01])
    found["files"]["FP32.onnx"]["peer_ratio"] = [1.0, 1.0, 1.0]
    section = Section.of({**FOUND, "rows": rows}, found)
    assert section.nearest == (section.rows[1], "dominates")
    save_fronts([section], tmp_path / "front.svg")
    assert "NNCF 1.00 and +0.00" in (tmp_path / "front.svg").read_text()


def test_times_alone_are_taken_anew_of_what_was_found(tmp_path, monkeypatch):
    work = tmp_path / "work" / "resnet20" / "openvino"
    work.mkdir(parents=True)
    (work / "files.json").write_text(json.dumps(FOUND))
    (work / "times.json").write_text(json.dumps(times([1.0, 0.99, 1.01])))
    monkeypatch.setattr(tuning, "timed", lambda rows, engine, folder: times([0.5, 0.49, 0.51]))
    text = tuning.run(
        ["resnet20", "vit"], ["openvino"], tmp_path, 64, "python", tmp_path / "work", tmp_path, times_only=True
    ).read_text()
    assert "0.50 (0.49 to 0.51)" in text
    assert "ViT-d128 in openvino" in text.partition("Not run")[2]


_BURN = """
from benchmarks.nncf_accuracy_control import TimeOverError, end_after
end_after(0.001)
try:
    while True:
        pass
except TimeOverError:
    print("over")
"""


def test_a_control_ends_after_its_minutes_of_the_cpu():
    """In a process of its own: a limit that this one has passed already would end it."""
    command = [sys.executable, "-c", _BURN]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "over\n"), done.stderr
