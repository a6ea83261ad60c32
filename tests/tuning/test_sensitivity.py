"""What `edgeq tune --sensitivity` finds in a classifier with one layer that INT8 destroys."""

from __future__ import annotations

import csv
import json
import multiprocessing
from pathlib import Path
from typing import Any, NamedTuple
from xml.dom import minidom

import pytest

import edgeq as package
from edgeq.calibration.source import CalibrationSource
from edgeq.datasets import open_split
from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.options import ExportOptions
from edgeq.results.sensitivity import SensitivityResult
from edgeq.results.serialization import to_json
from edgeq.sources.model import ModelRequest, open_model
from edgeq.targets import get_target
from edgeq.tuning.sensitivity import SensitivityOptions
from edgeq.tuning.staged import StagedImages
from edgeq.tuning.store import Store
from edgeq.tuning.trials import Subject
from edgeq.verbs.export import export_model
from edgeq.verbs.sensitivity import calibration_of, find_sensitivity, warn_of_scored_images
from tests.exact import EXACT
from tests.tuning.nets import save_classifier

TARGET = "arm"
IMAGES = 70


class Net(NamedTuple):
    """The classifier, its preset, its labelled images and its images to calibrate on."""

    file: Path
    preset: Path
    labels: Path
    calib: Path

    @property
    def request(self) -> ModelRequest:
        return ModelRequest(str(self.file), preset=str(self.preset))


@pytest.fixture(scope="module")
def net(tmp_path_factory) -> Net:
    return Net(*save_classifier(tmp_path_factory.mktemp("net"), images=IMAGES))


@pytest.fixture(autouse=True)
def exact(exact_runtime) -> None:
    """Trials run in exact arithmetic, on any CPU."""


def find(net: Net, out: Path, **options: Any) -> SensitivityResult:
    by, store = options.pop("by", "layer"), options.pop("store", None)
    chosen = SensitivityOptions(runtime=EXACT, threads=1, **options)
    source = calibration_of(net.labels, net.calib, 512)
    data = open_split(net.labels, "evaluation")
    return find_sensitivity(net.request, TARGET, data, source, out, by=by, options=chosen, store=store).result


@pytest.fixture
def predicted(monkeypatch) -> list[tuple[str, int]]:
    """Precision and stage of every time that images go through a file; a negative limit stops none."""
    calls: list[tuple[str, int]] = []
    original = StagedImages.predict

    def predict(self: StagedImages, artifact: Artifact, stage: int) -> dict[int, Any]:
        calls.append((artifact.precision, stage))
        return original(self, artifact, stage)

    monkeypatch.setattr(StagedImages, "predict", predict)
    return calls


def test_the_layer_that_int8_destroys_is_found_and_the_others_are_not_scored(net, tmp_path, predicted):
    result = find(net, tmp_path)
    worst, *others = result.ranked
    assert worst.name == "fragile"
    assert worst.quantized_alone.verdict == worst.float_alone.verdict == "matters"
    assert result.float_score == 1.0
    # It alone is what the whole file loses, and all of it comes back with it alone in float.
    assert result.loss.points > 20
    alone, gained = worst.quantized_alone.change, worst.float_alone.change
    assert alone is not None
    assert gained is not None
    assert alone.low < result.loss.points < alone.high
    assert gained.low < result.loss.points < gained.high
    assert worst.quantized_alone.noise_share == pytest.approx(1, abs=0.4)
    assert [group.name for group in others] == ["sturdy", "head"] or [group.name for group in others] == [
        "head", "sturdy"
    ]  # fmt: skip
    assert all(side.verdict == "harmless" for group in others for side in (group.quantized_alone, group.float_alone))
    assert all(side.change is None for group in others for side in (group.quantized_alone, group.float_alone))
    # Two files on all images, two trials on the first stage alone: that decides.
    assert alone.images == gained.images == 32
    assert result.images_scored == 2 * IMAGES + 2 * 32
    assert predicted == [("fp32", 0), ("fp32", 1), ("fp32", 2), ("int8", 0), ("int8", 1), ("int8", 2)] + 2 * [
        ("int8", 0)
    ]
    picture = minidom.parse(str(tmp_path / "sensitivity.svg"))  # noqa: S318 - our own file
    assert "fragile" in picture.toxml()


