"""What `edgeq tune` finds for a classifier with one layer that INT8 destroys."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.dom import minidom

import pytest

import edgeq as package
from edgeq.calibration.source import CalibrationSource
from edgeq.datasets import open_split
from edgeq.devices.config import Device
from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact
from edgeq.machine import read_machine
from edgeq.measurement.timed_file import Job
from edgeq.results.measurement import BenchResult, Energy, LatencyStatistics
from edgeq.results.serialization import to_json
from edgeq.results.tuning import TunedLatency, TuningResult
from edgeq.sources.artifact_file import open_artifact
from edgeq.sources.model import open_model
from edgeq.targets import get_target
from edgeq.targets.isa import with_isa
from edgeq.tasks import find_decoder
from edgeq.tuning.candidate import Candidate
from edgeq.tuning.device_costs import costs_on_devices
from edgeq.tuning.scoring import Scoring, ScoringOptions
from edgeq.tuning.screening import Screening
from edgeq.tuning.search import Search
from edgeq.tuning.search_budget import Budget, parse_seconds
from edgeq.tuning.search_choice import SearchOptions
from edgeq.tuning.search_costs import kept_by_cost, layer_costs
from edgeq.tuning.search_latency import Measured, measured, this_machine
from edgeq.tuning.sensitivity import SensitivityOptions
from edgeq.tuning.staged import StagedImages
from edgeq.tuning.store import Store
from edgeq.tuning.timing_devices import Devices
from edgeq.tuning.timing_site import runs_here
from edgeq.tuning.trials import Subject
from edgeq.verbs.export import export_model
from edgeq.verbs.sensitivity import calibration_of, find_sensitivity
from edgeq.verbs.tune import TuningFiles, default_candidate, tune_model
from tests.exact import EXACT
from tests.tuning.nets import save_classifier
from tests.tuning.test_sensitivity import IMAGES, TARGET, Net

DROP = 5.0


@pytest.fixture(scope="module")
def net(tmp_path_factory) -> Net:
    """The classifier, with its ranges in the place of images to calibrate on."""
    net = Net(*save_classifier(tmp_path_factory.mktemp("net"), images=IMAGES))
    ranges = net.calib / "ranges.json"
    package.calibrate(package.load(net.file, preset=net.preset), net.calib, threads=1, out=ranges)
    return net._replace(calib=ranges)


@pytest.fixture(autouse=True)
def exact(exact_runtime) -> None:
    """Trials run in exact arithmetic, on any CPU."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the run lies that several tests look at."""
    folder: Path = tmp_path_factory.mktemp("tuned")
    return folder


def tune(net: Net, out: Path, **options: Any) -> TuningFiles:
    budget = options.pop("budget", Budget(max_drop=DROP))
    seconds, store = options.pop("seconds", None), options.pop("store", None)
    chosen = SearchOptions(runtime=EXACT, threads=1, budget=budget, **options)
    source, data = calibration_of(net.labels, net.calib, 512), open_split(net.labels, "evaluation")
    return tune_model(net.request, TARGET, data, source, out, options=chosen, seconds=seconds, store=store)


def found(net: Net, out: Path, **options: Any) -> TuningResult:
    return tune(net, out, **options).result


def in_float(result: TuningResult) -> list[str]:
    return [group.name for group in result.groups if group.precision == "float"]


def test_exactly_the_layer_that_int8_destroys_stays_in_float(net, folder):
    files = tune(net, folder)
    result, chosen = files.result, files.result.chosen
    assert in_float(result) == ["fragile"]
    assert chosen.loss is not None
    assert chosen.loss.high <= DROP
    assert result.proved
    assert {each.w4a8_layers for each in result.files} == {0}, "4 bits are no faster, and no size is asked for"
    assert chosen.latency.ratio < 1
    assert chosen.latency.obtained == "estimated", "an ARM file has no time on another CPU, or none was asked for"
    names = {each.name: each for each in result.files}
    assert names["fp32"].score == 1.0
    default = names["default"]
    assert default.loss is not None
    assert default.loss.images == IMAGES, "the reference is scored on all images, however bad it is"
    assert default.loss.points > 20
    worse = [each for each in result.files if each.dropped and each.int8_layers == 3]
    assert all(each.loss is not None and each.loss.images == 32 for each in worse)
    assert result.images_scored < result.images_of_all
    fragile = next(group for group in result.groups if group.name == "fragile")
    assert fragile.points > 20
    assert "points for" in fragile.reason
    written = open_artifact(files.artifact.path)
    assert written.digest == result.digest
    assert written.quantization["float_nodes"]["fragile"]
    assert written.quantization["tuning"]["score"] == {"name": "top1", "value": chosen.score}
    assert "fragile" not in minidom.parse(str(files.picture)).toxml()  # noqa: S318 - our own file
    assert "recommended" in files.picture.read_text()


