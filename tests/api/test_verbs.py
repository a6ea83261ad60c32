"""The verbs of the Python API: the same files and results as the commands', from what a program holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import edgeq as package
from edgeq.api.model import Model
from edgeq.calibrators.ranges import Ranges
from edgeq.errors import EdgeqError, InputError, MismatchError
from edgeq.evaluation import exact_comparison
from edgeq.exporting.artifact import Artifact
from edgeq.inputs.images import list_images, read_image
from edgeq.progress import reporting_to
from edgeq.results.serialization import to_json

torch = pytest.importorskip("torch")

from tests.api.nets import LABELS, Classifier  # noqa: E402 - needs torch

SIZE = (32, 48)
EXAMPLE = torch.zeros(1, 3, *SIZE)


@pytest.fixture(scope="module")
def model() -> Model:
    return package.load(Classifier().eval(), EXAMPLE, preset="imagenet", labels=LABELS)


@pytest.fixture(scope="module")
def bare() -> Model:
    """The same module without a preset."""
    return package.load(Classifier().eval(), EXAMPLE)


@pytest.fixture(scope="module")
def pixels(drawn) -> list[np.ndarray]:
    return [read_image(path) for path in list_images(drawn.folder)]


def inputs(count: int = 40) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, (count, 3, *SIZE)).astype(np.float32)


@pytest.fixture(scope="module")
def ranges(model, drawn) -> Ranges:
    return package.calibrate(model, drawn.folder)


class Exported(NamedTuple):
    folder: Path
    result: package.ExportResult


@pytest.fixture(scope="module")
def exported(model, drawn, tmp_path_factory) -> Exported:
    """FP32 and INT8, calibrated on a folder in the same call."""
    folder = tmp_path_factory.mktemp("exported") / "files"
    return Exported(folder, package.export(model, "x86", ("fp32", "int8"), calib=drawn.folder, out=folder))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# -- The same as on the command line


def test_export_writes_the_files_of_the_command(exported, drawn, edgeq, tmp_path):
    arguments = ["--preset", "imagenet", "--size", "32x48", "--labels", ",".join(LABELS), "--out", tmp_path / "files"]
    arguments += ["--precision", "fp32,int8", "--calib", drawn.folder, "--json", tmp_path / "export.json"]
    done = edgeq("export", "tests.api.nets:Classifier", *arguments)
    assert done.code == 0, done
    assert contents(exported.folder) == contents(tmp_path / "files")
    written = json.loads((tmp_path / "export.json").read_text().replace(str(tmp_path / "files"), str(exported.folder)))
    assert json.loads(json.dumps(exported.result.to_json())) == written


def test_calibrate_writes_the_ranges_of_the_command(small_onnx, drawn, edgeq, tmp_path):
    loaded = package.load(small_onnx, preset="centernet")
    found = package.calibrate(
        loaded, drawn.annotations, images=drawn.folder, num=9, method="percentile", options={"percentile": 99.0},
        out=tmp_path / "python.json",
    )  # fmt: skip
    method = ["--num", 9, "--method", "percentile", "--percentile", 99, "--out", tmp_path / "command.json"]
    done = edgeq("calibrate", small_onnx, drawn.annotations, "--images", drawn.folder, "--preset", "centernet", *method)
    assert done.code == 0, done
    assert (tmp_path / "python.json").read_bytes() == (tmp_path / "command.json").read_bytes()
    assert Ranges.load(tmp_path / "python.json").tensors == found.tensors


def test_evaluate_returns_what_the_command_writes(drawn, small_onnx, edgeq, tmp_path):
    loaded = package.load(small_onnx, preset="centernet", labels="ellipse,rectangle,triangle,star,ring,cross")
    paths = package.export(loaded, out=tmp_path / "files").paths
    (result,) = package.evaluate(paths, drawn.folder, drawn.annotations, runtime="onnxruntime", threads=1)
    options = ["--annotations", drawn.annotations, "--images", drawn.folder, "--runtime", "onnxruntime"]
    done = edgeq("eval", *paths, *options, "--threads", 1, "--json", tmp_path / "eval.json")
    assert done.code == 1 and "are meaningless" in done.err, "its weights are random, so it finds nothing"
    written = json.loads((tmp_path / "eval.json").read_text())
    ours = json.loads(json.dumps(to_json(result)))
    differ = {key for key in written.keys() | ours.keys() if written.get(key) != ours.get(key)}
    assert differ <= {"command", "inference_images_per_s", "eval_images_per_s"}
    assert written["AP"] == result.score.numbers["AP"]


def test_check_returns_what_the_command_writes(exported, edgeq, tmp_path):
    for path, accepted in zip(exported.result.paths, (True, False), strict=True):
        result = package.check(path)
        code = edgeq("check", path, "--json", tmp_path / "check.json").code
        assert (not result.checked.errors, code) == (accepted, 0 if accepted else 1)
        assert json.loads((tmp_path / "check.json").read_text()) == json.loads(json.dumps(result.to_json()))


@pytest.mark.usefixtures("warm_runners")
def test_results_are_gated_and_reported_as_their_files_are(exported, edgeq, tmp_path):
    results = package.benchmark(exported.result.paths, runtime="onnxruntime", threads=1, seconds=0.05)
    assert [(result.artifact, result.precision) for result in results] == [
        ("Classifier.x86.fp32.onnx", "fp32"), ("Classifier.x86.int8.onnx", "int8")
    ]  # fmt: skip
    assert {(result.edgeq, result.device, result.command) for result in results} == {
        (package.__version__, "local", None)
    }
    (tmp_path / "bench.json").write_text(json.dumps(to_json(results)))
    for limit, passed in ((1e9, True), (1e-9, False)):
        result = package.gate(results, latency_ratio=limit)
        code = edgeq("gate", tmp_path / "bench.json", "--latency-ratio", limit, "--json", tmp_path / "gate.json").code
        assert (result.passed, code) == (passed, 0 if passed else 1)
        assert json.loads((tmp_path / "gate.json").read_text()) == json.loads(json.dumps(result.to_json()))
    assert package.report(results, tmp_path / "python.csv") == tmp_path / "python.csv"
    assert edgeq("report", tmp_path / "bench.json", "--out", tmp_path / "command.csv").code == 0
    assert (tmp_path / "python.csv").read_text() == (tmp_path / "command.csv").read_text()
    mixed = package.report([results[0], tmp_path / "bench.json"], tmp_path / "mixed.md")
    assert "Classifier.x86.int8.onnx" in mixed.read_text()


# -- What a program holds


def test_arrays_paths_and_iterables_give_the_ranges_of_files(model, pixels, drawn, ranges):
    found = [
        package.calibrate(model, pixels),
        package.calibrate(model, (each for each in pixels)),
        package.calibrate(model, [str(path) for path in list_images(drawn.folder)]),
    ]
    assert [each.tensors for each in found] == [ranges.tensors] * 3


@pytest.mark.parametrize("source", ["ranges", "file", "arrays", "iterator"])
def test_export_takes_ranges_files_and_arrays(source, model, ranges, pixels, exported, tmp_path):
    ranges.save(tmp_path / "ranges.json")
    calib: dict[str, Any] = {
        "ranges": ranges, "file": tmp_path / "ranges.json", "arrays": pixels, "iterator": iter(pixels)
    }  # fmt: skip
    result = package.export(model, "x86", "int8", calib=calib[source], out=tmp_path / "files")
    (path,) = result.paths
    expected = exported.result
    if source in ("arrays", "iterator"):  # they are not the files, so other inputs are kept of them
        expected = package.export(model, "x86", "int8", calib=package.calibrate(model, pixels), out=tmp_path / "two")
    assert path.read_bytes() == expected.paths[-1].read_bytes()
    assert (result.ranges_path is None) == (source == "ranges")


def test_ranges_in_memory_may_take_another_method(model, ranges, tmp_path):
    (path,) = package.export(model, "x86", "int8", calib=ranges, method="minmax", out=tmp_path / "a").paths
    (other,) = package.export(model, "x86", "int8", calib=ranges.with_method("minmax"), out=tmp_path / "b").paths
    assert path.read_bytes() == other.read_bytes()


@pytest.mark.usefixtures("warm_runners")
def test_without_a_preset_prepared_inputs_are_calibrated_on(bare, tmp_path, monkeypatch):
    monkeypatch.setattr(exact_comparison, "_CALIBRATION_IMAGES", 8)
    ranges = package.calibrate(bare, inputs())
    result = package.export(bare, "x86", "fp32,int8", calib=ranges, out=tmp_path)
    assert [Artifact.load(path).preprocessing for path in result.paths] == [None, None]
    assert result.files[1].comparison.images == 2
    signal = result.files[1].comparison.signal
    assert signal is not None
    assert "8 calibration images" in signal.how
    (timed, _) = package.benchmark(result.paths, runtime="onnxruntime", seconds=0.01)
    assert timed.precision == "fp32"
    with pytest.raises(InputError, match="preset"):
        package.evaluate(result.paths, tmp_path)


def test_without_a_preset_a_file_computes_what_the_module_does(bare, tmp_path):
    (path,) = package.export(bare, out=tmp_path).paths
    array = inputs(1)
    with package.open_session(Artifact.load(path), "onnxruntime") as session:
        found = session.run({"image": array})["output_0"]
    with torch.no_grad():
        wanted = Classifier().eval()(torch.from_numpy(array)).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_ranges_of_a_declared_pre_processing_do_not_fit_an_undeclared_one(bare, ranges, tmp_path):
    with pytest.raises(MismatchError):
        package.export(bare, "x86", "int8", calib=ranges, out=tmp_path / "files")
    assert not (tmp_path / "files").exists() or contents(tmp_path / "files") == {}


@pytest.mark.slow
def test_a_module_in_memory_becomes_a_tflite_file(model, ranges, tmp_path):
    pytest.importorskip("litert_torch")
    result = package.export(model, "arm", "fp32,int8", calib=ranges, format="tflite", out=tmp_path)
    assert [path.name for path in result.paths] == ["Classifier.arm.fp32.tflite", "Classifier.arm.int8.tflite"]
    assert result.files[0].comparison.max_abs_difference < 1e-4
    assert result.files[1].comparison.cosine > 0.99


# -- Progress


class Lines:
    """Keeps what it is told."""

    told: list[Any]

    def start(self, total: int | None, label: str, unit: str) -> None:
        self.told.append((total, label, unit))

    def advance(self, count: int) -> None:
        self.told.append(count)

    def end(self) -> None:
        self.told.append("end")


def test_progress_is_reported_to_what_the_caller_gives(model, pixels):
    Lines.told = []
    package.calibrate(model, pixels[:3], progress=Lines)
    assert Lines.told == [(3, "calibrate", "images"), 1, 1, 1, "end"]
    with reporting_to(Lines):
        package.calibrate(model, pixels[:2])
    assert Lines.told[5:] == [(2, "calibrate", "images"), 1, 1, "end"]


# -- Bad input: one clear error, nothing written


def raising() -> Iterator[np.ndarray]:
    yield inputs(1)
    raise OSError("the camera is gone")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (raising(), r"the data raised OSError at item 1 \(the camera is gone\)"),
        ([inputs(1) * np.nan], "item 0, row 0: has values from nan to nan; wanted finite numbers"),
        ([np.full((3, *SIZE), np.inf, np.float32)], "item 0: has values from inf to inf"),
        (np.zeros((2, 3, 8, 8), np.float32), r"has shape \(3, 8, 8\), the model takes \(3, 32, 48\)"),
        (np.zeros((2, *SIZE, 3), np.uint8), "is an image, and nothing says how the model takes it; .* `preset`"),
        (np.zeros((2, 3, *SIZE), np.uint8), r"item 0: is an array \(3, 32, 48\) of uint8; wanted images"),
        (np.zeros((2, 3, *SIZE), np.int64), r"item 0: is an array \(3, 32, 48\) of int64; wanted images"),
        (["a", 7], "item 0: is of type str; wanted images"),
        ([], "no image could be used"),
        (7, "the data is of type int; wanted paths, arrays or an iterable of arrays"),
    ],
)
def test_data_that_cannot_be_used_is_refused(bare, data, message, tmp_path):
    with pytest.raises(InputError, match=message):
        package.calibrate(bare, data, out=tmp_path / "ranges.json")
    assert contents(tmp_path) == {}


def test_values_beyond_the_pre_processing_are_refused(model):
    with pytest.raises(InputError, match=r"item 0: has values from .* the model's pre-processing leads to"):
        package.calibrate(model, [np.full((3, *SIZE), 255.0)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "x68"}, "x68"),
        ({"precision": "int3"}, "int3"),
        ({"precision": ()}, "precision"),
        ({"precision": "int8"}, "int8 needs ranges"),
        ({"precision": "int8", "calib": "missing.json"}, "missing.json: no such file"),
        ({"precision": "int8", "calib": raising()}, "the data raised OSError"),
        ({"precision": "int8", "calib": 3}, "the data is of type int"),
        ({"precision": "int8", "calib": [np.zeros((3, 8, 8), np.float32)]}, r"has shape \(3, 8, 8\), the model takes"),
        ({"num": 0}, "`num` is 0; wanted a whole number, at least 1"),
        ({"threads": "2"}, "`threads` is '2'; wanted a whole number"),
        ({"out": 5}, "`out` is of type int; wanted a path"),
        ({"format": "caffe"}, "caffe"),
        ({"vit_plan": "brave"}, "brave"),
        ({"images": "a"}, "`images`: says how `calib` is read, and there is none; give `calib`"),
        ({"precision": "int8", "calib": inputs(1), "images": "a"}, "`images`: is for a COCO annotation file"),
        ({"precision": "fp32", "calib": inputs(1), "method": "mse"}, "`method`: fp32 files need no ranges; omit"),
        ({"method": "mse"}, "`method`: says how `calib` is read, and there is none; give `calib`"),
        ({"progress": 3}, "`progress` is of type int; wanted a class or function"),
    ],
)
def test_export_refuses_what_cannot_be_used(model, arguments, message, tmp_path):
    with pytest.raises(EdgeqError, match=message):
        package.export(model, **{"out": tmp_path / "files"} | arguments)
    assert not (tmp_path / "files").exists() or contents(tmp_path / "files") == {}


def test_options_without_effect_are_refused_for_ranges_in_memory(model, ranges, tmp_path):
    for precision, options, message in (
        ("fp32", {}, "`calib`: fp32 files need no ranges; omit `calib`"),
        ("int8", {"num": 3}, "`num`: `calib` holds ranges already, no image is read; omit `num`"),
    ):
        with pytest.raises(InputError, match=message):
            package.export(model, "x86", precision, calib=ranges, out=tmp_path, **options)  # type: ignore[arg-type]


def test_a_model_is_what_load_returns(drawn):
    for verb in (lambda: package.calibrate("net.onnx", drawn.folder), lambda: package.export(Classifier())):  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"`model` is of type .*; wanted what edgeq.load returns"):
            verb()


@pytest.mark.parametrize("version", [0, 99])
def test_ranges_and_manifests_of_another_edgeq_are_refused(version, model, ranges, exported, tmp_path):
    ranges.save(tmp_path / "ranges.json")
    document = json.loads((tmp_path / "ranges.json").read_text())
    (tmp_path / "ranges.json").write_text(json.dumps(document | {"version": version}))
    with pytest.raises(EdgeqError, match=r"ranges.json: has version .*calibrate"):
        package.export(model, "x86", "int8", calib=tmp_path / "ranges.json", out=tmp_path / "files")
    assert not (tmp_path / "files").exists() or contents(tmp_path / "files") == {}
    path = exported.result.paths[0]
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    manifest = json.loads(path.with_name(f"{path.name}.json").read_text())
    copy.with_name(f"{copy.name}.json").write_text(json.dumps(manifest | {"manifest_version": version}))
    with pytest.raises(EdgeqError, match=f"manifest version {version}, this edgeq reads"):
        package.benchmark(copy)


@pytest.mark.parametrize(
    ("verb", "arguments", "message"),
    [
        ("benchmark", {"artifacts": 7}, "`artifacts` is of type int; wanted a path"),
        ("benchmark", {"artifacts": []}, "no artifact to bench"),
        ("benchmark", {"artifacts": "missing.onnx"}, "missing.onnx"),
        ("benchmark", {"artifacts": "a.onnx", "seconds": -1}, "`seconds` is -1; wanted a number of seconds"),
        ("benchmark", {"artifacts": "a.onnx", "device": "moon"}, "moon"),
        ("evaluate", {"artifacts": "a.onnx", "images": 3}, "`images` is of type int; wanted a path"),
        ("check", {"file": None}, "`file` is of type NoneType; wanted a path"),
        ("check", {"file": "a.onnx", "target": "x86"}, "x86"),
        ("gate", {"runs": [], "max_drop": 1.0}, "nothing given: no results"),
        ("gate", {"runs": 3, "max_drop": 1.0}, "`runs` is of type int"),
        ("gate", {"runs": [], "max_drop": "1"}, "`max_drop` is of type str; wanted a number"),
        ("report", {"runs": [], "out": "a.pdf"}, "a.pdf: is of no known format"),
        ("report", {"runs": [], "out": "a.md"}, "nothing given: no results"),
    ],
)
def test_the_other_verbs_refuse_what_cannot_be_used(verb, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EdgeqError, match=message):
        getattr(package, verb)(**arguments)
    assert contents(tmp_path) == {}