def test_a_run_that_is_cut_resumes_where_it_was_with_the_same_result(net, tmp_path, predicted, monkeypatch):
    whole = find(net, tmp_path / "one", thorough=True)
    calls, end = len(predicted), 9
    counted = StagedImages.predict
    left = iter(range(end))

    def cut(self: StagedImages, artifact: Artifact, stage: int) -> dict[int, Any]:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return counted(self, artifact, stage)

    with monkeypatch.context() as patch:
        patch.setattr(StagedImages, "predict", cut)
        with pytest.raises(KeyboardInterrupt):
            find(net, tmp_path / "two", thorough=True)
    assert len(predicted) == calls + end
    resumed = find(net, tmp_path / "two", thorough=True)
    assert len(predicted) == 2 * calls, "nothing is computed twice"
    assert to_json(resumed) == to_json(whole)
    find(net, tmp_path / "two", images=50, seed=3)
    assert len(predicted) == 2 * calls, "other images in another order are known, too"


def test_two_runs_on_one_store_at_the_same_time_say_what_each_alone_says(net, tmp_path):
    alone = find(net, tmp_path / "alone")
    shared = tmp_path / "shared.sqlite"
    context = multiprocessing.get_context("fork")
    results = context.Queue()

    def run(name: str) -> None:
        results.put(to_json(find(net, tmp_path / name, store=shared)))

    processes = [context.Process(target=run, args=(name,)) for name in ("one", "two")]
    for process in processes:
        process.start()
    assert [results.get(timeout=300) for _ in processes] == 2 * [to_json(alone)]
    for process in processes:
        process.join()
    with Store(tmp_path / "alone" / "trials.sqlite") as one, Store(shared) as other:
        kept = [{row.key: (row.images, row.measures) for row in store.rows()} for store in (one, other)]
    assert kept[0] == kept[1], "nothing is lost, nothing is there twice"


def test_thorough_scores_every_choice_on_every_image(net, tmp_path):
    result = find(net, tmp_path, thorough=True, images=40)
    assert result.images == 40
    assert result.images_scored == result.images_of_all == 2 * (3 + 1) * 40
    sturdy = next(group for group in result.groups if group.name == "sturdy")
    assert sturdy.quantized_alone.change is not None
    assert abs(sturdy.quantized_alone.change.points) <= 5


def test_layers_are_tried_with_weights_of_4_bits_and_share_the_float_trial_with_int8(net, tmp_path, predicted):
    store = tmp_path / "trials.sqlite"
    wide = find(net, tmp_path / "int8", store=store)
    del predicted[:]
    narrow = find(net, tmp_path / "w4a8", store=store, precision="w4a8")
    assert (wide.precision, narrow.precision) == ("int8", "w4a8")
    assert {precision for precision, _ in predicted} == {"w4a8"}, "the float file is known"
    assert narrow.float_score == wide.float_score
    assert narrow.ranked[0].name == "fragile"
    in_int8 = {group.name: group.quantized_alone.snr_db for group in wide.groups}
    in_w4a8 = {group.name: group.quantized_alone.snr_db for group in narrow.groups}
    assert in_w4a8["sturdy"] < in_int8["sturdy"] - 10, "8 bits less 4 are 24 dB"
    assert "alone in W4A8" in (tmp_path / "w4a8" / "sensitivity.svg").read_text()


def test_a_precision_that_the_target_or_the_command_does_not_have_is_refused(net, tmp_path, edgeq):
    options = SensitivityOptions(precision="w4a8")
    data, source = open_split(net.labels, "evaluation"), calibration_of(net.labels, net.calib, 512)
    with pytest.raises(InputError, match="no such files for the engines of jetson-orin"):
        find_sensitivity(net.request, "jetson-orin", data, source, tmp_path / "out", options=options)
    with pytest.raises(InputError, match="tried in int8 or w4a8"):
        find(net, tmp_path / "out", precision="w2")
    assert not (tmp_path / "out").exists()
    done = edgeq("tune", net.file, "--data", net.labels, "--precision", "w4a8")
    assert done.code == 2
    assert "--file-size" in done.err


