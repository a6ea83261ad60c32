"""The HTML page: whole, self-contained, escaped, and honest about what was not measured."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from base64 import b64encode
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.json_results import merge
from edgeq.errors import InputError
from edgeq.reporting.build import build_document
from edgeq.reporting.document import Document
from edgeq.reporting.runs import Runs, read_runs
from edgeq.tasks.embedding import EmbeddingPredictions
from edgeq.tasks.prediction_records import pack_predictions
from tests.reporting.made import make_detections, make_ground_truth, make_score, make_timing
from tests.verbs.test_gate import classified

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from edgeq.reporting.page import render
from edgeq.reporting.plots import plot_tradeoff

TRUTH = make_ground_truth(20, seed=5)
GOOD, BAD = make_detections(TRUTH, 1, 1.0), make_detections(TRUTH, 1, 9.0)
VOID = {"meta", "link", "input", "br", "wbr", "img", "hr"}


def results() -> list[dict[str, Any]]:
    return [
        make_score(TRUTH, GOOD, "fp32"),
        make_timing("fp32", 8.0),
        make_score(TRUTH, BAD, "int8"),
        make_timing("int8", 4.0, stable=False, drift=0.2),
        make_score(TRUTH, GOOD, "fp16"),
    ]


def make_document(entries: list[dict[str, Any]], examples: int = 4) -> Document:
    return build_document(Runs(tuple(merge(entries)), (), ()), examples=examples)


@functools.cache
def document() -> Document:
    return make_document(results())


class Page(HTMLParser):
    """Elements, texts and attributes; complains about what is not closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data):
        self.texts.append(data)

    def values(self, *names: str) -> list[str]:
        return [value for _, name, value in self.attributes if name in names]


@pytest.fixture(scope="module")
def html() -> str:
    return render(document())


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


def test_every_element_is_closed_and_every_id_is_given_once(page):
    assert page.open == []
    ids = page.values("id")
    assert len(ids) == len(set(ids))


def test_links_lead_to_what_is_there(page):
    ids = {f"#{found}" for found in page.values("id")}
    targets = {value for value in page.values("href", "xlink:href") if value.startswith("#")}
    assert targets
    assert targets <= ids
    assert set(page.values("aria-labelledby")) <= {found.removeprefix("#") for found in ids}


def test_nothing_comes_from_elsewhere(page, html):
    loaded = page.values("href", "src", "xlink:href", "action", "srcset", "data", "poster")
    assert [value for value in loaded if not value.startswith(("#", "data:"))] == []
    assert re.findall(r"url\((?!#)[^)]*\)|@import|https?://", re.sub(r'xmlns(:\w+)?="[^"]*"', "", html)) == []


def test_the_policy_allows_the_script_of_the_page_alone(page, html):
    (policy,) = [value for tag, name, value in page.attributes if (tag, name) == ("meta", "content") and "src" in value]
    (script,) = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{digest}';" in policy
    assert [name for _, name, _ in page.attributes if name.startswith("on")] == []


def test_names_from_files_are_text(page, html):
    assert "<script>alert" not in html
    assert any("<script>alert(1)</script>" in text for text in page.texts)
    spoiled = '"><img src=x onerror=alert(1)>'
    entries = results()
    for entry in entries:
        entry |= {"artifact": spoiled, "runtime": spoiled, "device": spoiled, "command": spoiled, "target": spoiled}
        entry["environment"] = {**entry["environment"], "engine": spoiled, "cpu": spoiled}
    spoiled_page = Page(render(make_document(entries)))
    assert spoiled_page.open == []
    assert {tag for tag, _, _ in spoiled_page.attributes if tag == "img"} == set()


def test_all_figures_are_there(html):
    for entry in document().entries:
        assert f"{entry.score:.4f}" in html
    assert "~4.00" in html
    assert "unstable" in html
    assert "drift 20 %" in html


def test_what_was_not_measured_says_so(html):
    # FP16 was scored, not timed: p50, p90, ratio, size, memory, state, and four cells of its provenance.
    assert html.count('class="missing">not measured') >= 6
    assert "Not measured in any of these results: energy." in html


