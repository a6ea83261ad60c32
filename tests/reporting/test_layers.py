"""Layers of files in the report: times joined with the signal, what a plot says in words, and the confusion matrix."""

from __future__ import annotations

import re

import pytest

from benchmarks.json_results import merge
from edgeq.reporting.build import build_document
from edgeq.reporting.confusion_matrix import MOST_CLASSES, NOTHING, OTHERS, confusion_matrix
from edgeq.reporting.document import Document
from edgeq.reporting.runs import Runs
from edgeq.tasks.evidence import Confusion
from tests.reporting.made import LAYERS, SIGNAL, make_detections, make_ground_truth, make_score, make_timing

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from edgeq.reporting.page import render


@pytest.fixture(scope="module")
def document() -> Document:
    truth = make_ground_truth(8, seed=5)
    found = make_detections(truth, 1, 9.0)
    results = [
        make_timing("fp32", 8.0),
        make_timing("int8", 4.0, layers=LAYERS, signal=SIGNAL),
        make_timing("int8", 5.0, runtime="litert", signal=SIGNAL),
        make_score(truth, found, "fp16", signal=SIGNAL),
        make_timing("fp16", 6.0, runtime="openvino", signal=SIGNAL),
    ]
    return build_document(Runs(tuple(merge(results)), (), ()), examples=0)


def test_times_and_signal_of_a_layer_stand_together(document: Document) -> None:
    timed, scored = document.layers  # of a file that was timed by layers, or listed already, no second table
    assert (timed.entry, timed.runs, scored.entry, scored.profiler) == (2, 50, 4, "")
    by_name = {layer.name: layer for layer in timed.layers}
    assert (by_name["first_token_1"].snr_db, by_name["later3"].snr_db) == (40.25, 31.5)
    assert (by_name["gone"].ms, by_name["gone"].snr_db) == (None, 29.0)
    assert by_name["<b>second</b>"].share == pytest.approx(0.5)
    assert list(timed.shares) == ["fp32", "int8", ""]
    assert sum(timed.shares.values()) == pytest.approx(1)
    assert [layer.name for layer in timed.worst_first[:2]] == ["<b>second</b>", "first_token_1"]
    assert [layer.name for layer in scored.worst_first] == ["gone", "later3", "first"]
    assert [table["entry"] for table in document.to_json()["layers"]] == [2, 4]


def test_the_page_shows_layers_as_tables_and_plots(document: Document) -> None:
    section = re.search(r'<section id="layers".*?</section>', render(document), flags=re.DOTALL)
    assert section is not None
    shown = section[0]
    assert shown.count('<svg class="plot" role="img"') == 2
    assert "Slowest: &lt;b&gt;second&lt;/b&gt; 1.000 ms" in shown
    assert "Noisiest: gone 29.0 dB, later3 31.5 dB, first 40.2 dB" in shown
    assert "<b>" not in shown
    assert "All 13 layers" in shown
    assert "first_<wbr>token_<wbr>1<small>first</small>" in shown


def test_the_matrix_counts_every_cell_once() -> None:
    names = [f"c{number:02}" for number in range(MOST_CLASSES + 3)]
    cells = [Confusion(name, name, 100) for name in names]
    cells += [Confusion(name, names[0], number) for number, name in enumerate(names) if number]
    cells += [Confusion(None, "c12", 7), Confusion("c12", None, 9)]
    before = [Confusion("c12", "c00", 2), Confusion("c12", "c12", 100), Confusion("c00", "c12", 4)]
    matrix = confusion_matrix(cells, before)
    assert len(matrix.names) == MOST_CLASSES + 2
    assert matrix.names[0] == "c00" and matrix.names[-2:] == (OTHERS, NOTHING)
    rows = dict(matrix.rows)
    assert sum(cell.count for row in rows.values() for cell in row) == sum(cell.count for cell in cells)
    place = {name: number for number, name in enumerate(matrix.names)}
    wrong = rows["c12"][place["c00"]]
    assert (wrong.count, wrong.change, wrong.is_right) == (12, 10, False)
    assert wrong.share == pytest.approx(12 / 121)
    assert rows["c00"][place["c12"]].change == -4
    assert rows["c12"][place["c12"]].is_right
    assert rows[NOTHING][place["c12"]].count == 7
    alone = dict(confusion_matrix(cells, None).rows)
    assert alone["c12"][place["c12"]].change is None
