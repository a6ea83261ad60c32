"""`edgeq deploy`: whom it takes files from, what its README states, and that a second run changes nothing."""

from __future__ import annotations

import json

import pytest

import edgeq
from edgeq.deploying.base import GateLimits
from edgeq.errors import EdgeqError, InputError, MismatchError
from edgeq.exporting.artifact import Artifact
from edgeq.files import sha256_file
from edgeq.verbs.deploy import deploy_files
from tests.deploying.written import save_model, save_with_cache, with_preprocessing


def test_the_folder_is_the_same_when_written_again(tmp_path):
    files = save_with_cache(tmp_path)
    first = deploy_files(files, "jetson-orin", tmp_path / "out")
    content = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    again = deploy_files(files, "jetson-orin", tmp_path / "out")
    assert (first.changed, again.changed) == (True, False)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == content
    assert sorted(str(path.relative_to(tmp_path / "out")) for path in content) == list(first.files)
    deploy_files(files, "jetson-orin", tmp_path / "elsewhere")
    assert {path.relative_to(tmp_path / "out"): found for path, found in content.items()} == {
        path.relative_to(tmp_path / "elsewhere"): path.read_bytes()
        for path in (tmp_path / "elsewhere").rglob("*")
        if path.is_file()
    }


def test_the_cache_and_its_float_file_come_along_and_are_found_by_the_manifest(tmp_path):
    files = save_with_cache(tmp_path, "my net")
    found = deploy_files(files, "jetson-orin", tmp_path / "out")
    int8 = Artifact.load(tmp_path / "out" / found.models[1])
    cache = int8.quantization_facts.calibration_cache
    assert cache is not None
    assert int8.path.with_name(cache.file).read_text().startswith("TRT-100300-")
    assert Artifact.load(int8.path.with_name(cache.float_file)).precision == "fp32"
    assert Artifact.load(files[1]).quantization["calibration_cache"]["file"] == "my net.int8.cache"


def test_a_changed_cache_is_refused(tmp_path):
    files = save_with_cache(tmp_path)
    (tmp_path / "net.int8.cache").write_text("TRT-100300-EntropyCalibration2\nimage: 3c010a15\n")
    with pytest.raises(InputError, match="is not the calibration cache that was exported with the model"):
        deploy_files(files, "jetson-orin", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _result(artifact, p50, ap):
    common = {"artifact": artifact.name, "digest": artifact.digest, "runtime": "openvino", "precision": "int8"}
    return [
        {**common, "task": "classification", "top1": ap, "top5": 1.0, "images": 10, "results_version": 1},
        {**common, "latency_ms": {"p50": p50, "mad": 0.1, "runs": 100}, "size_bytes": 1, "results_version": 1},
    ]


def test_the_readme_states_the_results_of_these_files_alone(tmp_path):
    ours, other = save_model(tmp_path / "net.x86.int8.onnx"), save_model(tmp_path / "o.x86.int8.onnx", batch=2)
    (tmp_path / "runs.json").write_text(json.dumps([*_result(ours, 1.25, 0.8125), *_result(other, 7.75, 0.25)]))
    found = deploy_files([ours.path], "x86", tmp_path / "out", results=[tmp_path / "runs.json"])
    readme = (tmp_path / "out/README.md").read_text()
    assert found.expected == 1
    assert "0.8125" in readme
    assert "1.25" in readme
    assert "7.75" not in readme
    with pytest.raises(InputError, match="no result is about the deployed files"):
        deploy_files([save_model(tmp_path / "new.x86.int8.onnx", batch=3).path], "x86", tmp_path / "out2",
                     results=[tmp_path / "runs.json"])  # fmt: skip


def test_the_readme_states_what_the_manifest_measured(tmp_path):
    speed = {"runtime": "openvino", "engine": "openvino 1", "cpu": "A CPU", "threads": 2, "ratio": 0.4321, "low": 0.4,
             "high": 0.5, "rounds": 9, "recommended": "int8"}  # fmt: skip
    signal = {"how": "exact arithmetic, 8 images", "snr_db": 38.25, "images": 8}
    facts = {"speed": speed, "signal": signal, "int8_nodes": 12}
    file = save_model(tmp_path / "net.x86.int8.onnx", quantization=facts)
    deploy_files([file.path], "x86", tmp_path / "out")
    readme = (tmp_path / "out/README.md").read_text()
    assert "2.3x faster than FP32 (2.00x to 2.50x), 9 rounds, openvino 1, 2 threads, A CPU" in readme
    assert "38.2 dB, exact arithmetic, 8 images" in readme
    assert "| openvino | 0.00 | 12 |" in readme
    assert "does not hold both" in readme


def test_the_matrix_of_jetpacks_names_what_a_parser_lacks(tmp_path):
    file = save_model(tmp_path / "net.fp32.onnx", target="jetson-orin", precision="fp32", operator="LayerNormalization")
    deploy_files([file.path], "jetson-orin", tmp_path / "out")
    rows = {line.split(" | ")[0]: line for line in (tmp_path / "out/README.md").read_text().splitlines()}
    assert "LayerNormalization needs TensorRT 8.6" in rows["| 5.1"]
    assert "needs Python 3.10" in rows["| 5.1"]
    assert "| accepted |" in rows["| 6.1, 6.2"]
    assert "no: no calibration cache" in rows["| 6.1, 6.2"]
    assert "--target jetson-orin-trt11" in rows["| 7.2 with TensorRT 11"]


def test_the_readme_says_where_deepstream_falls_short(tmp_path):
    spec = with_preprocessing(std=(0.1, 0.2, 0.3))
    file = save_model(tmp_path / "net.int8.onnx", target="jetson-orin", preprocessing=spec)
    deploy_files([file.path], "jetson-orin", tmp_path / "out")
    readme = (tmp_path / "out/README.md").read_text()
    assert "**DeepStream cannot prepare these images**: std differs per channel" in readme


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("rtx", "`target` rtx: has no deployment folder; there is one for arm, jetson-orin, "),
        ("jetson-orin", "was exported for x86, wanted jetson-orin; export it with `target` jetson-orin"),
    ],
)
def test_a_target_that_does_not_fit_is_refused(tmp_path, target, error):
    file = save_model(tmp_path / "net.int8.onnx")
    with pytest.raises(InputError, match=error):
        deploy_files([file.path], target, tmp_path / "out")


