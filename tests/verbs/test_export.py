"""`edgeq export`: files that compute what the model computes, and nothing left behind where they do not."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.calibration.source import CalibrationSource
from edgeq.calibrators.ranges import Ranges
from edgeq.errors import EdgeqError, InputError, MismatchError, ModelError
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.options import ExportOptions
from edgeq.files import sha256_file
from edgeq.inputs import items
from edgeq.inputs.images import list_images, read_image
from edgeq.inputs.preprocessing import preprocess
from edgeq.runtimes import is_installed, open_session
from edgeq.sources.model import ModelRequest
from edgeq.verbs.export import ExportResult, export_model
from tests import exact
from tests.test_order import ROOT

HEADS = {"hm": (1, 6, 16, 24), "wh": (1, 2, 16, 24), "reg": (1, 2, 16, 24)}

PRECISIONS = ("fp32", "fp16", "int8", "dynamic")


@pytest.fixture(scope="module")
def request_(small_weights) -> ModelRequest:
    return ModelRequest("centernet_resnet18", weights=small_weights, size=(64, 96))


@pytest.fixture(scope="module")
def foreign(small_onnx) -> ModelRequest:
    return ModelRequest(str(small_onnx), preset="centernet")


@pytest.fixture(scope="module")
def calibration(drawn) -> CalibrationSource:
    return CalibrationSource(drawn.annotations, drawn.folder, method="minmax")


@pytest.fixture(scope="module")
def exported(request_, calibration, tmp_path_factory) -> ExportResult:
    """Every precision, from torch, in one go."""
    return export_model(request_, "x86", PRECISIONS, tmp_path_factory.mktemp("exported"), calibration=calibration)


@pytest.fixture(scope="module")
def ranges(exported) -> Path:
    assert exported.ranges_path is not None
    return Path(exported.ranges_path)


@pytest.fixture(scope="module")
def image(exported, drawn) -> np.ndarray:
    """The input that the last drawn image makes; the comparison has seen the first two only."""
    return preprocess(read_image(list_images(drawn.folder)[-1]), exported.model.preprocessing)[0]


def run(artifact: Artifact, image: np.ndarray, runtime: str = "onnxruntime") -> dict[str, np.ndarray]:
    with open_session(artifact, runtime, 1, "f32") as session:
        return session.run({artifact.inputs[0].name: image})


def onnx_nodes(path: Path) -> list[Any]:
    onnx = pytest.importorskip("onnx")
    return list(onnx.load(path).graph.node)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def by_precision(result: ExportResult) -> dict[str, Artifact]:
    return {file.artifact.precision: file.artifact for file in result.files}


def test_every_precision_is_a_file_with_its_manifest(exported):
    folder = exported.files[0].artifact.path.parent
    models = [f"small.x86.{precision}.onnx" for precision in PRECISIONS]
    assert names(folder) == sorted([*models, *(f"{name}.json" for name in models), "small.ranges.json"])
    for file in exported.files:
        loaded = Artifact.load(file.artifact.path)
        assert loaded == file.artifact == Artifact.load(file.artifact.manifest_path)
        assert loaded.digest == sha256_file(loaded.path)
        assert loaded.source_digest == exported.model.digest
        assert loaded.preprocessing == exported.model.preprocessing
        assert loaded.postprocessing is not None
        assert loaded.tools.keys() == {"edgeq", "onnx", "onnx-ir"}
        assert json.loads(loaded.manifest_path.read_text())["path"] == loaded.name


def test_sizes_follow_the_precision(exported):
    sizes = {precision: artifact.size_bytes for precision, artifact in by_precision(exported).items()}
    assert 0.48 < sizes["fp16"] / sizes["fp32"] < 0.52
    assert 0.25 < sizes["int8"] / sizes["fp32"] < 0.30
    assert 0.25 < sizes["dynamic"] / sizes["fp32"] < 0.40  # deconvolutions stay in float


def test_heads_stay_apart_and_plain(exported):
    for artifact in by_precision(exported).values():
        assert {spec.name: spec.shape for spec in artifact.outputs} == HEADS
        nodes = onnx_nodes(artifact.path)
        assert {"Sigmoid", "BatchNormalization"}.isdisjoint(node.op_type for node in nodes)
        assert sum(node.op_type == "MaxPool" for node in nodes) == 1  # the stem's: the peak test is the decoder's
    last = {node.output[0]: node for node in onnx_nodes(by_precision(exported)["int8"].path)}
    initializers = {
        value.name for value in pytest.importorskip("onnx").load(by_precision(exported)["int8"].path).graph.initializer
    }
    for head in HEADS:
        assert last[head].op_type == "Conv"
        assert last[head].input[1] in initializers, "a head's last convolution has float weights"


def test_files_compute_what_torch_computes(exported, request_, image):
    import torch

    from edgeq.models.zoo import load_model

    with torch.no_grad():
        wanted = dict(
            zip(HEADS, load_model(request_.reference, request_.weights)(torch.from_numpy(image)), strict=True)
        )
    found = run(by_precision(exported)["fp32"], image)
    for head, tensor in wanted.items():
        np.testing.assert_allclose(found[head], tensor.numpy(), atol=1e-4)


@pytest.mark.kernels
@pytest.mark.parametrize(("precision", "cosine"), [("fp16", 0.9999), ("int8", 0.98), ("dynamic", 0.98)])
def test_lower_precisions_stay_close_to_fp32(exported, image, precision, cosine):
    artifacts = by_precision(exported)
    assert smallest_cosine(exact.outputs(artifacts["fp32"], image), exact.outputs(artifacts[precision], image)) > cosine


@pytest.mark.kernels
@pytest.mark.skipif(not is_installed("openvino"), reason="openvino is not installed")
@pytest.mark.parametrize(
    ("precision", "cosine"),
    [("fp16", 0.9999), pytest.param("int8", 0.98, marks=exact.needs_exact_kernels), ("dynamic", 0.98)],
)
def test_openvino_stays_as_close(exported, image, precision, cosine):
    artifacts = by_precision(exported)
    assert smallest_cosine(run(artifacts["fp32"], image), run(artifacts[precision], image, "openvino")) > cosine


def smallest_cosine(wanted: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> float:
    """Returns the smallest cosine of an output's values around their means."""
    cosines = []
    for head, array in wanted.items():
        centred, other = array - array.mean(), found[head] - found[head].mean()
        cosines.append(float((centred * other).sum() / np.linalg.norm(centred) / np.linalg.norm(other)))
    return min(cosines)


