"""`edgeq study` on a classifier of four layers, from the axes to the report; one study serves most tests."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote
from xml.dom import minidom

import numpy as np
import pytest
from typer.testing import CliRunner

from edgeq.calibration.source import CalibrationSource
from edgeq.cli.app import app
from edgeq.datasets import open_split
from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.graphs.graph import read_onnx, weight_of
from edgeq.measurement.timed_file import Job
from edgeq.results.measurement import BenchResult, LatencyStatistics
from edgeq.results.serialization import to_json
from edgeq.results.study import StudyResult
from edgeq.sources.model import ModelRequest
from edgeq.studying.model import FileModel
from edgeq.studying.run import StudyRun
from edgeq.studying.space import Space
from edgeq.studying.usefulness import why_useless
from edgeq.tuning import timing_site
from edgeq.tuning.staged import StagedImages
from edgeq.tuning.workers import executing
from edgeq.verbs import study as study_verb
from edgeq.verbs.study import StudyOptions, open_study, study_cost, study_model
from tests.tuning.nets import save_classifier

IMAGES = 60
SPACE = Space(bits=(2, 3, 8), granularity=("row",), method=("rtn", "gptq"), block=("subsets",), blocks=2)
"""`fragile` in the first half and `spare` in the second: 3 bits x 2 methods x 3 subsets."""


class Net(NamedTuple):
    """The classifier, its preset, its labelled images and its images to calibrate on."""

    file: Path
    preset: Path
    labels: Path
    calib: Path

    @property
    def request(self) -> ModelRequest:
        return ModelRequest(str(self.file), preset=str(self.preset))


class Found(NamedTuple):
    """A study, its folder, and how often images went through a file."""

    result: StudyResult
    out: Path
    calls: int


@pytest.fixture(scope="module")
def net(tmp_path_factory) -> Net:
    return Net(*save_classifier(tmp_path_factory.mktemp("net"), images=IMAGES, outlier=1.0, spare=True))


def study(net: Net, out: Path, space: Space = SPACE, **further: Any) -> StudyResult:
    options = further.pop("options", StudyOptions(threads=1))
    source = CalibrationSource(net.calib, num=8)
    data = open_split(net.labels, "evaluation")
    return study_model(net.request, data, source, space, out, options=options, **further).result


@pytest.fixture(scope="module")
def found(net, tmp_path_factory) -> Found:
    out, calls = tmp_path_factory.mktemp("study"), []
    original = StagedImages.predict
    with pytest.MonkeyPatch.context() as patch:

        def counted(self, *rest):
            calls.append(rest)
            return original(self, *rest)

        patch.setattr(StagedImages, "predict", counted)
        return Found(study(net, out), out, len(calls))


def test_each_weight_is_quantized_once_and_each_trial_is_scored_once(found):
    result = found.result
    # 16 bits throughout, and the grid; 8 bits throughout are one of its trials.
    assert len(result.points) == 1 + 3 * 2 * 3
    assert found.calls == 1 + len(result.points)
    # 4 layers in FP16, and 2 of them in 6 ways each.
    assert result.weights_quantized == len(list((found.out / "weights").iterdir())) == 4 + 2 * 6
    assert result.weights_used == 4 * len(result.points)


def test_bits_per_weight_count_scales_and_zero_points(found):
    of_name = {point.name: point for point in found.result.points}
    sizes = {"sturdy": 64 * 3, "fragile": 64 * 64, "spare": 64 * 64, "head": 5 * 64}
    everything = sum(sizes.values())
    # Of each of 64 rows a scale in FP32 and a zero point of 2 bits.
    stored = 16 * (everything - sizes["fragile"]) + 2 * sizes["fragile"] + 64 * (32 + 2)
    point = of_name["w2 rtn row: 1of2"]
    assert point.bits_per_weight == pytest.approx(stored / everything)
    assert of_name["16 bits throughout"].bits_per_weight == 16
    assert of_name["16 bits throughout"].size_bytes - point.size_bytes == (16 * everything - stored) // 8


def test_fewer_bits_lose_more_and_the_front_holds_what_nothing_betters(found):
    points = {point.name: point for point in found.result.points}
    assert found.result.float_score == 1.0
    assert points["16 bits throughout"].loss.points == 0
    assert points["w2 rtn row: 1of2+2of2"].loss.points > points["w8 rtn row: 1of2+2of2"].loss.points
    for point in found.result.points:
        bettered = any(
            each.bits_per_weight <= point.bits_per_weight and each.loss.points < point.loss.points
            for each in points.values()
        )
        assert not (point.on_front and bettered)


def test_pairs_are_tested_against_the_sum_of_both(found):
    points = {point.name: point for point in found.result.points}
    assert len(found.result.interactions) == 3 * 2
    pair = next(each for each in found.result.interactions if each.stored == "w2 rtn row")
    alone = [points[f"w2 rtn row: {part}"].loss.points for part in ("1of2", "2of2")]
    assert pair.added == pytest.approx(sum(alone))
    assert pair.together == pytest.approx(points["w2 rtn row: 1of2+2of2"].loss.points)
    assert pair.low <= pair.difference <= pair.high


def test_a_choice_on_one_half_of_the_images_is_confirmed_on_the_other(found):
    confirmation = found.result.confirmation
    assert confirmation is not None
    assert confirmation.chosen_images + confirmation.confirmed.images == IMAGES
    assert confirmation.chosen_points <= confirmation.max_drop
    smaller = [
        each for each in found.result.points
        if each.bits_per_weight < next(p.bits_per_weight for p in found.result.points if p.name == confirmation.trial)
    ]  # fmt: skip
    assert all(each.loss.points > 0 for each in smaller)
    # No image changes, so by the rule of three 30 images confirm 10 points, and half a point takes 600.
    assert (confirmation.margin, confirmation.images_needed, confirmation.holds) == (10.0, 600, "yes")
    (text,) = (each.text for each in found.result.advice if each.trial == confirmation.trial and "chosen" in each.text)
    assert "confirmed within a margin of 10 points (which 30 images confirm in 80% of all cases)" in text
    assert text.endswith("to confirm 0.5 points takes about 600 such images")


@pytest.fixture(scope="module")
def lenient(net, found, tmp_path_factory) -> StudyResult:
    """The same trials, of which all may be of use, with a margin that is asked for."""
    options = StudyOptions(threads=1, useful_drop=100.0, margin=0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_verb, "write_study", lambda *_: [])
        return study(net, tmp_path_factory.mktemp("lenient"), options=options, store=found.out / "trials.sqlite")


def test_few_bits_alone_are_of_no_use(found, lenient):
    result = found.result
    # A tenth of a top-1 of 1.
    assert (result.useful_drop, result.float_score) == (10.0, 1.0)
    lost = {each.name: each.loss.points for each in result.points if each.useless}
    assert lost and all(loss > 10 for loss in lost.values())
    assert all(each.loss.points <= 10 for each in result.points if not each.useless)
    assert {each.name for each in result.front} == {each.name for each in result.points if each.on_front} - lost.keys()
    assert {each.name for each in result.useless_front} <= lost.keys()
    shown = sorted(result.front, key=lambda each: each.bits_per_weight)
    assert [each.gain is None for each in shown] == [True] + [False] * (len(shown) - 1)
    # Whatever may be lost, one answer to everything is not beaten by chance: its score is about that of 5 classes.
    assert lenient.chance_score == result.chance_score == pytest.approx(1 / 5, abs=0.2)
    assert not any(each.useless for each in lenient.points if each.score > 0.5)
    chosen = lenient.confirmation
    assert chosen is not None
    assert (chosen.margin, chosen.margin_asked, chosen.images_needed, chosen.holds) == (0.5, True, 600, "open")


def test_what_is_no_better_than_one_answer_is_of_no_use(net, found, tmp_path):
    data, source = open_split(net.labels, "evaluation"), CalibrationSource(net.calib, num=8)
    options = StudyOptions(threads=1, useful_drop=100.0)
    with open_study(
        net.request, data, source, SPACE, tmp_path, options=options, store=found.out / "trials.sqlite"
    ) as opened:
        run = opened.run
        (trial,) = (each for each in opened.planned.trials if each.name == "w2 rtn row: 1of2")
        (outcome,) = run.outcomes([trial])
        assert why_useless(run, outcome, run.change(run.float_outcome, outcome)) == ""
        chance = run.chance_outcome
        assert chance is not None
        worst = dataclasses.replace(outcome, score=chance.score, draws=chance.draws)
        assert why_useless(run, worst, run.change(run.float_outcome, worst)).startswith("top1 ")


def test_advice_says_what_is_worth_leaving_in_fp16(found, lenient):
    points = {point.name: point for point in lenient.points}
    # What loses more than a tenth of the score is not worth a sentence unless it may be lost.
    assert not any(each.text.startswith("with w2 rtn row, quantizing") for each in found.result.advice)
    (text,) = (each.text for each in lenient.advice if each.text.startswith("with w2 rtn row, quantizing"))
    # `fragile` is in the first half, which is therefore spared.
    assert "quantizing 2of2 instead of 1of2+2of2 gains" in text
    spared = points["w2 rtn row: 2of2"].size_bytes - points["w2 rtn row: 1of2+2of2"].size_bytes
    assert f"points for {spared / 1e3:.4g} kB more" in text


def test_a_report_opens_without_a_network_and_papers_get_figures_and_tables(found):
    page = (found.out / "report.html").read_text(encoding="utf-8")
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert all(point.name in page for point in found.result.points)
    plans = [json.loads(unquote(each)) for each in re.findall(r'href="data:application/json,([^"]*)"', page)]
    assert [(plan["trial"], plan["cells"]) for plan in plans] == [(p.name, p.cells) for p in found.result.points]
    for svg in page.split("<svg")[1:]:
        minidom.parseString(f"<svg xmlns:xlink='x'{svg.partition('</svg>')[0]}</svg>")  # noqa: S318 - ours
    with (found.out / "trials.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["trial"] for row in rows] == [point.name for point in found.result.points]
    assert [float(row["points_lost"]) for row in rows] == [point.loss.points for point in found.result.points]
    if importlib.util.find_spec("pyarrow") is not None:
        import pyarrow.parquet as pq

        table = pq.read_table(found.out / "trials.parquet")
        assert table.column_names == list(rows[0])
        assert table["points_lost"].to_pylist() == [point.loss.points for point in found.result.points]
    paper = {path.name for path in (found.out / "paper").iterdir()}
    assert paper == {"front.pdf", "bits_rtn_row.pdf", "bits_gptq_row.pdf", "front.tex"}
    assert (found.out / "paper" / "front.pdf").read_bytes().startswith(b"%PDF")
    latex = (found.out / "paper" / "front.tex").read_text()
    shown = {point.name for point in found.result.points if point in found.result.front or "thr" in point.name}
    assert latex.count("&") == 3 * (1 + len(shown))


def cut_after(monkeypatch, trials):
    """Interrupts studies after so many trials; returns what lets them run to their end again."""
    original, left = StudyRun._outcome, iter(range(trials))

    def cut(self, *rest):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return original(self, *rest)

    monkeypatch.setattr(StudyRun, "_outcome", cut)
    return lambda: monkeypatch.setattr(StudyRun, "_outcome", original)


def test_a_study_that_is_cut_resumes_with_the_same_result_in_other_processes_too(net, found, tmp_path, monkeypatch):
    let_run = cut_after(monkeypatch, 6)
    with pytest.raises(KeyboardInterrupt):
        study(net, tmp_path)
    assert not (tmp_path / "report.html").exists()
    let_run()
    with executing(2) as executor:
        again = study(net, tmp_path, executor=executor)
    assert to_json(again) == to_json(found.result)
    assert (tmp_path / "report.html").read_bytes() == (found.out / "report.html").read_bytes()
    # The files of trials are gone, and so is the float one.
    assert not list(tmp_path.rglob("*.onnx"))


def test_a_dry_run_tells_what_is_left_and_enters_nothing(net, found, tmp_path):
    data, source = open_split(net.labels, "evaluation"), CalibrationSource(net.calib, num=8)
    options = StudyOptions(threads=1)
    for out, known, seconds in ((tmp_path, 0, True), (found.out, len(found.result.points), False)):
        planned, cost = study_cost(net.request, data, source, SPACE, out, options=options)
        assert (cost.trials, cost.known, cost.images) == (len(planned.trials), known, IMAGES)
        assert (cost.weights, cost.used) == (found.result.weights_quantized, found.result.weights_used)
        assert (cost.hours > 0) == seconds
    assert not (tmp_path / "weights").exists()


def weights_of(path: Path) -> dict[str, np.ndarray]:
    found = {str(node.name): weight_of(node) for node in read_onnx(path).graph}
    return {name: weight for name, weight in found.items() if weight is not None}


def test_a_trial_computes_what_its_weights_say(net, found):
    """The file of a trial holds, by name, FP16 weights where nothing is quantized and rounded ones elsewhere."""
    source, options = CalibrationSource(net.calib, num=8), StudyOptions(threads=1)
    data = open_split(net.labels, "evaluation")
    with open_study(net.request, data, source, SPACE, found.out, options=options) as opened:
        trial = next(each for each in opened.planned.trials if each.name == "w2 rtn row: 1of2")
        assert isinstance(opened.run.model, FileModel)
        assembler = dataclasses.replace(opened.run.model.assembler, whole=True)
        path = assembler.write(trial, 999).path
        held = weights_of(path)
        path.unlink()
    weights = weights_of(net.file)
    for name in ("sturdy", "spare", "head"):
        assert np.array_equal(held[name], weights[name].astype(np.float16).astype(np.float32))
    rows, floats = held["fragile"].reshape(64, 64), weights["fragile"].reshape(64, 64)
    assert max(len(np.unique(row)) for row in rows) == 4
    # Rounded to nearest on a grid that reaches from the least to the largest weight: no further than half a step.
    steps = (np.maximum(floats.max(axis=1), 0) - np.minimum(floats.min(axis=1), 0)) / 3
    assert (np.abs(rows - floats) <= 1.01 * steps[:, None]).all()


def test_activations_of_8_bits_round_what_quantized_layers_read(net, tmp_path):
    source, options = CalibrationSource(net.calib, num=8), StudyOptions(threads=1)
    space = Space(bits=(8,), granularity=("row",), activation=(16, 8))
    with open_study(
        net.request, open_split(net.labels, "evaluation"), source, space, tmp_path, options=options
    ) as opened:
        assert isinstance(opened.run.model, FileModel)
        _, plain, rounded = opened.planned.trials
        assert (plain.name, rounded.name) == ("w8 rtn row: all layers", "w8 rtn row a8: all layers")
        # Weights are shared, and the trials are told apart.
        bank = opened.run.model.bank
        assert bank.wanted([plain]) == bank.wanted([rounded]) and plain.identity != rounded.identity
        bank.fill(bank.wanted([rounded]))
        assembler = dataclasses.replace(opened.run.model.assembler, whole=True)
        graph = read_onnx(assembler.write(rounded, 0).path)
    quantized = set(rounded.weights)
    readers = {str(node.name): node.inputs[0] for node in graph.graph if weight_of(node) is not None}
    behind = {name for name, value in readers.items() if value is not None and value.producer() is not None
              and value.producer().op_type == "DequantizeLinear"}  # type: ignore[union-attr]  # fmt: skip
    assert behind == quantized and quantized < readers.keys()


@pytest.mark.parametrize(
    ("space", "options", "said"),
    [
        (Space(layer=("attention",)), {}, "the axis layer names nothing that the model has"),
        (Space(component=("neck",)), {}, "the axis component names nothing that the model has"),
        (Space(block=("rear",)), {}, "the axis block has 'rear': wanted front"),
        (Space(), {"trials": 5}, "a grid has all"),
        (Space(), {"sample": "random"}, "wanted the number of `trials`"),
    ],
)
def test_what_names_nothing_is_refused_in_one_line(net, tmp_path, space, options, said):
    with pytest.raises(InputError, match=r"\A[^\n]*\Z") as error:
        study(net, tmp_path, space, options=StudyOptions(threads=1, **options))
    assert said in str(error.value)


def test_a_store_of_another_study_and_a_score_that_never_moves_are_said_in_one_line(net, found, tmp_path, caplog):
    store = Path(shutil.copy(found.out / "trials.sqlite", tmp_path))
    fewer = net._replace(labels=net.labels.with_name("fewer.csv"))
    fewer.labels.write_text("".join(net.labels.read_text().splitlines(keepends=True)[:21]))
    space = Space(bits=(8,), granularity=("row",), layer=("all",))
    result = study(fewer, tmp_path / "out", space, store=store)
    (warned,) = (record.message for record in caplog.records if "the store has" in record.message)
    assert warned.endswith("trials of another model, data or engine; none is used") and "\n" not in warned
    assert "no trial moves top1; try fewer bits" in result.notes
    assert result.confirmation is not None


def test_an_adaptive_study_tries_more_around_the_front_and_resumes(net, found, tmp_path, monkeypatch):
    monkeypatch.setattr(study_verb, "write_study", lambda *_: [])
    options = StudyOptions(threads=1, sample="adaptive", trials=13, seed=1)
    let_run = cut_after(monkeypatch, 12)
    with pytest.raises(KeyboardInterrupt):
        study(net, tmp_path / "cut", options=options)
    let_run()
    resumed = study(net, tmp_path / "cut", options=options)
    # The store of the whole grid has every trial: what is chosen depends on scores alone.
    store = found.out / "trials.sqlite"
    known = study(net, tmp_path / "known", options=options, store=store)
    assert to_json(resumed) == to_json(known)
    losses = {each.name: each.loss for each in found.result.points}
    tried = {each.name: each.loss for each in known.points if "throughout" not in each.name}
    assert len(tried) == 13 == known.trials_asked
    assert tried.items() <= losses.items()
    other = study(net, tmp_path / "other", options=dataclasses.replace(options, seed=2), store=store)
    assert {each.name for each in other.points} != {each.name for each in known.points}


def test_weights_go_by_as_many_images_as_the_axis_says(net, found, tmp_path, monkeypatch):
    monkeypatch.setattr(study_verb, "write_study", lambda *_: [])
    space = Space(bits=(2,), granularity=("row",), method=("gptq",), calibration=(2, 8))
    result = study(net, tmp_path, space)
    points = {each.calibration: each for each in result.points if each.calibration}
    assert {each.name for each in points.values()} == {"w2 gptq row c2: all layers", "w2 gptq row c8: all layers"}
    # 8 are all that the other study goes by.
    whole = next(each for each in found.result.points if each.name == "w2 gptq row: 1of2+2of2")
    assert (points[8].score, points[8].bits_per_weight) == (whole.score, whole.bits_per_weight)
    assert points[2].score != whole.score
    more = dataclasses.replace(space, calibration=(8, 9999))
    with pytest.raises(InputError, match=r"the axis calibration has 9,999: `calib` has \d+ images; give more"):
        study(net, tmp_path, more)


def bench(jobs: list[Job], *, steady: bool, **_: object) -> list[BenchResult]:
    """Takes twice FP32's time for a file of few bits; an engine takes seconds."""
    return [
        BenchResult(
            artifact=job.artifact.name, runtime=job.runtime, precision=job.artifact.precision, runs=8,
            samples_ns=tuple((10 if job.artifact.precision == "fp32" else 20) * turn for turn in range(1, 9)),
            round_runs=(1,) * 8, latency_ms=LatencyStatistics(p50=2.5), stable=steady, peak_rss_bytes=90_000_000,
            unstable_reasons=() if steady else ("latency drifted by +20 %",),
        )
        for job in jobs
    ]  # fmt: skip