def test_a_run_that_is_cut_resumes_with_what_another_folder_gets_at_once(net, folder, tmp_path, monkeypatch):
    whole = found(net, folder)
    calls: list[int] = []
    noises: list[str] = []
    original, measured = StagedImages.predict, Screening.noise

    def predict(self: StagedImages, artifact: Artifact, stage: int) -> dict[int, Any]:
        if len(calls) == 6 and calls[-1] >= 0:
            calls.append(-1)
            raise KeyboardInterrupt
        calls.append(stage)
        return original(self, artifact, stage)

    def noise(self: Screening, artifact: Artifact) -> Any:
        noises.append(artifact.name)
        return measured(self, artifact)

    monkeypatch.setattr(StagedImages, "predict", predict)
    monkeypatch.setattr(Screening, "noise", noise)
    with pytest.raises(KeyboardInterrupt):
        found(net, tmp_path)
    screened = len(noises)
    assert to_json(found(net, tmp_path)) == to_json(whole)
    assert len(noises) == screened, "no noise is measured twice"
    done = len(calls)
    found(net, tmp_path)
    assert len(calls) == done, "no image is predicted twice"
    assert sum(IMAGES if each is None else each.images for each in (file.loss for file in whole.files)) >= 32 * 2


def test_what_sensitivity_screened_is_not_screened_again(net, tmp_path, monkeypatch):
    source, data = calibration_of(net.labels, net.calib, 512), open_split(net.labels, "evaluation")
    store = tmp_path / "trials.sqlite"
    options = SensitivityOptions(runtime=EXACT, threads=1)
    find_sensitivity(net.request, TARGET, data, source, tmp_path, options=options, store=store)
    before = screened(store)
    names: list[str] = []
    measured = Screening.noise

    def noise(self: Screening, artifact: Artifact) -> Any:
        names.append(artifact.name)
        return measured(self, artifact)

    monkeypatch.setattr(Screening, "noise", noise)
    result = found(net, tmp_path, store=store)
    assert in_float(result) == ["fragile"]
    assert screened(store) == before + len(names), "what was measured is new to the store, all of it"


def screened(path: Path) -> int:
    """Returns how many trials of a store have a noise."""
    with Store(path) as store:
        return sum("snr_db" in row.measures for row in store.rows())


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (Budget.of(None, None, "0.01x"), r"`file_size` 0.01x: the smallest file .* MB, 0\.\d+x of FP32's; allow that"),
        (Budget.of(None, "0.01x", None), r"no file keeps the budget \(latency 0.01x\); the nearest is .*x of FP32's"),
        (Budget.of(0.3, None, None), "70 images cannot prove so small a loss.* it takes 1001 images"),
        (Budget.of(None, "12ms", None), "cannot be measured on this machine .*; name a `device`, or give a multiple"),
        (Budget.of(1e3, None, None, "0.5x"), "`max_drop 1000, memory 0.5x`: files of arm cannot be measured on this"),
    ],
)
def test_what_cannot_be_had_is_refused_with_what_can(net, folder, tmp_path, budget, message):
    if budget.needs_measuring and read_machine().architecture == "aarch64":
        pytest.skip("an ARM file has its time here")
    with pytest.raises(InputError, match=message) as refused:
        found(net, tmp_path, budget=budget, store=folder / "trials.sqlite")
    assert "\n" not in str(refused.value)


def test_within_a_size_the_file_that_loses_least_is_taken(net, folder, tmp_path):
    # Integers of small layers are no smaller than their floats: scales come along. What is left is to lose points.
    sizes = {each.name: each.size_bytes for each in found(net, folder).files}
    result = found(net, tmp_path, budget=Budget.of(None, None, f"{sizes['fp32'] - 1}B"), store=folder / "trials.sqlite")
    fitting = [each for each in result.files if each.size_bytes < sizes["fp32"] and not each.dropped]
    assert result.chosen.points == min(each.points for each in fitting if each.points is not None) > DROP
    assert "fragile" not in in_float(result)