def test_a_report_of_timings_alone_has_no_scores():
    bare = render(make_document([make_timing("fp32", 8.0), make_timing("int8", 4.0)]))
    assert Page(bare).open == []
    assert "Not measured in any of these results: score, below FP32, energy." in bare
    assert 'id="losses"' not in bare


def test_a_report_of_scores_alone_has_no_plots_of_latency():
    bare = render(make_document([make_score(TRUTH, GOOD, "fp32"), make_score(TRUTH, BAD, "int8")]))
    assert Page(bare).open == []
    assert 'id="latency"' not in bare
    assert 'id="losses"' in bare


def test_classifiers_and_embeddings_have_pages_too():
    right = np.arange(60) % 7 != 0
    classifiers = classified(np.ones(60, bool), right)
    cosines = np.linspace(0.9, 1.0, 30, dtype=np.float32)
    predictions = pack_predictions(EmbeddingPredictions(tuple(map(str, range(30))), cosines))
    changes = {"task": "embedding", "artifact": "vit.x86.int8.onnx", "source_digest": "vit", "target": "x86"}
    embedding = {**make_timing("int8", 4.0, **changes), "digest": "vit"}
    score = {**embedding, "cosine": float(cosines.mean()), "recall_at_1": 0.9, "images": 30, "predictions": predictions}
    del score["latency_ms"]
    made = make_document([*classifiers, make_timing("fp32", 8.0, digest="fp32"), score, embedding])
    drops = [entry.drop.points for entry in made.entries if entry.drop is not None]
    assert drops == pytest.approx([100 * (1 - right.mean()), 5.0], abs=1e-4)
    shown = render(made)
    assert Page(shown).open == []
    assert "top-1" in shown
    assert "cosine" in shown
    assert 'id="thresholds"' not in shown


def test_detectors_and_classifiers_share_a_page():
    classifiers = [
        {**entry, "artifact": f"vit.x86.{entry['precision']}.onnx", "source_digest": "vit"}
        for entry in classified(np.ones(60, bool), np.ones(60, bool))
    ]
    timed = [
        {**make_timing(precision, ms), "source_digest": "vit", "artifact": entry["artifact"], "digest": entry["digest"]}
        for entry, (precision, ms) in zip(classifiers, (("fp32", 8.0), ("int8", 4.0)), strict=True)
    ]
    shown = render(make_document([*results(), *classifiers, *timed]))
    assert Page(shown).open == []
    assert "top-1 1.0000 is level with FP32 (95% interval: 0.00 to 0.00), over 60 images." in shown
    assert "fewer than 10 boxes (images, of a classifier)" in shown
    assert ">top-1</text>" in shown
    assert ">AP</text>" in shown
    assert 'style="width: 0.0%"' not in shown


def test_a_class_of_few_boxes_proves_no_loss():
    few = make_ground_truth(3, seed=5)
    entries = [make_score(few, make_detections(few, 1, noise), name) for noise, name in ((1.0, "fp32"), (9.0, "int8"))]
    made = make_document(entries)
    proved = [drop for loss in made.losses for drop in loss.classes if drop.low is not None and drop.low > 0]
    assert proved and all(drop.support is not None and drop.support < 10 for drop in proved)
    by_class = render(made).partition("By class")[2].partition("</section>")[0]
    assert ">few</span>" in by_class
    assert 'class="loss"' not in by_class


def test_results_of_earlier_versions_are_shown_without_intervals():
    entries = [{key: value for key, value in entry.items() if key != "predictions"} for entry in results()]
    old = render(make_document(entries))
    assert Page(old).open == []
    assert "no interval" in old


def test_the_same_results_make_the_same_page(html):
    assert render(document()) == html


def test_emulated_and_simulated_rows_are_marked():
    untimed = dict.fromkeys(("p50", "p90", "p99", "mean", "min", "max", "mad"))
    entries = [
        make_score(TRUTH, GOOD, "fp32"),
        make_score(TRUTH, BAD, "int8", obtained="simulated"),
        make_timing(
            "fp32", 8.0, obtained="emulated", latency_ms=untimed, stable=None, samples_ns=[], ratio_to_fp32=None
        ),
    ]
    found = make_document(entries)
    assert [entry.states for entry in found.entries] == [("emulated",), ("simulated",)]
    shown = render(found)
    assert '<span class="state simulated">simulated</span>' in shown
    assert "onnxruntime 1.31.1, local, simulated</small>" in shown  # at the width of a phone


