"""The command line as a person meets it: help, exit codes, one line for an error, and nothing half-written."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import edgeq as package
from edgeq.calibration.source import CalibrationSource
from edgeq.calibrators.ranges import Ranges
from edgeq.cli import app
from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact
from edgeq.inputs.images import list_images
from edgeq.inputs.presets import preset_names
from edgeq.sources.model import ModelRequest
from edgeq.tasks.detection.coco import SCORE_NAMES
from edgeq.verbs.export import export_model
from tests.evaluation.test_evaluate_classifiers import save_colour_finder

COMMANDS = sorted(
    str(command.name or command.callback.__name__) for command in app.app.registered_commands if command.callback
)
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals, limits and pipes as POSIX has them")


@pytest.fixture(scope="module")
def artifacts(small_onnx, drawn, tmp_path_factory):
    """A folder with `small.x86.fp32.onnx`, `small.x86.int8.onnx` and `small.ranges.json`; not to be changed."""
    folder = tmp_path_factory.mktemp("artifacts")
    calibration = CalibrationSource(drawn.annotations, drawn.folder, method="minmax")
    labels = "ellipse,rectangle,triangle,star,ring,cross"
    request = ModelRequest(str(small_onnx), preset="centernet", labels=labels)
    export_model(request, "x86", ["fp32", "int8"], folder, calibration=calibration)
    return folder


@pytest.fixture
def work(tmp_path, monkeypatch):
    """An empty working folder."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def contents(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# -- Help, versions and wrong usage


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    result = CliRunner().invoke(app.app, [command, "--help"], env={"COLUMNS": "100"})
    assert result.exit_code == 0
    assert "Usage: " in result.output
    assert command in result.output


def test_no_command_is_missing():
    assert COMMANDS == [
        "bench", "build", "calibrate", "check", "data", "demo", "deploy", "doctor", "eval", "export", "gate",
        "inspect", "plan", "predict", "presets", "quickstart", "report", "runs", "score", "study", "tune",
    ]  # fmt: skip


def test_presets_are_listed_by_task_with_what_people_call_them(edgeq):
    outcome = edgeq("presets")
    lines = [line.split(maxsplit=1) for line in outcome.out.splitlines() if line.startswith("  ")]
    assert outcome.code == 0
    assert sorted(name for name, _ in lines) == preset_names()
    assert all(not rest.startswith("(") for _, rest in lines)
    assert outcome.out.index("classification:") < outcome.out.index("  imagenet  ") < outcome.out.index("detection:")


def test_version(edgeq):
    assert edgeq("--version") == (0, f"edgeq {package.__version__}\n", "")