def test_a_trial_is_the_file_that_export_writes_with_the_others_kept(net, tmp_path):
    model = open_model(net.request).model
    ranges, _ = CalibrationSource(net.calib).ranges(model, tmp_path, 1)
    ranges = package.Ranges(ranges.method, ranges.options, ranges.provenance, ranges.tensors, ranges.histograms)
    subject = Subject(model, get_target(TARGET), ranges, "layer")
    sturdy = next(group for group in subject.groups if group.name == "sturdy")
    trial = subject.write(subject.of_groups((sturdy,)), tmp_path / "trial")
    options = ExportOptions(keep=("fragile", "head"))
    written = export_model(
        net.request, TARGET, ["int8"], tmp_path / "export", calibration=CalibrationSource(ranges), formats=["onnx"],
        options=options,
    )  # fmt: skip
    assert trial.digest == written.files[0].artifact.digest


def test_the_command_prints_the_ranking_and_writes_what_the_function_returns(net, tmp_path, edgeq):
    json_file = tmp_path / "sensitivity.json"
    done = edgeq(
        "tune", net.file, "--sensitivity", "--data", net.labels, "--preset", net.preset, "--calib", net.calib,
        "--target", TARGET, "--runtime", EXACT, "--threads", 1, "--out", tmp_path / "cli", "--json", json_file,
    )  # fmt: skip
    assert done.code == 0, done
    lines = done.out.splitlines()
    assert next(line for line in lines if line.startswith(("fragile", "sturdy", "head"))).startswith("fragile")
    model = package.load(net.file, preset=net.preset)
    result = package.sensitivity(
        model, net.labels, calib=net.calib, target=TARGET, runtime=EXACT, threads=1, out=tmp_path / "api"
    )
    document = json.loads(json_file.read_text())
    assert document.pop("command").startswith("edgeq tune")
    assert document == to_json(result)
    listed = edgeq("runs", tmp_path / "cli" / "trials.sqlite", "--csv", tmp_path / "trials.csv")
    titles = {"float", "all in INT8", "fragile in INT8", "all in INT8 but fragile"}
    assert all(any(title in line for line in listed.out.splitlines()) for title in titles), listed
    with (tmp_path / "trials.csv").open() as stream:
        trials = {row["plan"]: row for row in csv.DictReader(stream)}
    assert float(trials["float"][f"top1 of {IMAGES} images"]) == result.float_score == 1.0
    assert int(trials["fragile in INT8"]["images"]) == 32
    assert float(trials["sturdy in INT8"]["snr_db"]) == pytest.approx(
        next(group for group in result.groups if group.name == "sturdy").quantized_alone.snr_db, abs=0.01
    )
    compared = edgeq("runs", tmp_path / "cli" / "trials.sqlite", "--compare", trials["float"]["number"],
                     trials["all in INT8"]["number"])  # fmt: skip
    same = round(IMAGES * result.quantized_score)
    assert f"predictions of both: {IMAGES} images" in compared.out
    assert int(compared.out.split()[-1]) <= same
    assert (tmp_path / "cli" / "sensitivity.svg").read_text() == (tmp_path / "api" / "sensitivity.svg").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"matters": 0.0}, "more than 0"), ({"by": "node"}, "layer or block"), ({"matters": float("nan")}, "more than 0")],
)
def test_an_option_out_of_range_is_refused_before_anything_is_made(net, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        find(net, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_nothing_can_be_tried_without_a_decoder_or_without_ranges_that_keep_inputs(net, tmp_path):
    preset = tmp_path / "no_decoder.toml"
    preset.write_text(net.preset.read_text().partition("[postprocessing]")[0])
    with pytest.raises(InputError, match="names a decoder"):
        find(net._replace(preset=preset), tmp_path)
    package.calibrate(package.load(net.file, preset=net.preset), net.calib, keep_samples=0, out=tmp_path / "r.json")
    with pytest.raises(InputError, match="holds no inputs"):
        find(net._replace(calib=tmp_path / "r.json"), tmp_path)


def test_calibration_on_the_scored_images_is_warned_of(net, caplog):
    data = open_split(net.labels, "evaluation")
    warn_of_scored_images(calibration_of(net.labels, None, 512), data)
    (line,) = [record.getMessage() for record in caplog.records if "scored too" in record.getMessage()]
    assert line.startswith(f"{IMAGES} of the {IMAGES} images")
    caplog.clear()
    warn_of_scored_images(calibration_of(net.labels, net.calib, 512), data)
    assert caplog.records == []