def test_images_are_shrunk_into_the_page_and_must_lie_in_the_folder(tmp_path):
    for record in TRUTH.images:
        Image.fromarray(np.full((1200, 1000, 3), 90, np.uint8)).save(tmp_path / record.file_name)
    shown = render(document(), [tmp_path])
    images = re.findall(r'<image id="[^"]*" href="(data:image/jpeg;base64,[^"]*)"', shown)
    assert len(images) == 4
    assert all(len(image) < 60_000 for image in images)
    assert Page(shown).open == []
    assert "data:image/jpeg" not in render(document(), [tmp_path.parent])
    entries = results()
    for entry in entries:
        if "predictions" in entry:
            entry["predictions"]["images"] = ["../secret.png"] * 20
    with pytest.raises(InputError, match="leads out of"):
        render(make_document(entries), [tmp_path])


def test_kinds_of_error_are_shown_with_their_change_from_fp32(html):
    found = document()
    by_precision = {found.entry(errors.entry).precision: errors for errors in found.errors}
    before, now = by_precision["fp32"], by_precision["int8"]
    assert (before.reference, now.reference) == (None, before.entry)
    costs = {error.kind: 100 * error.cost for error in before.diagnosis.errors}
    for error in now.kinds:
        assert error.points_change == pytest.approx(error.points - costs[error.kind])
    worst = max(now.kinds, key=lambda error: abs(error.points_change or 0))
    assert f"<small>{worst.count} ({worst.count_change:+d})".replace("-", "\N{MINUS SIGN}") in html
    assert "precision at IoU .50" in html


def test_the_pages_images_are_those_that_differ_most():
    (shown,) = make_document(results(), examples=3).differences
    differences = [example.difference for example in shown.examples]
    assert len(differences) == 3
    assert differences == sorted(differences, reverse=True)
    everything = make_document(results(), examples=100).differences[0].examples
    assert [each.image for each in everything[:3]] == [each.image for each in shown.examples]
    example = everything[0]
    alone = [box for box in (*example.reference, *example.other) if not box.is_shared]
    assert example.difference >= sum(box.score or 0 for box in alone) - 1e-6


def test_the_command_writes_every_format_with_the_same_figures(tmp_path: Path, edgeq):
    runs = tmp_path / "runs.json"
    runs.write_text(json.dumps(results()))
    for suffix in ("html", "md", "csv", "json"):
        done = edgeq("report", runs, "--out", tmp_path / f"report.{suffix}")
        assert done.code == 0, done
        text = (tmp_path / f"report.{suffix}").read_text(encoding="utf-8")
        for entry in read_runs([runs]).rows:
            assert entry.score is not None
            score = entry.score.main_value
            assert (str(score) if suffix in ("csv", "json") else f"{score:.4f}") in text
    assert "report.txt: is of no known format" in edgeq("report", runs, "--out", tmp_path / "report.txt").error


def test_an_engine_has_the_same_mark_in_every_plot():
    def shape_of(svg: str, number: int) -> str:
        mark = re.search(rf'href="#row-{number}".*?<use [^>]*href="#([^"]+)"', svg, flags=re.DOTALL)
        assert mark
        path = re.search(rf'<path id="{mark[1]}"\s+d="([^"]+)"', svg)
        assert path
        return path[1]

    first, second = make_document(
        [
            make_score(TRUTH, GOOD, "fp32"),
            make_timing("fp32", 8.0),
            make_score(TRUTH, BAD, "int8", runtime="openvino"),
            make_timing("int8", 4.0, runtime="openvino"),
        ]
    ).entries
    together = plot_tradeoff([first, second], ["onnxruntime", "openvino"], "both")
    alone = plot_tradeoff([second], ["onnxruntime", "openvino"], "one")
    assert shape_of(alone, second.number) == shape_of(together, second.number) != shape_of(together, first.number)