def test_files_of_the_front_are_timed_in_turns_with_fp32(net, tmp_path, monkeypatch):
    runs = []

    def benched(jobs, *, steady=False, **rest):
        runs.append([job.artifact.precision for job in jobs])
        return bench(jobs, steady=steady, **rest)

    monkeypatch.setattr(timing_site, "bench_jobs", benched)
    monkeypatch.setattr(timing_site, "runs_here", lambda *_: True)
    space = Space(bits=(3, 4))
    options = StudyOptions(threads=1, useful_drop=100.0)
    busy = study(net, tmp_path, space, options=options)
    (timed,) = (each for each in busy.front if each.measured)
    assert timed.name == "w4 rtn g32: all layers" and timed.measured and not timed.measured.steady
    assert any("the machine was not steady (latency drifted by +20 %)" in note for note in busy.notes)
    assert "1 point of the front is not timed: onnxruntime has no kernel for the bits" in busy.notes
    # What a busy machine gave is measured again, what a steady one gave is kept, and neither with `measure` off.
    monkeypatch.setattr(timing_site, "bench_jobs", lambda jobs, **rest: benched(jobs, steady=True))
    found = [study(net, tmp_path, space, options=options) for _ in range(2)]
    assert runs == [["fp32", "w4"]] * 2
    assert found[0] == found[1]
    measured = next(each.measured for each in found[0].front if each.measured)
    assert (measured.ratio, measured.p50_ms, measured.peak_rss_bytes) == (2.0, 2.5, 90_000_000)
    assert measured.steady and 0 < measured.file_bytes < net.file.stat().st_size
    with (tmp_path / "trials.csv").open() as stream:
        rows = {row["trial"]: row for row in csv.DictReader(stream)}
    assert rows[timed.name]["time_over_fp32"] == "2.0" and rows["16 bits throughout"]["p50_ms"] == ""
    assert "Files of the front, in turns with FP32" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "paper" / "times.pdf").is_file()
    unmeasured = study(net, tmp_path, space, options=dataclasses.replace(options, measure=False))
    assert not any(each.measured for each in unmeasured.points) and len(runs) == 2