@pytest.mark.kernels
def test_the_comparison_tells_the_real_difference(exported, drawn):
    comparisons = {file.artifact.precision: file.comparison for file in exported.files}
    artifacts = by_precision(exported)
    inputs = [preprocess(read_image(path), exported.model.preprocessing)[0] for path in list_images(drawn.folder)[:2]]
    pairs = [(run(artifacts["fp32"], array), run(artifacts["int8"], array)) for array in inputs]
    outputs = [(wanted[head].ravel(), found[head].ravel()) for wanted, found in pairs for head in HEADS]
    difference = max(np.abs(wanted - found).max() for wanted, found in outputs)
    cosine = min(wanted @ found / np.linalg.norm(wanted) / np.linalg.norm(found) for wanted, found in outputs)
    # How close INT8 comes depends on the CPU, what is told of it does not.
    assert comparisons["int8"].max_abs_difference == pytest.approx(difference, rel=0.01)
    assert comparisons["int8"].cosine == pytest.approx(cosine, abs=1e-4)
    assert comparisons["int8"].images == 2
    assert all(comparison.reference.startswith("torch 2") for comparison in comparisons.values())
    assert comparisons["fp32"].max_abs_difference < comparisons["fp16"].max_abs_difference < difference
    assert comparisons["fp32"].cosine > comparisons["fp16"].cosine > comparisons["int8"].cosine


def test_files_name_no_folder_of_the_machine_that_wrote_them(exported):
    for artifact in by_precision(exported).values():
        content = artifact.path.read_bytes() + artifact.manifest_path.read_bytes()
        assert str(ROOT).encode() not in content
        assert b"site-packages" not in content


@pytest.mark.parametrize("opset", [17, 21])
def test_a_torch_model_is_written_in_the_opset_asked_for(request_, exported, ranges, image, tmp_path, opset):
    onnx = pytest.importorskip("onnx")
    request = dataclasses.replace(request_, opset=opset)
    # Ranges do not depend on the opset.
    result = export_model(request, "x86", ["fp32", "int8"], tmp_path, calibration=CalibrationSource(ranges))
    for precision, artifact in by_precision(result).items():
        imports = {entry.domain: entry.version for entry in onnx.load(artifact.path).opset_import}
        assert imports == {"": opset}
        wanted = run(by_precision(exported)[precision], image)
        for head, array in run(artifact, image).items():
            np.testing.assert_allclose(array, wanted[head], atol=1e-4)