def test_without_a_command_it_shows_its_help(edgeq):
    outcome = edgeq()
    assert outcome.code == 2
    assert "Usage: edgeq [OPTIONS] COMMAND" in outcome.out


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["--nonsense"],
        ["export"],
        ["export", "m.onnx", "--opset", "16"],
        ["export", "m.onnx", "--opset", "24"],
        ["export", "m.onnx", "--num", "0"],
        ["export", "m.onnx", "--threads", "0"],
        ["calibrate"],
        ["calibrate", "m.onnx"],
        ["calibrate", "m.onnx", "images", "--num", "many"],
        ["calibrate", "m.onnx", "images", "--from", "ranges.json"],
        ["calibrate", "--from", "ranges.json", "--weights", "w.pth"],
        ["calibrate", "--from", "ranges.json", "--size", "32"],
        ["calibrate", "m.onnx", "images", "--percentile", "99"],
        ["bench"],
        ["bench", "a.onnx", "--seconds", "-1"],
        ["bench", "a.onnx", "--seconds", "inf"],
        ["gate", "a.json", "--max-drop", "nan"],
        ["eval", "a.onnx"],
        ["eval", "a.onnx", "--annotations", "a.json"],
        ["eval", "--images", "images"],
        ["report"],
        ["demo", "--images", "0"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2(edgeq, work, arguments):
    outcome = edgeq(*arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert "Usage: " in outcome.err
    assert contents(work) == []


# -- Wrong input: one line, exit code 1, nothing written


def test_models_that_cannot_be_opened(edgeq, work, small_onnx):
    (work / "cut.onnx").write_bytes(small_onnx.read_bytes()[:1000])
    (work / "text.onnx").write_text("hello")
    before = contents(work)
    for arguments, error in (
        (["none.onnx", "--preset", "centernet"], "none.onnx: no such file; expected an ONNX model"),
        (["cut.onnx", "--preset", "centernet"], "cut.onnx: is not a valid ONNX model"),
        (["text.onnx", "--preset", "centernet"], "text.onnx: is not a valid ONNX model"),
        ([small_onnx, "--preset", "resnet"], "unknown preset 'resnet'; did you mean retinanet? wanted "),
        ([small_onnx, "--preset", "yolox"], "decoder yolox: the model has no output 'output'"),
        ([small_onnx, "--preset", "centernet", "--size", "64by96"], "--size '64by96': wanted height x width"),
        ([small_onnx, "--preset", "centernet", "--size", "128"], "omit --size"),
        (
            [small_onnx, "--preset", "centernet", "--target", "toaster"],
            "unknown target 'toaster'; known: arm, jetson-orin, jetson-orin-trt11, rtx, x86, x86-openvino, x86-ort",
        ),
        (
            [small_onnx, "--preset", "centernet", "--precision", "int4"],
            "--precision int4: did you mean int8? known",
        ),
        ([small_onnx, "--preset", "centernet", "--precision", ","], "--precision (none): known are fp32"),
        ([small_onnx, "--preset", "centernet", "--precision", "int8"], "int8 needs ranges: give --calib"),
        (
            [small_onnx, "--preset", "centernet", "--precision", "dynamic", "--keep", "Gelu"],
            "--keep 'Gelu': matches no node; names look like",
        ),
        ([small_onnx, "--preset", "centernet", "--labels", "none.txt"], "--labels none.txt: no such file"),
        ([small_onnx, "--preset", "centernet", "--out", "cut.onnx"], "is a file; choose another name"),
        (["centernet_resnet19"], "unknown model 'centernet_resnet19'; did you mean centernet_resnet"),
        (["no_such_module:net", "--preset", "imagenet"], "cannot import no_such_module"),
    ):
        assert error in edgeq("export", *arguments).error
        assert contents(work) == before


def test_weights_that_cannot_be_used(edgeq, work, small_weights):
    import torch

    from tests.small import small_centernet

    torch.save(small_centernet(0), work / "pickled.pth")
    before = contents(work)
    for model, weights, error in (
        ("centernet_resnet18", "pickled.pth", "pickled.pth: holds Python objects besides tensors"),
        ("resnet18", small_weights, "does not fit resnet18"),
        ("centernet_resnet18", "none.pth", "none.pth: no such file; expected weights"),
    ):
        assert error in edgeq("export", model, "--weights", weights, "--size", "64").error
        assert contents(work) == before


def test_images_that_cannot_be_used(edgeq, work, small_onnx, drawn):
    (work / "empty").mkdir()
    (work / "broken").mkdir()
    (work / "broken" / "a.jpg").write_bytes(b"\xff\xd8\xff\xe0 and then nothing")
    (work / "list.txt").write_text("none.png\n")
    before = contents(work)
    for source, options, error in (
        ("none", [], "none: no such file or folder; wanted a folder of images"),
        ("empty", [], "empty: holds no images"),
        ("broken", [], "1 of 1 images cannot be read, more than 5%; the last one: broken/a.jpg: cannot be decoded"),
        ("broken/a.jpg", [], "a.jpg: is a single image; wanted its folder"),
        ("list.txt", [], "list.txt: none of its 1 images is in"),
        (drawn.annotations, [], "is a COCO annotation file; say with --images DIR where its images are"),
        (drawn.annotations, ["--images", "empty"], "none of its 40 images is in empty"),
        (drawn.folder, ["--method", "guess"], "unknown method 'guess'; known: entropy, lp, minmax, mse, percentile"),
        (drawn.folder, ["--out", "empty"], "empty: is a folder; wanted the name of a file"),
    ):
        outcome = edgeq("calibrate", small_onnx, source, "--preset", "centernet", *options)
        assert error in outcome.error
        assert contents(work) == before


def test_ranges_that_cannot_be_used(edgeq, work, small_onnx, artifacts, drawn):
    ranges = artifacts / "small.ranges.json"
    document = json.loads(ranges.read_text())
    document["provenance"]["model_digest"] = "2:" + "0" * 64
    (work / "other.json").write_text(json.dumps(document))
    document["provenance"]["model_digest"] = "0" * 64
    (work / "old.json").write_text(json.dumps(document))
    (work / "cut.json").write_text(ranges.read_text()[:2000])
    before = contents(work)
    export = ["export", small_onnx, "--preset", "centernet", "--precision", "fp32,int8", "--calib"]
    for arguments, error in (
        ([*export, "other.json"], "the ranges were collected with another model"),
        ([*export, "old.json"], "the ranges were collected by an older edgeq"),
        ([*export, "cut.json"], "cut.json: is not valid JSON"),
        ([*export, ranges, "--method", "guess"], "unknown method 'guess'"),
        (["calibrate", "--from", "none.json"], "none.json: no such file; expected ranges"),
        (["calibrate", "--from", "cut.json"], "cut.json: is not valid JSON"),
        (["calibrate", "--from", drawn.annotations], "is not of the format 'edgeq-ranges'; expected ranges"),
        (["calibrate", "--from", ranges, "--method", "guess"], "unknown method 'guess'"),
    ):
        assert error in edgeq(*arguments).error
        assert contents(work) == before


@pytest.fixture
def damaged(artifacts, work) -> dict[str, Path]:
    """Copies of an artifact, each with another fault."""
    found = {}
    for fault in ("lonely", "changed", "blank", "headless", "unknown decoder", "of tomorrow"):
        (work / fault).mkdir()
        for name in ("small.x86.fp32.onnx", "small.x86.fp32.onnx.json"):
            shutil.copy(artifacts / name, work / fault / name)
        found[fault] = work / fault / "small.x86.fp32.onnx"
    manifests = {fault: path.with_name(path.name + ".json") for fault, path in found.items()}
    manifests["lonely"].unlink()
    found["changed"].write_bytes(found["changed"].read_bytes() + b"\0")
    manifests["blank"].write_text("{}")
    found["headless"].unlink()
    document = json.loads(manifests["unknown decoder"].read_text())
    document["postprocessing"] = {"decoder": "yolox", "outputs": {}, "options": {}}
    manifests["unknown decoder"].write_text(json.dumps(document))
    document["manifest_version"] = 99
    manifests["of tomorrow"].write_text(json.dumps(document))
    return found


def test_artifacts_that_cannot_be_used(edgeq, work, damaged, artifacts, drawn):
    whole = artifacts / "small.x86.fp32.onnx"
    other = json.loads(drawn.annotations.read_text())
    other["categories"] = [category | {"name": f"my {category['name']}"} for category in other["categories"]]
    (work / "other.json").write_text(json.dumps(other))
    before = contents(work)
    data = ["--annotations", drawn.annotations, "--images", drawn.folder]
    for name, error in (
        ("changed", "is not the file that its manifest describes"),
        ("blank", "has no 'manifest_version'; expected an edgeq manifest; export the model again"),
        ("headless", "no such file; expected a model file that `edgeq export` wrote"),
        ("of tomorrow", "manifest version 99, this edgeq reads 1"),
    ):
        assert error in edgeq("bench", damaged[name], "--json", "out.json").error
        assert error in edgeq("eval", damaged[name], *data, "--json", "out.json").error
    for arguments, error in (
        ([damaged["unknown decoder"], *data], "decoder yolox: the model has no output 'output'"),
        (
            [whole, "--annotations", "other.json", "--images", drawn.folder],
            "has no categories named 'ellipse' or as another class",
        ),
        ([whole, "--annotations", "none.json", "--images", drawn.folder], "none.json: no such file; expected a COCO"),
        ([whole, "--annotations", drawn.annotations, "--images", work], "none of its 40 images is in"),
        ([whole, *data, "--runtime", "abacus"], "unknown runtime 'abacus'; known: litert, onnxruntime, openvino"),
        (
            [whole, "--images", drawn.folder],
            "for detection are scored on a COCO annotation file; give --annotations",
        ),
        (
            [whole, *data, "--preset", "imagenet"],
            "has a manifest that says how images are prepared and outputs are read",
        ),
        ([whole, *data, "--labels", "a,b"], "omit --preset and --labels"),
        (
            [damaged["lonely"], *data, "--preset", "resnet"],
            "unknown preset 'resnet'; did you mean retinanet? wanted ",
        ),
        ([damaged["lonely"], *data, "--preset", "imagenet"], "is a COCO file, which is for detectors"),
        ([whole, *data, "--engine", "abacus"], "unknown COCO evaluator 'abacus'"),
        ([whole, *data, "--json", "lonely"], "lonely: is a folder; wanted the name of a file"),
    ):
        assert error in edgeq("eval", "--json", "out.json", *arguments).error
    assert "unknown runtime 'abacus'" in edgeq("bench", whole, "--runtime", "abacus", "--json", "out.json").error
    assert "is a folder; wanted the name" in edgeq("bench", whole, "--json", "lonely").error
    assert contents(work) == before


def test_reports_on_something_else(edgeq, work, artifacts):
    assert (
        "no results; wanted what `edgeq bench"
        in edgeq("report", artifacts / "small.ranges.json", "--out", "r.md").error
    )
    assert contents(work) == []


# -- Errors


def test_debug_shows_the_traceback(edgeq, work, monkeypatch):
    monkeypatch.setenv("EDGEQ_DEBUG", "1")
    with pytest.raises(InputError, match="no such file"):
        edgeq("calibrate", "--from", "none.json")


def test_an_unexpected_error_is_one_line_too(edgeq, work, monkeypatch):
    def explode(_):
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr(Ranges, "load", explode)
    assert edgeq("calibrate", "--from", "r.json").error == (
        "unexpected RuntimeError: first second (EDGEQ_DEBUG=1 shows where)"
    )
    monkeypatch.setenv("EDGEQ_DEBUG", "1")
    with pytest.raises(RuntimeError):
        edgeq("calibrate", "--from", "r.json")


def test_an_interruption_is_one_line(edgeq, work, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Ranges, "load", interrupted)
    assert edgeq("calibrate", "--from", "r.json") == (130, "", "error: interrupted\n")


# -- What the commands print and write


def test_export_prints_a_line_for_each_file_and_why_layers_stay_in_float(edgeq, work, small_onnx, artifacts):
    outcome = edgeq(
        "export", small_onnx, "--preset", "centernet", "--precision", "fp32, int8", "--out", "out", "--calib",
        artifacts / "small.ranges.json", "--keep", "ConvTranspose", "--json", "export.json", "--isa", "vnni",
    )  # fmt: skip
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[0].startswith("out/small.x86.fp32.onnx  2.35 MB  max abs difference 0 of ")
    assert lines[0].endswith("cosine 1.00000 (measured against small.onnx on 2 images)")
    assert lines[1].startswith("out/small.x86.int8.onnx  ")
    assert lines[2].startswith("    small.x86.int8.onnx: ")
    assert lines[3:6] == [
        "    31 layers in int8, ranges by minmax",
        "    3 in float, kept by 'ConvTranspose': " + lines[4].partition(": ")[2],
        "    3 in float, last convolution of a head: " + lines[5].partition(": ")[2],
    ]
    manifest = Artifact.load(work / "out" / "small.x86.int8.onnx").quantization
    named = [name for line in lines[4:6] for name in line.partition(": ")[2].split(", ")]
    assert named == list(manifest["float_nodes"])
    assert lines[6:] == [
        "int8 is planned for openvino (target x86-openvino); for onnxruntime: --runtime onnxruntime",
        f"ranges: {artifacts / 'small.ranges.json'}",
    ]

    written = json.loads((work / "export.json").read_text())
    assert [(each["file"], each["precision"]) for each in written["files"]] == [
        ("out/small.x86.fp32.onnx", "fp32"),
        ("out/small.x86.int8.onnx", "int8"),
    ]
    assert written["files"][0]["comparison"] == {
        "reference": "small.onnx", "max_abs_difference": 0.0, "images": 2, "cosine": pytest.approx(1, abs=1e-6),
        "signal": None,
        "max_abs_output": pytest.approx(float(lines[0].split(" of ")[1].partition(",")[0]), rel=1e-2),
    }  # fmt: skip
    assert list(written["files"][1]["quantization"]["float_nodes"]) == named
    assert written["ranges"] == str(artifacts / "small.ranges.json")


def test_calibrate_writes_ranges_and_takes_another_method_from_them(edgeq, work, small_onnx, drawn):
    arguments = ["calibrate", small_onnx, drawn.annotations, "--images", drawn.folder, "--preset", "centernet"]
    outcome = edgeq(*arguments, "--num", "33", "--method", "minmax")
    ranges = Ranges.load(work / "ranges.json")
    assert (len(ranges.samples), len(ranges.strongest)) == (8, 8)
    kept = len({*ranges.samples, *ranges.strongest})
    assert outcome == (0, f"ranges.json: 38 tensors by minmax; images counted: 33; inputs kept: {kept}\n", "")
    assert edgeq(*arguments, "--num", "33", "--method", "entropy", "--out", "direct.json").code == 0
    outcome = edgeq("calibrate", "--from", "ranges.json", "--method", "entropy", "--out", "later.json")
    assert outcome == (0, "later.json: 38 tensors by entropy, from ranges.json; no image was read\n", "")
    assert (work / "later.json").read_bytes() == (work / "direct.json").read_bytes()
    percentile = ["--method", "percentile", "--percentile", "99.5"]
    assert edgeq("calibrate", "--from", "ranges.json", *percentile, "--out", "percentile.json").code == 0
    assert Ranges.load(work / "percentile.json").options == {"percentile": 99.5}
    changed = Ranges.load(work / "percentile.json")
    assert (changed.samples, changed.strongest) == (ranges.samples, ranges.strongest)
    outcome = edgeq(*arguments, "--num", "33", "--method", "minmax", "--keep-samples", "0", "--out", "bare.json")
    assert outcome.out == "bare.json: 38 tensors by minmax; images counted: 33\n"
    bare = Ranges.load(work / "bare.json")
    assert (bare.samples, bare.strongest) == ((), ())


def test_calibrate_says_what_it_skipped(edgeq, work, small_onnx, drawn):
    lines = [str(path) for path in list_images(drawn.folder)[:20]]
    (work / "list.txt").write_text("\n".join([*lines, "missing.png"]))
    outcome = edgeq("calibrate", small_onnx, "list.txt", "--preset", "centernet", "--method", "minmax")
    assert outcome.out.startswith(
        "ranges.json: 38 tensors by minmax; images counted: 20; unreadable and skipped: 1; inputs kept: "
    )
    assert outcome.err.splitlines() == [
        "warning: skipped: missing.png: cannot be read (No such file or directory)",
        "warning: calibrated on 20 images only: the ranges depend on which, take at least 32 different ones",
    ]


BENCH_KEYS = {
    "artifact", "target", "runtime", "precision", "size_bytes", "latency_ms", "peak_rss_bytes", "throughput_per_s",
    "environment",
}  # fmt: skip
EVAL_KEYS = {"artifact", "runtime", "precision", "images", "per_class", *SCORE_NAMES}


@pytest.mark.usefixtures("warm_runners")
def test_json_holds_one_object_for_one_artifact_and_a_list_for_several(edgeq, work, artifacts, drawn):
    fp32, int8 = artifacts / "small.x86.fp32.onnx", artifacts / "small.x86.int8.onnx"
    bench = ["bench", "--runtime", "onnxruntime", "--threads", "1", "--seconds", "0.01", "--json", "bench.json"]
    score = ["eval", "--runtime", "onnxruntime", "--annotations", drawn.annotations, "--images", drawn.folder]
    # The weights are random, so the model finds nothing, and `edgeq eval` says so.
    for arguments, keys, code in ((bench, BENCH_KEYS, 0), ([*score, "--json", "eval.json"], EVAL_KEYS, 1)):
        file = work / arguments[-1]
        assert edgeq(*arguments, fp32).code == code
        one = json.loads(file.read_text())
        assert keys <= one.keys()
        outcome = edgeq(*arguments, fp32, int8)
        several = json.loads(file.read_text())
        assert [entry["artifact"] for entry in several] == [fp32.name, int8.name]
        assert all(keys <= entry.keys() for entry in several)
        assert ("are meaningless" in outcome.err) == bool(code)
        assert [line.split()[:2] for line in outcome.out.splitlines()[1:3]] == [
            [fp32.name, "onnxruntime"],
            [int8.name, "onnxruntime"],
        ]
    report = edgeq("report", "bench.json", "eval.json", "--out", "report.md")
    assert report.out.splitlines()[-1] == "wrote report.md"
    assert (work / "report.md").read_text().count("\n| small.x86.") == 2


def test_eval_of_one_artifact_shows_its_classes(edgeq, work, artifacts, drawn):
    data = ["--annotations", drawn.annotations, "--images", drawn.folder, "--runtime", "onnxruntime"]
    lines = edgeq("eval", artifacts / "small.x86.fp32.onnx", *data).out.splitlines()
    start = lines.index(next(line for line in lines if line.startswith("class ")))
    assert sorted(line.split()[0] for line in lines[start + 1 :]) == sorted(
        ["ellipse", "rectangle", "triangle", "star", "ring", "cross"]
    )
    assert "task: detection" in lines


def test_eval_scores_a_classifier_that_has_no_manifest(edgeq, work, drawn):
    artifact = save_colour_finder(work / "net.onnx")
    artifact.manifest_path.unlink()
    (work / "mine.toml").write_text(
        "[preprocessing]\nresize = 'stretch'\n[postprocessing]\ndecoder = 'classification'\n"
    )
    names = [path.name for path in list_images(drawn.folder)[:4]]
    (work / "labels.csv").write_text("".join(f"{name},{index}\n" for index, name in enumerate(names)))
    data = ["--images", drawn.folder, "--annotations", "labels.csv", "--preset", "mine.toml"]
    outcome = edgeq("eval", "net.onnx", *data, "--labels", "void,red,green,blue", "--json", "eval.json")
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[0].split() == ["artifact", "runtime", "top-1"]
    assert lines[1].split()[:2] == ["net.onnx", "onnxruntime"]
    assert lines[2].startswith("Accuracy over 4 images of labels.csv: measured with onnxruntime ")
    assert lines[3:5] == ["task: classification", "class  images   top-1"]
    assert [line.split()[:2] for line in lines[5:]] == [["void", "1"], ["red", "1"], ["green", "1"], ["blue", "1"]]
    result = json.loads((work / "eval.json").read_text())
    assert result["task"] == "classification"
    assert result["top1"] == float(lines[1].split()[2])
    assert edgeq("report", "eval.json").out.splitlines()[0].split() == ["artifact", "runtime", "top-1"]


@pytest.mark.parametrize(
    ("labels", "arguments", "error"),
    [
        ("a.png,4", [], "a.png is of class 4, but the model has 4 classes (0 to 3)"),
        ("a.png,cat", [], "has a class 'cat', which the model does not know; wanted indices 0 to 3"),
        ("a.png,cat", ["--labels", "w,x,y,z"], "wanted its names (w, x, y, z) or indices 0 to 3"),
        ("a.png,1", ["--labels", "w,x"], "has 4 classes, but 2 labels"),
        ("a.png,1", ["--labels", "none.txt"], "--labels none.txt: no such file"),
        ("a.png;1", [], "line 1 is 'a.png;1'; wanted `path,class`"),
        ("", [], "labels.csv: names no images"),
        (None, [], "labels.csv: no such file; wanted a JSON object"),
    ],
)
def test_labels_that_do_not_fit_a_classifier(edgeq, work, labels, arguments, error):
    save_colour_finder(work / "net.onnx").manifest_path.unlink()
    (work / "mine.toml").write_text("[postprocessing]\ndecoder = 'classification'\n")
    (work / "a.png").touch()
    if labels is not None:
        (work / "labels.csv").write_text(labels)
    before = contents(work)
    data = ["--images", ".", "--annotations", "labels.csv", "--preset", "mine.toml", "--json", "out.json"]
    assert error in edgeq("eval", "net.onnx", *data, *arguments).error
    assert contents(work) == before


# -- Real processes


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "edgeq", *map(str, arguments)]


def test_a_process_keeps_stdout_and_stderr_apart(work, small_onnx):
    done = subprocess.run(
        command("export", small_onnx, "--preset", "centernet"), capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("artifacts/small.x86.fp32.onnx  2.35 MB")
    assert done.stderr == ""


@pytest.mark.parametrize(("debug", "lines"), [("0", 1), ("1", None)])
def test_a_process_that_fails(work, debug, lines):
    done = subprocess.run(
        command("export", "none.onnx"),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"EDGEQ_DEBUG": debug},
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "none.onnx: no such file" in done.stderr
    assert ("Traceback" in done.stderr) is (debug == "1")
    assert lines is None or done.stderr.count("\n") == lines


@posix
@pytest.mark.parametrize(
    "arguments",
    [
        ["export", "MODEL", "--preset", "centernet", "--out", "out"],
        ["calibrate", "MODEL", "IMAGES", "--preset", "centernet", "--out", "out/ranges.json"],
    ],
    ids=["export", "calibrate"],
)
def test_a_full_disk(work, small_onnx, drawn, arguments):
    limited = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
        "from edgeq.cli.app import main; main()"
    )
    arguments = [{"MODEL": str(small_onnx), "IMAGES": str(drawn.folder)}.get(word, word) for word in arguments]
    done = subprocess.run([sys.executable, "-c", limited, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "cannot be written (File too large)" in done.stderr.splitlines()[-1]
    assert [line.partition(":")[0] for line in done.stderr.splitlines()].count("error") == 1
    assert contents(work) == ["out"]


@pytest.fixture
def interrupted(work, small_onnx, drawn) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A calibration that hangs at the last of 21 images, a pipe that nobody writes to."""
    images = list_images(drawn.folder)[:20]
    os.mkfifo(work / "slow.png")
    (work / "list.txt").write_text("\n".join([*map(str, images), "slow.png"]))
    arguments = command("calibrate", small_onnx, "list.txt", "--preset", "centernet", "--out", "out/ranges.json")
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield work / "slow.png", process
        finally:
            process.kill()


@posix
def test_ctrl_c_keeps_what_was_counted_and_the_same_command_goes_on(interrupted, work, small_onnx, drawn, edgeq):
    pipe, process = interrupted
    with pipe.open("wb"):  # opens as soon as the process has come this far
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    while process.poll() is None:
        release(pipe)
        time.sleep(0.05)
    out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "error: interrupted"
    assert "images counted so far: kept in out/ranges.json.partial; rerun the command to resume" in err
    assert contents(work / "out") == ["ranges.json.partial"]

    pipe.unlink()
    shutil.copy(list_images(drawn.folder)[20], pipe)
    arguments = ["calibrate", small_onnx, "list.txt", "--preset", "centernet", "--out"]
    outcome = edgeq(*arguments, "out/ranges.json")
    assert outcome.code == 0
    assert "images counted: 21 (" in outcome.out
    assert "of them in an interrupted run)" in outcome.out
    assert contents(work / "out") == ["ranges.json"]
    assert edgeq(*arguments, "direct.json").code == 0
    assert (work / "direct.json").read_bytes() == (work / "out" / "ranges.json").read_bytes()


def release(pipe: Path) -> None:
    """Lets a process that waits for something in the pipe read its end."""
    with contextlib.suppress(OSError):
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))


def test_python_m_edgeq_goes_by_the_same_name():
    done = subprocess.run(command("bench", "--help"), capture_output=True, text=True, check=True)
    assert "Usage: edgeq bench" in done.stdout