def test_the_command_prints_front_and_advice_and_says_what_is_missing(net, tmp_path):
    command = [
        *("study", str(net.file), "--preset", str(net.preset), "--data", str(net.labels), "--calib", str(net.calib)),
        *("--out", str(tmp_path / "out"), "--threads", "1", "--max-drop", "100", "--no-measure"),
        *("--axis", "bits=4,8", "--axis", "layer=all,attention", "--json", str(tmp_path / "study.json")),
    ]
    ran = CliRunner().invoke(app, command)
    assert ran.exit_code == 0, ran.output
    assert "trials on the front and useful" in ran.output
    assert "layer attention: the model has no attention; not run" in ran.output
    assert "importance: the study varies no part of the network" in ran.output
    assert (tmp_path / "study.json").is_file()
    # The command of the chosen point writes its file: 4 bits everywhere but in the first and the last layer.
    (export,) = (shlex.split(line) for line in ran.output.splitlines() if line.startswith("  edgeq export"))
    wrote = CliRunner().invoke(app, [*export[1:], "--out", str(tmp_path / "files"), "--no-measure"])
    assert wrote.exit_code == 0, wrote.output
    (file,) = (tmp_path / "files").glob("*.onnx")
    facts = Artifact.load(file).quantization
    assert (facts["low_bit"]["bits"], facts["low_bit"]["nodes"], set(facts["float_nodes"])) == (
        4,
        2,
        {"sturdy", "head"},
    )