def test_a_free_batch_runs_in_batches(request_, exported, ranges, drawn, tmp_path):
    request = dataclasses.replace(request_, dynamic_batch=True)
    # Ranges of the static model serve: calibration has no batch size.
    result = export_model(request, "x86", ["fp32", "int8"], tmp_path, calibration=CalibrationSource(ranges))
    inputs = [preprocess(read_image(path), exported.model.preprocessing)[0] for path in list_images(drawn.folder)[:3]]
    for runtime in filter(is_installed, ("onnxruntime", "openvino")):
        for precision, tolerance in (("fp32", 1e-3), ("int8", 0.1)):
            artifact = by_precision(result)[precision]
            assert artifact.inputs[0].shape == (None, 3, 64, 96)
            together = run(artifact, np.concatenate(inputs), runtime)
            for index, array in enumerate(inputs):
                alone = run(by_precision(exported)[precision], array, runtime)
                for head in HEADS:
                    np.testing.assert_allclose(together[head][index], alone[head][0], atol=tolerance)


def test_an_onnx_file_of_anybodys_takes_a_preset(foreign, calibration, exported, image, tmp_path):
    result = export_model(foreign, "x86", ["fp32", "int8"], tmp_path, calibration=calibration)
    assert names(tmp_path)[-1] == "small.x86.int8.onnx.json"
    assert result.files[0].comparison.reference == "small.onnx"
    assert result.files[0].comparison.max_abs_difference == 0
    for precision in ("fp32", "int8"):
        wanted = run(by_precision(exported)[precision], image)
        for head, array in run(by_precision(result)[precision], image).items():
            np.testing.assert_allclose(array, wanted[head], atol=1e-4)


TOML = """
labels = ["a", "b", "c", "d", "e", "f"]

[preprocessing]
resize = "stretch"
channel_order = "rgb"

[postprocessing]
decoder = "centernet"
outputs = { heatmap = "hm", size = "wh", offset = "reg" }
options = { top_k = 7 }
"""


def test_a_toml_file_declares_how_a_model_is_used(foreign, tmp_path):
    (tmp_path / "mine.toml").write_text(TOML)
    request = dataclasses.replace(foreign, preset=str(tmp_path / "mine.toml"))
    artifact = export_model(request, "x86", ["fp32"], tmp_path / "out").files[0].artifact
    loaded = Artifact.load(artifact.path)
    assert loaded.labels == tuple("abcdef")
    assert loaded.preprocessing is not None
    assert (loaded.preprocessing.resize, loaded.preprocessing.height_px, loaded.preprocessing.width_px) == (
        "stretch",
        64,
        96,
    )
    assert loaded.postprocessing is not None
    assert loaded.postprocessing.options == {"top_k": 7}


@pytest.fixture
def bare_preset(tmp_path) -> str:
    """A preset for networks that are neither detector nor classifier."""
    path = tmp_path / "bare.toml"
    path.write_text("[preprocessing]\nmean = [0.485, 0.456, 0.406]\nstd = [0.229, 0.224, 0.225]\n")
    return str(path)


def test_an_onnx_file_with_batchnorm_comes_out_without(bare_preset, tmp_path):
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "bn.onnx"
    save_batchnorm_net(onnx, path)
    assert [node.op_type for node in onnx_nodes(path)].count("BatchNormalization") == 2
    result = export_model(ModelRequest(str(path), preset=bare_preset), "x86", ["fp32"], tmp_path / "out")
    assert (result.folded_batchnorm, result.unfolded_batchnorm) == (2, {})
    found = [node.op_type for node in onnx_nodes(result.files[0].artifact.path)]
    assert "BatchNormalization" not in found
    assert found.count("Conv") == 2
    assert result.files[0].comparison.max_abs_difference < 1e-4


def save_batchnorm_net(onnx, path: Path) -> None:
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> net (float[1,3,32,32] x) => (float[1,4,32,32] y) {'
        "a = BatchNormalization(x, s0, b0, m0, v0) b = Conv<pads = [0,0,0,0]>(a, w0) c = Relu(b)"
        "d = Conv<pads = [1,1,1,1]>(c, w1) y = BatchNormalization(d, s1, b1, m1, v1) }"
    )
    arrays = {"w0": rng.normal(size=(4, 3, 1, 1)), "w1": rng.normal(size=(4, 4, 3, 3))}
    for index, channels in enumerate((3, 4)):
        arrays |= {f"{letter}{index}": rng.uniform(0.5, 1.5, channels) for letter in "sbmv"}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()
    )
    onnx.save(model, path)


