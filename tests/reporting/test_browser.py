"""The page in a real browser: no complaint, sorting and filtering work, nothing is wider than a phone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.json_results import merge
from docs.browser import Browser, find_browser
from edgeq.reporting.build import build_document
from edgeq.reporting.index import write_index
from edgeq.reporting.runs import Runs
from tests.reporting.made import LAYERS, SIGNAL, make_detections, make_ground_truth, make_score, make_timing

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from edgeq.reporting.page import render

SHOWN = "Array.from(document.querySelectorAll('#overview-table tbody tr:not([hidden])')).map(row => row.id)"
HEADING = (
    "Array.from(document.querySelectorAll('#overview-table thead th')).find(each => each.innerText.startsWith('{}'))"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("page")
    truth = make_ground_truth(20, seed=5)
    for record in truth.images:
        Image.fromarray(np.full((200, 200, 3), 90, np.uint8)).save(folder / record.file_name)
    good, bad = make_detections(truth, 1, 1.0), make_detections(truth, 1, 9.0)
    results = [
        *(make_score(truth, good, "fp32"), make_timing("fp32", 8.0)),
        *(make_score(truth, bad, "int8"), make_timing("int8", 12.0, layers=LAYERS, signal=SIGNAL)),
        *(make_score(truth, good, "fp16", device="pi"), make_timing("fp16", 4.0, device="pi")),
        make_timing("dynamic", 20.0, ratio_to_fp32=None, peak_rss_bytes=None),
    ]
    document = build_document(Runs(tuple(merge(results)), (), ()), examples=2)
    file = folder / "report.html"
    file.write_text(render(document, [folder]), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium found; install it, or set EDGEQ_CHROMIUM to what docs/fetch_chromium.sh prints")
    with Browser(program) as started:
        yield started


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width_px", [1280, 390, 360])
def test_the_page_opens_without_a_complaint_and_fits(browser, page, width_px, dark):
    browser.complaints.clear()
    browser.requests.clear()
    browser.open(page, width_px, 800, dark=dark)
    browser.run("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith(("data:", page.resolve().as_uri()))] == []
    assert browser.run("document.documentElement.scrollWidth") == width_px
    paper = [int(value) for value in re.findall(r"\d+", browser.run("getComputedStyle(document.body).backgroundColor"))]
    assert (max(paper) < 60) == dark


@pytest.fixture(scope="module")
def axe() -> str:
    """The checker of pages for people who use a screen reader or a keyboard, from npm."""
    file = os.environ.get("EDGEQ_AXE")
    if not file:
        pytest.skip("no axe-core; set EDGEQ_AXE to the axe.min.js of its package (npm pack axe-core)")
    return Path(file).read_text(encoding="utf-8")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width_px", [1280, 390])
@pytest.mark.parametrize("name", ["report.html", "index.html"])
def test_axe_finds_nothing_serious(browser, page, axe, name, width_px, dark):
    if name == "index.html":
        write_index(page.parent)
    browser.open(page.with_name(name), width_px, 800, dark=dark)
    browser.run("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    browser.run(f"{axe}; 0")
    said = browser.run(
        "axe.run().then(found => found.violations.filter(each => ['serious', 'critical'].includes(each.impact))"
        ".map(each => each.id + ': ' + each.nodes.map(node => node.html).join(' ')).join('; '))"
    )
    assert said == ""


def test_a_script_that_is_not_the_pages_own_does_not_run(browser, page):
    browser.open(page, 1280, 800)
    refused = browser.run(
        "new Promise(done => { document.addEventListener('securitypolicyviolation', event => "
        "done(event.effectiveDirective)); const added = document.createElement('script'); "
        "added.textContent = 'document.title = \"taken over\"'; document.body.append(added); })"
    )
    assert refused == "script-src-elem"
    assert browser.run("document.title").startswith("net")
    browser.complaints.clear()


def test_columns_sort_both_ways_with_what_was_not_measured_last(browser, page):
    browser.open(page, 1280, 800)
    heading = HEADING.format("memory")
    assert browser.run(SHOWN) == ["row-1", "row-2", "row-3", "row-4"]
    browser.run(f"{HEADING.format('p50')}.querySelector('button').click()")
    assert browser.run(SHOWN) == ["row-3", "row-1", "row-2", "row-4"]
    assert browser.run(f"{HEADING.format('p50')}.getAttribute('aria-sort')") == "ascending"
    browser.run(f"{HEADING.format('p50')}.querySelector('button').click()")
    assert browser.run(SHOWN) == ["row-4", "row-2", "row-1", "row-3"]
    assert browser.run(f"{HEADING.format('p50')}.getAttribute('aria-sort')") == "descending"
    for direction in ("ascending", "descending"):
        browser.run(f"{heading}.querySelector('button').click()")
        assert browser.run(f"{heading}.getAttribute('aria-sort')") == direction
        assert browser.run(SHOWN)[-1] == "row-4"
    assert browser.run(f"{HEADING.format('p50')}.getAttribute('aria-sort')") == "none"


def test_the_keyboard_sorts_and_switches_the_colours(browser, page):
    browser.open(page, 1280, 800)
    browser.run(f"{HEADING.format('artifact')}.querySelector('button').focus()")
    browser.press("Tab")
    browser.press("Enter")
    assert browser.run(f"{HEADING.format('runs in')}.getAttribute('aria-sort')") == "ascending"
    before = browser.run("getComputedStyle(document.body).backgroundColor")
    browser.run("document.getElementById('theme').focus()")
    browser.press("Enter")
    assert browser.run("getComputedStyle(document.body).backgroundColor") != before
    assert browser.run("document.getElementById('theme').textContent") == "Light"


def test_text_and_choices_filter(browser, page):
    browser.open(page, 1280, 800)

    def enter(element: str, value: str) -> None:
        browser.run(
            f"(() => {{ const each = document.querySelector({element!r}); each.value = {value!r}; "
            "each.dispatchEvent(new Event('input', { bubbles: true })); })()"
        )

    enter("#filter-text", "INT8 onnx")
    assert browser.run(SHOWN) == ["row-2"]
    assert browser.run("document.getElementById('filter-status').textContent") == "1 of 4 rows"
    enter("#filter-text", "")
    enter("select[name=device]", "pi")
    assert browser.run(SHOWN) == ["row-3"]
    enter("select[name=precision]", "fp32")
    assert browser.run(SHOWN) == []
    enter("select[name=device]", "")
    assert browser.run(SHOWN) == ["row-1"]


def test_annotated_boxes_are_shown_on_request(browser, page):
    browser.open(page, 390, 800)
    display = "getComputedStyle(document.querySelector('.truth')).display"
    assert browser.run(display) == "none"
    browser.run("document.getElementById('show-truth').click()")
    assert browser.run(display) != "none"
    # The second view of an image takes the picture of the first.
    assert browser.run("Array.from(document.querySelectorAll('.sides use')).every(each => each.getBBox().width > 0)")


def test_print_shows_everything_on_white_without_controls(browser, page, tmp_path):
    browser.open(page, 1000, 800, dark=True, media="print")
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.run("getComputedStyle(document.getElementById('filters')).display") == "none"
    browser.pdf(tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
