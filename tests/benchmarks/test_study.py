"""The benchmark of studies writes its pages about small models."""

from __future__ import annotations

from benchmarks.study import __main__ as study
from benchmarks.study import page
from benchmarks.study.cases import Case
from edgeq.results.study import PartImportance, Share, StudyImportance, StudyResult
from edgeq.sources.model import ModelRequest
from edgeq.studying.space import Space
from edgeq.verbs.study import StudyOptions
from tests.tuning.nets import save_classifier


def test_the_page_has_the_front_and_what_sharing_saves(tmp_path):
    file, preset, labels, calib = save_classifier(tmp_path, images=40, outlier=1.0, spare=True)
    case = Case("a classifier", ModelRequest(str(file), preset=str(preset)), labels, calib, 4)
    space = Space(bits=(2, 8), granularity=("row",), block=("subsets",), blocks=2)
    timed = Space(bits=(2,), granularity=("row",), method=("gptq",))
    options = StudyOptions(threads=1)
    text = study.run_vit("weights-bits", case, space, timed, options, tmp_path / "work", tmp_path).read_text()
    assert "| w2 rtn row: 1of2+2of2 |" in text or "| w2 rtn row: 1of2 |" in text or "| w2 rtn row: 2of2 |" in text
    (row,) = (line for line in text.splitlines() if line.startswith("| gptq | 40 |"))
    shared, alone = (float(cell) for cell in row.split("|")[3:5])
    assert alone >= shared >= 0
    assert "importance by block (rtn): " in text


def test_importance_is_shown_beside_the_published_tables():
    shown = "\n".join(page.beside_published(_result()))
    assert "| LLaVA, GQA | 20.9 / - / 79.1 | 5.4 / - / 94.6 |" in shown
    assert "| **this reader**, surnames | 90.0 / 1.0 / 9.0 | not fit |" in shown
    assert "By gptq the vision part carries most here (90 %)" in shown


def _result() -> StudyResult:
    share = Share(value=0.5, low=0.4, high=0.6)
    shares = {"vision": 0.9, "connector": 0.01, "decoder": 0.09}
    parts = tuple(
        PartImportance(part=part, forest=share, permutation=share, consensus=value) for part, value in shares.items()
    )
    found = StudyImportance(axis="component", method="gptq", trials=36, forest_r2=0.9, linear_r2=0.1, parts=parts)
    return StudyResult(
        model="m", source_digest="", task="transcription", score="exact_match", space={}, sample="grid",
        trials_asked=0, trials_in_space=0, cells={}, points=(), importance=(found,), weights_quantized=0,
        weights_used=0, images=1, float_score=1.0, seed=0,
    )  # fmt: skip