MODULE = """
import torch

class Net(torch.nn.Module):
    def __init__(self, shift):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.shift = shift

    def forward(self, x):
        y = self.conv(x).relu()
        return y if torch.compiler.is_compiling() else y + self.shift

def net():
    return Net(0.0)

def dishonest():
    return Net(0.5)
"""


@pytest.fixture
def user_module(tmp_path, monkeypatch) -> str:
    (tmp_path / "users_nets.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return "users_nets"


def test_a_factory_names_a_model(user_module, bare_preset, tmp_path):
    pytest.importorskip("torch")
    request = ModelRequest(f"{user_module}:net", preset=bare_preset, size=(32, 48))
    artifact = export_model(request, "x86", ["fp32"], tmp_path / "out").files[0].artifact
    assert artifact.name == "net.x86.fp32.onnx"
    assert [(spec.name, spec.shape) for spec in artifact.outputs] == [("output_0", (1, 4, 32, 48))]


def test_a_file_that_computes_something_else_is_removed(user_module, bare_preset, tmp_path):
    request = ModelRequest(f"{user_module}:dishonest", preset=bare_preset, size=(32, 48))
    with pytest.raises(ModelError, match=r"differs from torch .* by 0\.5 where outputs reach"):
        export_model(request, "x86", ["fp32"], tmp_path / "out")
    assert names(tmp_path / "out") == []


def test_a_classifiers_preset_wants_class_scores(user_module, tmp_path):
    pytest.importorskip("torch")
    request = ModelRequest(f"{user_module}:net", preset="imagenet", size=(32, 48))
    with pytest.raises(ModelError, match=r"wanted scores \(1, classes\) .* found scores \(1, 4, 32, 48\)"):
        export_model(request, "x86", ["fp32"], tmp_path / "out")
    assert names(tmp_path / "out") == []


def test_what_is_kept_stays_in_float(foreign, ranges, exported, tmp_path):
    int8 = by_precision(exported)["int8"]
    convolutions = [node.name for node in onnx_nodes(by_precision(exported)["fp32"].path) if node.op_type == "Conv"]
    kept = [convolutions[0], "ConvTranspose"]
    result = export_model(
        foreign, "x86", ["int8"], tmp_path, calibration=CalibrationSource(ranges), options=ExportOptions(tuple(kept))
    )
    facts = result.files[0].artifact.quantization
    reasons = {name: reason for name, reason in facts["float_nodes"].items() if reason.startswith("kept")}
    assert sorted(set(reasons.values())) == [f"kept by {name!r}" for name in sorted(kept)]
    assert len(reasons) == 4
    assert facts["int8_nodes"] == int8.quantization["int8_nodes"] - 4
    weights = {
        node.name: node.input[1]
        for node in onnx_nodes(result.files[0].artifact.path)
        if node.op_type.startswith("Conv")
    }
    assert {name for name, weight in weights.items() if not weight.endswith("_dequantized")} == facts[
        "float_nodes"
    ].keys()


def test_ranges_are_used_as_they_are_or_by_another_method(foreign, ranges, tmp_path, monkeypatch):
    monkeypatch.setattr(items, "read_image", None)
    before = ranges.read_bytes()
    result = export_model(foreign, "x86", ["int8"], tmp_path, calibration=CalibrationSource(ranges))
    assert result.ranges_path == ranges
    assert result.files[0].artifact.quantization["ranges_digest"] == Ranges.load(ranges).digest
    other = export_model(foreign, "x86", ["int8"], tmp_path, calibration=CalibrationSource(ranges, method="entropy"))
    facts = other.files[0].artifact.quantization
    assert (facts["method"], facts["ranges_digest"]) == ("entropy", Ranges.load(ranges).with_method("entropy").digest)
    assert ranges.read_bytes() == before


def test_targets_write_their_own_files(foreign, ranges, image, tmp_path):
    result = export_model(foreign, "x86-ort", ["int8"], tmp_path, calibration=CalibrationSource(ranges))
    artifact = result.files[0].artifact
    assert artifact.name == "small.x86-ort.int8.onnx"
    assert artifact.target == "x86-ort"
    kinds = [node.op_type for node in onnx_nodes(artifact.path)]
    assert "ConvTranspose" not in kinds
    assert kinds.count("DepthToSpace") == 3


def test_dynamic_warns_that_it_is_slow_for_convolutions(foreign, tmp_path, caplog):
    export_model(foreign, "x86", ["dynamic"], tmp_path)
    assert "a dynamic ONNX file measures ranges at every run and is slower than fp32 for convolutions" in caplog.text


def test_each_precision_is_written_once(foreign, tmp_path):
    assert len(export_model(foreign, "x86", ["fp32", "fp32"], tmp_path).files) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precisions": ["int9"]}, "`precision` int9: did you mean int8. known are fp32, fp16, int8, w4a8, dynamic"),
        ({"precisions": []}, r"`precision` \(none\): known are"),
        ({"precisions": ["fp32", "int8"], "calibration": None}, "int8 needs ranges: give `calib`"),
        ({"target_name": "abacus"}, r"unknown target 'abacus'; known: arm, jetson-orin, .*x86-ort"),
        ({"options": ExportOptions(("no such node",))}, "`keep` 'no such node': matches no node; names look like"),
        ({"options": ExportOptions(("(",))}, r"`keep` '\(': is not a regular expression"),
    ],
)
def test_wrong_options_are_told_before_anything_is_done(foreign, calibration, tmp_path, monkeypatch, options, message):
    monkeypatch.setattr(items, "read_image", None)
    arguments = {"target_name": "x86", "precisions": ["fp32", "int8"], "calibration": calibration} | options
    with pytest.raises(InputError, match=message):
        export_model(foreign, out=tmp_path / "out", **arguments)
    assert names(tmp_path) == []