def test_files_that_take_too_much_memory_are_not_scored(net, folder, tmp_path, monkeypatch):
    found(net, folder)  # the noise of all candidates is known

    def bench(jobs: Sequence[Job], **_: Any) -> list[BenchResult]:
        return [
            BenchResult(
                artifact=job.artifact.name, runtime=job.runtime, precision=job.artifact.precision,
                samples_ns=(100,) * 8, round_runs=(1,) * 8, latency_ms=LatencyStatistics(p50=1e-4),
                peak_rss_bytes=100 * job.artifact.size_bytes,
            )
            for job in jobs
        ]  # fmt: skip

    monkeypatch.setattr("edgeq.tuning.timing_site.bench_jobs", bench)
    monkeypatch.setattr("edgeq.tuning.timing_site.runs_here", lambda *_: True)
    sizes = sorted(each.size_bytes for each in found(net, folder).files)
    budget = Budget.of(None, None, None, f"{100 * sizes[0]}B")
    result = found(net, tmp_path, budget=budget, store=folder / "trials.sqlite")
    assert result.chosen.size_bytes == sizes[0]
    over = [each for each in result.files if each.size_bytes > sizes[0] and each.name not in {"fp32", "default"}]
    assert over
    assert {(each.score, each.dropped) for each in over} == {(None, "takes more than the memory that is allowed")}


def test_a_model_that_is_broken_in_float_is_refused(net, tmp_path):
    with net.labels.open(newline="") as stream:
        rows = [(name, (int(label) + 1) % 5) for name, label in csv.reader(stream)]
    wrong = net.labels.with_name("wrong.csv")
    with wrong.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    with pytest.raises(InputError, match=r"net: .*(top1 is 0 in FP32|preset)"):
        found(net._replace(labels=wrong), tmp_path)


def test_the_best_so_far_is_taken_when_time_is_over(net, folder, tmp_path, monkeypatch):
    early = found(net, tmp_path, seconds=1e-9)
    assert (early.stopped, early.recommended, early.proved) == ("time", "fp32", True)
    clock: Iterator[float] = iter([0.0] * 14)  # all is screened by then, and a part of the files scored
    # Its own clock: calibration asks for the time too.
    monkeypatch.setattr("edgeq.tuning.search_halving.time", SimpleNamespace(monotonic=lambda: next(clock, 1e9)))
    later = found(net, tmp_path, seconds=10.0)
    assert later.stopped == "time"
    assert any(each.loss is not None for each in later.files)
    assert later.chosen.points == 0 or later.chosen.loss is not None


@pytest.mark.parametrize(
    ("text", "value", "is_ratio"), [("12ms", 12.0, False), ("0.5x", 0.5, True), ("1.5 s", 1500.0, False)]
)
def test_a_latency_has_a_unit(text, value, is_ratio):
    limit = Budget.of(None, text, None).latency
    assert limit is not None
    assert limit.value == pytest.approx(value)
    assert limit.is_ratio == is_ratio


def test_sizes_and_times_have_units():
    sizes = [Budget.of(None, None, text).size for text in ("4MB", "2 MiB", "512 kb")]
    assert [each.value for each in sizes if each is not None] == [4e6, 2 * 2**20, 512e3]
    assert [parse_seconds(text) for text in ("90s", "30m", "2h")] == [90, 1800, 7200]
    assert Budget.of(None, None, None).max_drop == 0.5
    both = Budget.of(None, None, None, "80MB", "20 mJ")
    assert (both.max_drop, both.memory and both.memory.value, both.energy and both.energy.value) == (None, 80e6, 0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, "12", None), r"`latency` '12': wanted a number with a unit \(us, ms, s, x\), such as 12ms"),
        ((None, None, "4 potatoes"), "`file_size` '4 potatoes': wanted a number with a unit"),
        ((None, "0ms", None), "wanted more than 0"),
        ((-1.0, None, None), "`max_drop` -1: wanted points of the score, more than 0"),
        ((float("nan"), None, None), "more than 0"),
        ((None, None, None, "80 lightyears"), "`memory` '80 lightyears': wanted a number with a unit"),
        ((None, None, None, None, "3W"), r"`energy` '3W': wanted a number with a unit \(mj, j, x\), such as 20mJ"),
    ],
)
def test_an_amount_without_a_known_unit_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Budget.of(*arguments)


