"""The verdict in a sentence, and the index over a folder of reports."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.json_results import merge
from edgeq.errors import InputError
from edgeq.reporting.build import build_document
from edgeq.reporting.comparison import Drop
from edgeq.reporting.document import Document
from edgeq.reporting.runs import Runs
from edgeq.reporting.verdict import judge
from tests.reporting.made import make_detections, make_ground_truth, make_score, make_timing

pytest.importorskip("jinja2")

TRUTH = make_ground_truth(8, seed=5)


@pytest.fixture(scope="module")
def document() -> Document:
    found = make_detections(TRUTH, 1, 1.0)
    results: list[dict[str, Any]] = [
        make_score(TRUTH, found, "fp32"), make_timing("fp32", 8.0, size_bytes=4_000_000),
        make_score(TRUTH, found, "int8"), make_timing("int8", 4.0, size_bytes=1_000_000),
    ]  # fmt: skip
    return build_document(Runs(tuple(merge(results)), (), ()), examples=0)


def verdict(document: Document, drop: tuple[float, float, float], ratio: float = 0.5, limit: float = 0.5):
    """What is said of INT8 if it lost so many points, with this interval, over 88 images."""
    points, low, high = drop
    entry = dataclasses.replace(
        document.entries[1], drop=Drop("AP", 0.5, 0.5 - points / 100, low, high), ratio_to_fp32=ratio, images=88
    )
    return judge(entry, document.entries[0], limit)


def test_a_file_that_loses_nothing_is_shipped(document):
    (found,) = document.verdicts
    assert found.kind == "ship"
    assert found.sentence == "INT8 is 2.0x faster than FP32, 4.0x smaller, and within 1 point of FP32's AP: ship it."


@pytest.mark.parametrize(
    ("drop", "ratio", "kind", "said"),
    [
        ((0.1, -0.2, 0.3), 0.5, "ship", "within 0.5 points of FP32's AP: ship it."),
        ((0.1, -0.7, 0.9), 0.5, "not proved", "88 images cannot resolve 0.5 points of AP; about 360 would."),
        ((0.9, 0.3, 1.5), 0.5, "not proved", "88 images cannot resolve 0.5 points of AP; about 200 would."),
        ((2.0, 1.1, 3.0), 0.5, "loses too much", "loses 1.10 to 3.00 points of AP, more than 0.5 points"),
        ((0.1, -0.2, 0.3), 1.2, "not faster", "INT8 is 1.2x slower than FP32, 4.0x smaller, and within"),
        ((0.1, -0.2, 0.3), 1.0, "not faster", "as fast as FP32, 4.0x smaller, and within"),
    ],
)
def test_a_verdict_rests_on_the_interval(document, drop, ratio, kind, said):
    found = verdict(document, drop, ratio)
    assert (found.kind, said in found.sentence) == (kind, True), found


def test_without_an_interval_nothing_is_proved(document):
    entry = dataclasses.replace(
        document.entries[1], drop=Drop("AP", 0.5, 0.5), no_interval="the results hold no predictions"
    )
    found = judge(entry, document.entries[0])
    assert found is not None and found.sentence.endswith("not proved: the results hold no predictions.")


@given(st.floats(-3, 3), st.floats(0.01, 3), st.floats(0.01, 3), st.floats(0.3, 2), st.floats(0.1, 2))
def test_only_what_stays_below_the_limit_is_shipped(document, points, below, above, ratio, limit):
    found = verdict(document, (points, points - below, points + above), ratio, limit)
    assert (found.kind in ("ship", "not faster")) == (points + above <= limit)
    assert (found.kind == "loses too much") == (points - below > limit)
    assert all(math.isfinite(float(word.replace(",", ""))) for word in found.sentence.split() if word.isdecimal())


def test_an_index_lists_reports_the_newest_first_and_trusts_none(edgeq, tmp_path, document):
    from edgeq.reporting.page import render

    for day, model in (("2026-11-02", "old"), ("2026-11-30", "<b>new</b>")):
        entries = tuple(dataclasses.replace(each, model=model, p50_ms=None) for each in document.entries)
        page = dataclasses.replace(
            document, entries=entries, written=f"{day}T10:00:00+00:00", losses=(), curves=(), errors=()
        )
        (tmp_path / f"{day} #1.html").write_text(render(page))
    (tmp_path / "other.html").write_text("<title>not ours</title>")
    assert "wrote" in edgeq("report", "--index", tmp_path).out
    assert edgeq("report", "--index", tmp_path).out.endswith("2 reports\n")  # the index itself is none
    index = (tmp_path / "index.html").read_text()
    assert index.index("&lt;b&gt;new&lt;/b&gt;") < index.index(">old</a>")
    assert "<b>new" not in index
    assert 'href="2026-11-30%20%231.html"' in index
    assert "2026-11-02, 2 results, 1 model" in index
    assert "INT8 is 2.0x faster than FP32" in index


def test_what_is_no_folder_of_reports_is_refused(edgeq, tmp_path):
    assert "no such folder" in edgeq("report", "--index", tmp_path / "none").error
    assert "holds no report" in edgeq("report", "--index", tmp_path).error
    (tmp_path / "bad.html").write_text('<meta name="edgeq-report" content="{&quot;title&quot;: 3}">')
    assert (
        "$.title" in edgeq("report", "--index", tmp_path).error
        or "edgeq-report" in edgeq("report", "--index", tmp_path).error
    )
    assert edgeq("report", "run.json", "--index", tmp_path).code == 2
    assert edgeq("report").code == 2
    with pytest.raises(InputError):
        from edgeq import report

        report(index=tmp_path / "none")