def test_ranges_of_another_model_or_preprocessing_are_refused_before_anything_is_written(foreign, ranges, tmp_path):
    (tmp_path / "mine.toml").write_text(TOML)
    preset = dataclasses.replace(foreign, preset=str(tmp_path / "mine.toml"))
    onnx = pytest.importorskip("onnx")
    other = onnx.load(foreign.reference)
    bias = next(value for value in other.graph.initializer if list(value.dims) == [6])
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1, bias.name))
    onnx.save(other, tmp_path / "small.onnx")
    model = dataclasses.replace(foreign, reference=str(tmp_path / "small.onnx"))
    for request, reason in ((preset, "other pre-processing"), (model, "another model")):
        with pytest.raises(MismatchError, match=f"collected with {reason} .*; run `edgeq calibrate` again"):
            export_model(request, "x86", ["fp32", "int8"], tmp_path / "out", calibration=CalibrationSource(ranges))
    assert names(tmp_path / "out") == []


def test_an_onnx_file_is_exported_without_torch(foreign, drawn, tmp_path, monkeypatch):
    """The extra `onnx` brings no torch: 135 MB instead of gigabytes."""
    for name in ("torch", "torchvision"):
        monkeypatch.setitem(sys.modules, name, None)
    images = CalibrationSource(drawn.annotations, drawn.folder, method="minmax", num=4)
    done = export_model(foreign, "x86", ["fp32", "int8"], tmp_path, calibration=images)
    assert [file.artifact.precision for file in done.files] == ["fp32", "int8"]


def test_a_model_that_the_decoder_does_not_know_is_refused(small_onnx, calibration, tmp_path):
    request = ModelRequest(str(small_onnx), preset="yolox")
    with pytest.raises(ModelError, match=r"decoder yolox: the model has no output 'output'.*found hm"):
        export_model(request, "x86", ["fp32", "int8"], tmp_path / "out", calibration=calibration)
    assert names(tmp_path / "out") == []


@pytest.mark.parametrize("at", range(6))
def test_a_full_disk_leaves_whole_files_only(foreign, ranges, tmp_path, monkeypatch, at):
    calibration = CalibrationSource(ranges)
    export_model(foreign, "x86", ["fp32", "int8"], tmp_path / "whole", calibration=calibration)
    sync, calls = os.fsync, iter(range(100))

    def full(descriptor):
        if next(calls) == at:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"):
        export_model(foreign, "x86", ["fp32", "int8"], tmp_path / "out", calibration=calibration)
    assert names(tmp_path / "out") == names(tmp_path / "whole")[: at // 3 * 2]  # a mark, the file, its manifest
    for name in names(tmp_path / "out"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_an_older_file_survives_a_failure(foreign, tmp_path, monkeypatch):
    artifact = export_model(foreign, "x86", ["fp32"], tmp_path).files[0].artifact
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EdgeqError):
        export_model(foreign, "x86", ["fp32"], tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert Artifact.load(artifact.path) == artifact


def test_a_folder_that_cannot_be_made_is_told_at_once(foreign, calibration, tmp_path, monkeypatch):
    monkeypatch.setattr(items, "read_image", None)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file is a file; choose another name"):
        export_model(foreign, "x86", ["int8"], tmp_path / "file", calibration=calibration)