def test_the_default_is_what_export_writes_before_it_looks_for_loud_layers(net, tmp_path, monkeypatch):
    monkeypatch.setattr("edgeq.verbs.export_noise.LOUD_DB", -float("inf"))
    model = open_model(net.request).model
    ranges, _ = CalibrationSource(net.calib).ranges(model, tmp_path, 1)
    target = with_isa(get_target("x86"), None, read_machine())
    subject = Subject(model, target, ranges, "layer")
    costs = layer_costs(subject, 1, measure=False)
    kept = kept_by_cost(subject, costs, by_cost=True)
    file = subject.write(default_candidate(subject, kept), tmp_path / "default")
    exported = export_model(
        net.request, "x86", ["int8"], tmp_path / "export", calibration=CalibrationSource(ranges), plan="cost"
    )
    assert file.digest == exported.files[0].artifact.digest


def test_the_command_prints_the_files_and_writes_what_the_function_returns(net, folder, tmp_path, edgeq):
    found(net, folder)
    json_file, store = tmp_path / "tuning.json", folder / "trials.sqlite"
    done = edgeq(
        "tune", net.file, "--data", net.labels, "--preset", net.preset, "--calib", net.calib, "--max-drop", DROP,
        "--target", TARGET, "--runtime", EXACT, "--threads", 1, "--out", tmp_path, "--store", store,
        "--json", json_file, "--front",
    )  # fmt: skip
    assert done.code == 0, done
    assert "fragile: float: INT8 costs" in done.out
    document = json.loads(json_file.read_text())
    assert document.pop("command").startswith("edgeq tune")
    result = package.tune(
        package.load(net.file, preset=net.preset), net.labels, max_drop=DROP, calib=net.calib, target=TARGET,
        runtime=EXACT, threads=1, out=tmp_path / "api", store=store, front=True,
    )  # fmt: skip
    assert document == to_json(result)
    front = [each for each in result.files if each.on_front]
    assert {each.name for each in result.files if each.file} == {each.name for each in front} | {result.recommended}
    written = {each.name: open_artifact(tmp_path / "api" / each.file) for each in front}
    assert {name: file.size_bytes for name, file in written.items()} == {each.name: each.size_bytes for each in front}
    assert open_artifact(tmp_path / result.chosen.file).digest == result.digest
    refused = edgeq("tune", net.file, "--data", net.labels, "--preset", net.preset, "--latency", "12 parsecs")
    assert "wanted a number with a unit" in refused.error
    both = edgeq("tune", net.file, "--data", net.labels, "--sensitivity", "--max-drop", 1)
    assert both.code == 2
    assert "knows no budget" in both.err
    untimed = edgeq("tune", net.file, "--data", net.labels, "--sensitivity", "--device", "local")
    assert untimed.code == 2
    assert "times nothing" in untimed.err
    without = edgeq("tune", net.file, "--data", net.labels, "--sensitivity", "--front")
    assert "writes no files" in without.err


def test_times_are_those_of_a_target_only_on_a_machine_of_its_kind():
    x86 = dataclasses.replace(read_machine(), architecture="x86_64", emulated=False)
    arm = dataclasses.replace(x86, architecture="aarch64")
    assert runs_here(get_target("x86"), "openvino", x86)
    assert not runs_here(get_target("x86"), "openvino", arm)
    assert not runs_here(get_target("x86"), "openvino", dataclasses.replace(x86, emulated=True))
    assert runs_here(get_target("arm"), "onnxruntime", arm)
    assert not runs_here(get_target("arm"), "onnxruntime", x86)
    assert not runs_here(get_target("jetson-orin"), "simulated-tensorrt", arm)
    assert runs_here(get_target("jetson-orin"), "tensorrt", arm)


def scoring_of(net: Net, out: Path, store: Store) -> Scoring:
    model = open_model(net.request).model
    source = CalibrationSource(net.calib)
    ranges, _ = source.ranges(model, out, 1)
    subject = Subject(model, get_target(TARGET), ranges, "layer")
    assert model.postprocessing is not None
    task = find_decoder(model.postprocessing).task.from_split(open_split(net.labels, "evaluation"), "pycocotools")
    inputs = [array for array, _ in source.inputs(model.preprocessing, 2)]
    return Scoring(subject, task, inputs, ScoringOptions(runtime=EXACT, threads=1), store, out)


