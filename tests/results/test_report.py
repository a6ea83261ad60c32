"""`edgeq report`: which figures stand in which row, and how they came about."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from benchmarks.json_results import merge
from edgeq.cli import console
from edgeq.errors import InputError
from edgeq.results.evaluation import Score
from edgeq.results.reading import read_results
from edgeq.results.rows import provenance
from edgeq.results.table import TIMING, evaluation_columns, header, report_columns, table, to_markdown
from edgeq.tasks import score_types

ENVIRONMENT = {
    "engine": "onnxruntime 1.31.1",
    "threads": 2,
    "compute_precision": "f32",
    "cpu": "A fast CPU",
    "system": "Linux 6",
    "python": "3.11.7",
}


def scored(artifact: str, **changes: Any) -> dict[str, Any]:
    numbers = {"AP": 0.5803, "AP50": 0.8724, "AP75": 0.65, "AP_small": None, "AR_100": 0.6824, "task": "detection"}
    entry = {"artifact": artifact, "digest": artifact, "runtime": "onnxruntime", "precision": "fp32", "images": 87}
    classes = [
        {"name": "[bold]", "category_id": 1, "boxes": 12, "ap": 0.5, "ap50": 0.75, "ar_100": 0.625},
        {"name": "absent", "category_id": 2, "boxes": 0, "ap": None, "ap50": None, "ar_100": None},
    ]
    return copy.deepcopy({**entry, **numbers, "per_class": classes, "environment": ENVIRONMENT, **changes})


def timed(artifact: str, **changes: Any) -> dict[str, Any]:
    entry = {
        "artifact": artifact,
        "digest": artifact,
        "runtime": "onnxruntime",
        "precision": "fp32",
        "size_bytes": 63_346_969,
        "latency_ms": {"p50": 72.344, "p90": 75.5, "p99": None, "mean": 72.0, "min": 70.0, "max": 90.0, "mad": 0.8},
        "cold_start_ms": {"start": None, "import": 100.0, "load": 150.25, "first": 80.0},
        "peak_rss_bytes": 257_400_000,
        "throughput_per_s": 13.8,
        "ratio_to_fp32": 1.0,
        "stable": True,
        "environment": ENVIRONMENT,
    }
    return copy.deepcopy({**entry, **changes})


def cells(results: list[dict[str, Any]]) -> list[dict[str, str]]:
    rows = merge(results)
    columns = report_columns(rows)
    return [dict(zip(header(columns), row, strict=True)) for row in table(rows, columns)]


def score_of(entry: dict[str, Any]) -> Score:
    (row,) = merge([entry])
    assert row.score is not None
    return row.score


def test_scores_and_times_of_an_artifact_meet_in_one_row():
    (row,) = cells([scored("net.x86.fp32.onnx"), timed("net.x86.fp32.onnx")])
    assert {row.pop(title) for title in ("GPU ms", "J / image", "XNNPACK %")} == {"-"}
    assert row == {
        "artifact": "net.x86.fp32.onnx",
        "runtime": "onnxruntime",
        "AP": "0.5803",
        "AP50": "0.8724",
        "AR": "0.6824",
        "p50 ms": "72.34",
        "p90 ms": "75.50",
        "size MB": "63.35",
        "memory MB": "257",
        "time / FP32": "1.00",
    }


def test_what_was_not_measured_is_a_dash():
    first, second = cells([scored("a.onnx", AP=None), timed("b.onnx", peak_rss_bytes=None, ratio_to_fp32=None)])
    assert [title for title, cell in first.items() if cell != "-"] == ["artifact", "runtime", "AP50", "AR"]
    assert [title for title, cell in second.items() if cell == "-"] == [
        "AP", "AP50", "AR", "GPU ms", "memory MB", "time / FP32", "J / image", "XNNPACK %",
    ]  # fmt: skip


def test_emulated_artifacts_have_no_times():
    untimed = dict.fromkeys(("p50", "p90", "p99", "mean", "min", "max", "mad"))
    results = [timed("a.onnx", latency_ms=untimed, cold_start_ms=None, throughput_per_s=None, obtained="emulated")]
    assert cells(results)[0]["p50 ms"] == "-"
    assert table(merge(results), TIMING)[0].count("-") == 9
    assert provenance(merge(results)) == [
        "Latency, size and memory: emulated with onnxruntime 1.31.1 (2 threads) on A fast CPU, Linux 6, Python 3.11.7."
    ]


def test_each_runtime_and_compute_precision_is_a_row_in_order_of_appearance():
    bf16 = {"environment": ENVIRONMENT | {"compute_precision": "bf16"}}
    results = [
        timed("b.onnx", runtime="openvino", **bf16),
        timed("b.onnx", runtime="openvino"),
        timed("a.onnx"),
        scored("b.onnx", runtime="openvino", **bf16),
    ]
    found = [(row["artifact"], row["runtime"], row["AP"]) for row in cells(results)]
    assert found == [
        ("b.onnx", "openvino (bf16)", "0.5803"),
        ("b.onnx", "openvino", "-"),
        ("a.onnx", "onnxruntime", "-"),
    ]


def test_files_of_one_name_are_told_apart():
    results = [
        timed("net.onnx", digest="1" * 64),
        timed("net.onnx", digest="2" * 64, ratio_to_fp32=0.5),
        timed("b.onnx"),
    ]
    found = [(row["artifact"], row["time / FP32"]) for row in cells(results)]
    assert found == [("net.onnx (11111111)", "1.00"), ("net.onnx (22222222)", "0.50"), ("b.onnx", "1.00")]


def test_the_last_word_on_a_row_counts():
    (row,) = cells([timed("a.onnx", ratio_to_fp32=0.9), scored("a.onnx", AP=0.1), timed("a.onnx"), scored("a.onnx")])
    assert (row["time / FP32"], row["AP"]) == ("1.00", "0.5803")


def test_an_unstable_run_is_marked_and_explained():
    reasons = ["latency drifted by +8.1%", "CPU clock moved between 1500 and 2400 MHz"]
    rows = merge([timed("a.onnx", stable=False, unstable_reasons=reasons), timed("b.onnx")])
    columns = report_columns(rows)
    assert [row[header(columns).index("p50 ms")] for row in table(rows, columns)] == ["~72.34", "72.34"]
    assert provenance(rows)[-2:] == [
        "~: not timed in a steady state, so another run may differ; ratios within one run hold.",
        "~ a.onnx in onnxruntime: latency drifted by +8.1%, CPU clock moved between 1500 and 2400 MHz.",
    ]
    assert not any(sentence.startswith("~") for sentence in provenance(rows[1:]))


def test_energy_says_how_it_was_measured_and_what_is_idle():
    energy = {"j_per_image": 0.25, "idle_share": 0.412, "source": "RAPL package-0", "window_s": 3.0}
    results = [
        timed("a.onnx", energy=energy),
        timed("b.onnx", energy={**energy, "idle_share": None}),
        timed("c.onnx", energy=None),
    ]
    assert provenance(merge(results))[-1] == (
        "J / image: RAPL package-0 over the timed runs, the idle machine's share included: a.onnx in onnxruntime 41%."
    )


def test_results_of_before_there_were_sensors_know_of_drift_only():
    rows = merge([timed("a.onnx", stable=False)])
    assert provenance(rows)[-1] == "~ a.onnx in onnxruntime: latency drifted by more than 5%."


def test_a_file_slower_than_its_float_version_is_named():
    results = [timed(name, ratio_to_fp32=ratio) for name, ratio in (("fp32", 1.0), ("near", 1.02), ("slow", 1.35))]
    said = [sentence for sentence in provenance(merge(results)) if "times as long" in sentence]
    assert said == ["slow takes 1.35 times as long as its FP32 file in onnxruntime on this machine."]


def test_the_cold_start_is_the_sum_of_its_known_parts():
    column = header(TIMING).index("cold start ms")
    assert table(merge([timed("a.onnx")]), TIMING)[0][column] == "330"


def test_provenance_names_engines_machine_and_data():
    other = {"environment": ENVIRONMENT | {"engine": "openvino 2026.4.1"}, "runtime": "openvino"}
    results = [
        scored("a.onnx", annotations="val.json"),
        scored("a.onnx", annotations="val.json", **other),
        timed("a.onnx"),
    ]
    assert provenance(merge(results)) == [
        "AP and AR over 87 images of val.json: measured with onnxruntime 1.31.1 (2 threads) and openvino 2026.4.1 "
        "(2 threads) on A fast CPU, Linux 6, Python 3.11.7.",
        "Latency, size and memory: measured with onnxruntime 1.31.1 (2 threads) on A fast CPU, Linux 6, Python 3.11.7.",
    ]


def test_markdown_has_the_same_columns_in_every_row():
    lines = to_markdown(merge([scored("a|b.onnx"), timed("c.onnx")])).splitlines()
    end = lines.index("")
    columns = 3 + 5  # AP, AP50, AR; p50, p90, size, memory and ratio: no GPU, no TFLite, no energy
    assert {len(re.split(r"(?<!\\)\|", line)) for line in lines[:end]} == {columns + 4}
    assert lines[1] == "|---|---|" + "---:|" * columns
    assert lines[2].startswith("| a\\|b.onnx | onnxruntime | 0.5803 |")
    assert lines[end + 1].startswith("AP and AR over 87 images")


@pytest.mark.parametrize(
    "columns_of", [report_columns, lambda _rows: TIMING, evaluation_columns], ids=["report", "bench", "eval"]
)
@pytest.mark.parametrize("width", [80, 120, 1000])
def test_tables_fit_the_terminal_with_every_name_and_figure_whole(columns_of, width, monkeypatch, capsys):
    monkeypatch.setattr(console, "open_console", lambda: Console(width=width, highlight=False))
    names = ["centernet_r18_bccd.x86.fp32.onnx", "centernet_r18_bccd.x86.int8.onnx"]
    runtimes = [("onnxruntime", "f32"), ("openvino", "bf16")]
    results = [
        make(name, runtime=runtime, stable=False, environment=ENVIRONMENT | {"compute_precision": compute})
        for name in names
        for runtime, compute in runtimes
        for make in (scored, timed)
    ]
    rows = merge(results)
    columns = columns_of(rows)
    console.print_report(rows, columns)
    printed = capsys.readouterr().out.splitlines()
    lines = printed[: -len(provenance(rows))]
    assert max(map(cell_len, lines)) <= width
    squeezed = " ".join(" ".join(lines).split())
    empty = [all(row[i] == "-" for row in table(rows, columns)) for i in range(len(header(columns)))]
    for row in table(rows, columns):
        figures = " ".join(cell for cell, hidden in zip(row[1:], empty[1:], strict=True) if not hidden)
        assert squeezed.count(figures) == 2
        assert row[0] in squeezed
    # Wide terminals repeat the name, narrow ones have it above its rows.
    assert squeezed.count(names[0]) == {80: 1, 1000: 2}.get(width, squeezed.count(names[0]))


def test_empty_columns_are_left_out(monkeypatch, capsys):
    monkeypatch.setattr(console, "open_console", lambda: Console(width=200, highlight=False))
    console.print_report(merge([scored("a.onnx")]))
    assert capsys.readouterr().out.splitlines()[0].split() == ["artifact", "runtime", "AP", "AP50", "AR"]
    assert to_markdown(merge([scored("a.onnx")])).startswith("| artifact | runtime | AP | AP50 | AR |\n")


def recognised(artifact: str, **changes: Any) -> dict[str, Any]:
    classes = [{"name": "cat", "class_index": 0, "images": 3, "top1": 2 / 3}]
    classes.append({"name": "absent", "class_index": 1, "images": 0, "top1": None})
    numbers = {"task": "classification", "top1": 0.7548, "top5": None, "per_class": classes}
    entry = {"artifact": artifact, "digest": artifact, "runtime": "litert", "precision": "int8", "images": 10_000}
    return {**entry, **numbers, "environment": ENVIRONMENT, **changes}


def test_classifiers_have_columns_of_their_own(tmp_path, monkeypatch, capsys):
    results = [recognised("a.tflite"), scored("b.onnx")]
    assert len(read_results([write(tmp_path / "eval.json", results)], score_types())) == 2
    first, second = cells(results)
    assert (first["top-1"], first["top-5"], first["AP"]) == ("0.7548", "-", "-")
    assert (second["top-1"], second["AP"]) == ("-", "0.5803")
    assert provenance(merge(results))[0].startswith("Accuracy over 10,000 images: measured with")
    assert to_markdown(merge(results[:1])).startswith("| artifact | runtime | top-1 |\n")
    monkeypatch.setattr(console, "open_console", lambda: Console(width=200, highlight=False))
    rows = merge(results[:1])
    console.print_report(rows, evaluation_columns(rows))
    console.print_classes(score_of(recognised("a.tflite")))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["artifact", "runtime", "top-1"]
    assert lines[-2:] == [["class", "images", "top-1"], ["cat", "3", "0.6667"]]


def embedded(artifact: str, **changes: Any) -> dict[str, Any]:
    numbers = {"task": "embedding", "cosine": 0.9987, "cosine_min": 0.95, "recall_at_1": 0.9, "self_recall_at_1": 0.8}
    entry = {"artifact": artifact, "digest": artifact, "runtime": "openvino", "precision": "int8", "images": 300}
    return {**entry, **numbers, "recall_at_10": None, "environment": ENVIRONMENT, **changes}


def test_embeddings_have_columns_of_their_own(tmp_path):
    results = [embedded("a.onnx")]
    assert len(read_results([write(tmp_path / "eval.json", results)], score_types())) == 1
    assert to_markdown(merge(results)).startswith(
        "| artifact | runtime | cosine | cosine min | recall@1 | self recall@1 |\n"
    )
    assert provenance(merge(results))[0].startswith("Cosine and recall over 300 images: measured with")


def test_hundreds_of_classes_are_left_to_the_json_file(monkeypatch, capsys):
    monkeypatch.setattr(console, "open_console", lambda: Console(width=200, highlight=False))
    classes = [{"name": str(i), "class_index": i, "images": 1, "top1": 1.0} for i in range(101)]
    console.print_classes(score_of(recognised("a.tflite", per_class=classes)))
    assert capsys.readouterr().out == "101 classes; --json FILE holds the scores of each\n"


def test_names_are_printed_as_they_are(monkeypatch, capsys):
    monkeypatch.setattr(console, "open_console", lambda: Console(width=200, highlight=False))
    console.print_report(merge([scored("[red]a.onnx")]))
    console.print_classes(score_of(scored("a.onnx")))
    out = capsys.readouterr().out
    assert "[red]a.onnx" in out
    assert [line.split() for line in out.splitlines()[-2:]] == [
        ["class", "boxes", "AP", "AP50", "AR"],
        ["[bold]", "12", "0.5000", "0.7500", "0.6250"],
    ]


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_files_hold_one_result_or_a_list(tmp_path):
    one = write(tmp_path / "one.json", timed("a.onnx"))
    several = write(tmp_path / "several.json", [scored("a.onnx"), scored("b.onnx")])
    assert [result.artifact for result in read_results([one, several], score_types())] == ["a.onnx", "a.onnx", "b.onnx"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "holds no results"),
        ([1], "$[0] is 1, wanted keys with values; expected a result of `edgeq bench --json` or"),
        ({"format": "edgeq-ranges"}, "has no 'artifact'; expected a result of"),
        ({"artifact": "a", "runtime": "b", "precision": "c"}, "$ holds none of AP, top1, cosine, miou"),
        (scored("a.onnx", AP="0.5"), "$.AP is '0.5', wanted a number"),
        (recognised("a.onnx", top5="all"), "$.top5 is 'all', wanted a number"),
        (scored("a.onnx", AP_small=[1]), "$.AP_small is [1], wanted a number"),
        (embedded("a.onnx", self_recall_at_1="1"), "$.self_recall_at_1 is '1', wanted a number"),
        (timed("a.onnx", size_bytes=True), "$.size_bytes is True, wanted a whole number from 0"),
        (timed("a.onnx", latency_ms=3), "$.latency_ms is 3, wanted keys with values"),
        (timed("a.onnx", latency_ms={"p50": "3"}), "$.latency_ms.p50 is '3', wanted a number"),
        (timed("a.onnx", environment="Linux"), "$.environment is 'Linux', wanted keys with values"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path, content, message):
    path = write(tmp_path / "results.json", content)
    with pytest.raises(InputError, match=rf"results\.json: {re.escape(message)}"):
        read_results([path], score_types())


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.json: no such file; expected a result of"):
        read_results([tmp_path / "none.json"], score_types())