def test_files_that_cannot_be_deployed_are_refused(tmp_path):
    file = save_model(tmp_path / "net.int8.onnx")
    with pytest.raises(InputError, match="name each file once"):
        deploy_files([file.path, file.path], "x86", tmp_path / "out")
    with pytest.raises(InputError, match="no file to deploy"):
        deploy_files([], "x86", tmp_path / "out")
    with pytest.raises(InputError, match="format tflite, wanted onnx"):
        deploy_files([save_model(tmp_path / "net.int8.tflite").path], "x86", tmp_path / "out")
    foreign = tmp_path / "foreign.onnx"
    foreign.write_bytes(file.path.read_bytes())
    with pytest.raises(InputError, match="has no manifest next to it"):
        deploy_files([foreign], "x86", tmp_path / "out")
    file.path.write_bytes(b"cut")
    with pytest.raises(MismatchError, match="is not the file that its manifest describes"):
        deploy_files([file.path], "x86", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_say_which_target_the_folder_is_for(tmp_path):
    file = save_model(tmp_path / "net.int8.onnx", target="x86-ort")
    found = edgeq.deploy(file.path, out=tmp_path / "out")
    assert (found.target, found.models) == ("x86-ort", ("models/net.int8/1/net.int8.onnx",))
    assert "bench --runtime onnxruntime" in (tmp_path / "out/run.sh").read_text()
    other = save_model(tmp_path / "net2.int8.onnx", target="x86-openvino")
    with pytest.raises(InputError, match="exported for x86-openvino and x86-ort; name the `target` of the folder"):
        edgeq.deploy([file.path, other.path], out=tmp_path / "both")
    assert edgeq.deploy([file.path, other.path], "x86", tmp_path / "both").target == "x86"
    with pytest.raises(InputError, match="`target` rtx: has no deployment folder"):
        edgeq.deploy(save_model(tmp_path / "net3.int8.onnx", target="rtx").path, out=tmp_path / "rtx")


def test_openvinos_own_files_come_with_their_weights_and_are_served_by_both(tmp_path):
    weights = tmp_path / "net.x86-openvino.w8.bin"
    weights.write_bytes(b"integers")
    facts = {"weights_file": {"file": weights.name, "digest": sha256_file(weights)}}
    file = save_model(
        tmp_path / "net.x86-openvino.w8.xml", target="x86-openvino", precision="w8", quantization=facts
    )  # fmt: skip
    found = edgeq.deploy(file.path, out=tmp_path / "out")
    folder = "models/net.x86-openvino.w8.xml"
    assert {f"{folder}/1/{weights.name}", f"{folder}/1/{file.name}", f"{folder}/config.pbtxt"} <= set(found.files)
    assert (
        'backend: "openvino"\ndefault_model_filename: "net.x86-openvino.w8.xml"'
        in (tmp_path / "out" / folder / "config.pbtxt").read_text()
    )
    (served,) = json.loads((tmp_path / "out/ovms.json").read_text())["model_config_list"]
    assert served["config"]["base_path"] == folder
    assert "bench --runtime openvino" in (tmp_path / "out/run.sh").read_text()


@pytest.mark.parametrize("limits", [(-1.0, 1.0), (float("nan"), 1.0), (1.0, 0.0), (1.0, float("inf"))])
def test_limits_that_nothing_can_keep_are_refused(tmp_path, limits):
    file = save_model(tmp_path / "net.int8.onnx")
    with pytest.raises(EdgeqError, match="wanted"):
        deploy_files([file.path], "x86", tmp_path / "out", limits=GateLimits(*limits))


def test_the_api_is_the_command(tmp_path):
    file = save_model(tmp_path / "net.int8.onnx")
    found = edgeq.deploy(file.path, "x86", tmp_path / "out", max_drop=0.25)
    assert found.models == ("models/net.int8/1/net.int8.onnx",)
    assert json.loads((tmp_path / "out/deploy.json").read_text())["limits"]["max_drop"] == 0.25


@pytest.mark.parametrize("name", ["net.weights", "my net.weights"])
def test_weights_in_a_file_of_their_own_come_along(tmp_path, name):
    weights = tmp_path / name
    weights.write_bytes(b"3 GB")
    facts = {"weights_file": {"file": name, "digest": sha256_file(weights)}}
    file = save_model(tmp_path / "net.int8.onnx", quantization=facts)
    if " " in name:
        with pytest.raises(InputError, match="refers to its weights by this name"):
            deploy_files([file.path], "x86", tmp_path / "out")
        return
    (path,) = deploy_files([file.path], "x86", tmp_path / "out").models
    assert (tmp_path / "out" / path).with_name(name).read_bytes() == b"3 GB"
    Artifact.load(tmp_path / "out" / path)
