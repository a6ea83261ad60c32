"""The benchmark of studies writes its page about a small model."""

from __future__ import annotations

from benchmarks import study
from edgeq.sources.model import ModelRequest
from edgeq.studying.space import Space
from edgeq.verbs.study import StudyOptions
from tests.tuning.nets import save_classifier


def test_the_page_has_the_front_and_what_sharing_saves(tmp_path):
    file, preset, labels, calib = save_classifier(tmp_path, images=40, outlier=1.0, spare=True)
    case = study.Case(ModelRequest(str(file), preset=str(preset)), labels, calib, 4, tmp_path / "work")
    space = Space(bits=(2, 8), granularity=("row",), block=("subsets",), blocks=2)
    timed = Space(bits=(2,), granularity=("row",), method=("gptq",))
    text = study.run(case, space, timed, StudyOptions(threads=1), tmp_path).read_text()
    assert "| w2 rtn row: 1of2+2of2 |" in text or "| w2 rtn row: 1of2 |" in text or "| w2 rtn row: 2of2 |" in text
    (row,) = (line for line in text.splitlines() if line.startswith("| gptq |"))
    shared, alone = (float(cell) for cell in row.split("|")[2:4])
    assert alone >= shared >= 0
    assert "importance by block (rtn): " in text