def test_a_layer_whose_points_are_known_is_not_judged_by_its_noise_alone(net, tmp_path):
    with Store(tmp_path / "trials.sqlite") as store:
        scoring = scoring_of(net, tmp_path, store)
        costs = layer_costs(scoring.subject, 1, measure=False)
        search = Search(scoring, SearchOptions(), costs, scoring.whole, this_machine(scoring))
        assert search.shares["sturdy"]["int8"] < 0.01
        assert search.problem.groups["sturdy"]["int8"].noise == search.shares["sturdy"]["int8"]
        # As if sensitivity had found that it alone loses what the whole file loses.
        sturdy = next(group for group in scoring.subject.groups if group.name == "sturdy")
        scoring.journal.add_predictions(scoring.trial(scoring.subject.of_groups((sturdy,))), scoring.whole_predictions)
        again = Search(scoring, SearchOptions(), costs, scoring.whole, this_machine(scoring))
        assert 0.5 < again.problem.groups["sturdy"]["int8"].noise <= 1
        assert again.problem.groups["head"] == search.problem.groups["head"]


@pytest.mark.parametrize("ratio", [0.3, 0.9])
def test_estimates_are_scaled_to_what_the_default_file_takes_on_a_device(net, tmp_path, monkeypatch, ratio):
    found = [Measured(TunedLatency(ratio=each)) for each in (1.0, ratio)]
    monkeypatch.setattr("edgeq.tuning.device_costs.measured_files", lambda *_: found)
    with Store(tmp_path / "trials.sqlite") as store:
        scoring = scoring_of(net, tmp_path, store)
        site = Devices([Device("pi", host="pi")], scoring.subject.target, EXACT)
        default = default_candidate(scoring.subject, frozenset())
        costs = costs_on_devices(scoring, site, default, measure=True)
        search = Search(scoring, SearchOptions(), costs, default, site)
        assert search.expected_us(default) / search.float_us == pytest.approx(ratio, rel=0.02)
    assert costs.time_source.endswith(f"those of INT8 scaled to whole files on pi, {ratio:.2f} of FP32's time")


@pytest.mark.parametrize("steady", [True, False])
def test_times_are_taken_in_turns_with_fp32_and_kept_if_the_machine_was_steady(net, tmp_path, monkeypatch, steady):
    runs: list[list[str]] = []
    budget = Budget.of(None, None, None, "0.8x", "0.2J")

    def bench(jobs: Sequence[Job], **_: Any) -> list[BenchResult]:
        runs.append([job.artifact.precision for job in jobs])
        times = {"fp32": 200, "int8": 100}
        return [
            BenchResult(
                artifact=job.artifact.name, runtime=job.runtime, precision=job.artifact.precision,
                samples_ns=tuple([times[job.artifact.precision] * scale for scale in range(1, 9)]),
                round_runs=(1,) * 8, latency_ms=LatencyStatistics(p50=2.5), stable=steady,
                unstable_reasons=() if steady else ("latency drifted by +20 %",),
                peak_rss_bytes={"fp32": 90_000_000, "int8": 60_000_000}[job.artifact.precision],
                energy=Energy(j_per_image={"fp32": 0.4, "int8": 0.1}[job.artifact.precision]),
            )
            for job in jobs
        ]  # fmt: skip

    monkeypatch.setattr("edgeq.tuning.timing_site.bench_jobs", bench)
    monkeypatch.setattr("edgeq.tuning.timing_site.runs_here", lambda *_: True)
    with Store(tmp_path / "trials.sqlite") as store:
        scoring = scoring_of(net, tmp_path, store)
        files = [
            (scoring.trial(Candidate()), scoring.float_file),
            (scoring.trial(scoring.whole), scoring.whole_file),
        ]
        site = this_machine(scoring)
        found = [measured(scoring.journal, site, files, budget) for _ in range(2)]
    assert runs == [["fp32", "int8"]] * (1 if steady else 2)
    assert found[0] == found[1]
    assert {each.unsteady for each in found[0] if each} == {"" if steady else "latency drifted by +20 %"}
    latencies = [each.latency for each in found[0] if each]
    assert [(each.ratio, each.p50_ms, each.obtained) for each in latencies] == [
        (1.0, 2.5, "measured"), (0.5, 2.5, "measured")
    ]  # fmt: skip
    usage = [each.usage for each in found[0] if each]
    assert [(each.memory_bytes, each.j_per_image, each.j_over_fp32) for each in usage] == [
        (90_000_000, 0.4, 1.0), (60_000_000, 0.1, 0.25)
    ]  # fmt: skip
