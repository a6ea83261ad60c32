"""What NVIDIA's compiler made of files, in every form of the report: named, told from what was measured, linked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeq.errors import InputError
from edgeq.reporting.build import build_document
from edgeq.reporting.runs import read_runs
from edgeq.reporting.write import write_report
from edgeq.verbs.gate import Limits, check_limits
from tests.reporting.made import BUILT, REFUSED, make_check, make_timing

INT8 = "net.rtx.int8.onnx"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A timed file that was compiled too, one that was refused, a check and an export without the compiler."""
    timed = make_timing("int8", 4.0, artifact=INT8, digest="abc", target="rtx")
    plain = {key: value for key, value in make_check("other.onnx", BUILT).items() if key != "compiled"}
    export: dict[str, Any] = {"files": [{"file": "a.onnx", "manifest": "a.json", "target": "x86", "comparison": {}}]}
    written = {
        "bench": timed,
        "check_int8": make_check(INT8, BUILT, digest="abc"),
        "check_refused": make_check("de|t<i>.onnx", REFUSED),
        "check_plain": plain,
        "export": export,
    }
    for name, document in written.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    return tmp_path


def test_compiled_files_are_linked_with_the_rows_of_the_same_file(folder):
    runs = read_runs([folder])
    assert [row.artifact for row in runs.rows] == [INT8]
    assert [source.name for source in runs.sources] == ["bench.json", "check_int8.json", "check_refused.json"]
    built, refused = build_document(runs, examples=0).compiled
    assert (built.entries, built.file.compiled, built.agreeing) == ((1,), BUILT, 3)
    assert (refused.entries, refused.verdict) == ((), "its parser refused the file")
    # The name alone does not make a file the same; of a result without a digest nothing else is known.
    for digest, entries in (("another", ()), ("", (1,))):
        (folder / "check_int8.json").write_text(json.dumps(make_check(INT8, BUILT, digest=digest)))
        assert build_document(read_runs([folder]), examples=0).compiled[0].entries == entries


def test_a_file_compiled_twice_is_shown_as_it_was_last_for_each_capability(folder):
    (folder / "check_later.json").write_text(json.dumps(make_check(INT8, REFUSED, digest="abc")))
    (folder / "check_same.json").write_text(json.dumps(make_check(INT8, BUILT, digest="abc", target="jetson-orin")))
    found = [(each.name, each.compiled.sm, each.target) for each in read_runs([folder]).compiled]
    assert found == [(INT8, "SM86", "jetson-orin"), (INT8, "SM120", "rtx"), ("de|t<i>.onnx", "SM120", "rtx")]


def test_every_format_names_the_compiler_and_says_what_became_of_each_layer(folder):
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    for suffix in ("html", "md", "json"):
        write_report(read_runs([folder]), folder / f"report.{suffix}")
    html, table, document = ((folder / f"report.{each}").read_text() for each in ("html", "md", "json"))
    section = html.partition('id="compiler"')[2].partition("</section>")[0]
    for text in (section, table):
        assert "TensorRT for RTX 1.7.1.116, SM86" in text
        assert "3 of 4" in text and "1 fp16 by fp4, 2 int8, 1 unknown" in text
        assert "6 fp16 to int8" in text and "5.70" in text and "0.85" in text and "8.32" in text
        assert "its parser refused the file: node det: Det: false" in text
        assert "the log of version 1.9 was read as that of 1.7" in text
        assert "which is not the TensorRT of a Jetson: nothing was run" in text
    assert '<a class="chip" href="#row-1">1</a>' in section
    assert "planned int8, compiled to nothing: merged with an equal layer" in section
    assert "twin&lt;b&gt;" in section and "twin<b>" not in section
    assert "| de\\|t<i>.onnx | TensorRT for RTX 1.7.1.116, SM120 |" in table
    groups = [each["groups"] for each in json.loads(document)["compiled"]]
    conv = {"operator": "Conv", "planned": "int8", "compiled": "int8", "stored": "int8", "count": 2}
    assert groups[0][0] == conv and groups[1] == []


def test_compiled_files_alone_make_a_report(folder, edgeq):
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    check = folder / "check_int8.json"
    done = edgeq("report", check, "--out", folder / "page.html")
    assert done.code == 0, done.err
    assert "TensorRT for RTX 1.7.1.116 for SM86 (not a Jetson): built" in done.out
    page = (folder / "page.html").read_text()
    assert f"<title>{INT8} – edgeq report</title>" in page and '<p class="lede">1 compiled file; 20' in page
    assert 'id="overview"' not in page and 'href="#overview"' not in page
    assert edgeq("report", check, "--out", folder / "page.md").code == 0
    assert "| artifact |" not in (folder / "page.md").read_text()
    with pytest.raises(InputError, match=r"\.csv holds these alone"):
        write_report(read_runs([check]), folder / "page.csv")
    with pytest.raises(InputError, match="nothing to judge among files that were compiled alone"):
        check_limits(read_runs([check]).rows, Limits(max_drop=1.0))


def test_a_named_result_without_the_compiler_is_refused(folder):
    for name in ("check_plain", "export"):
        with pytest.raises(InputError, match=rf"{name}\.json: no file was compiled"):
            read_runs([folder / f"{name}.json"])
