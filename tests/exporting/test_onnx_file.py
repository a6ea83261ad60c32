"""Large ONNX files: read where they lie, written piece by piece, run without a copy of their weights."""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from edgeq.calibration.source import CalibrationSource
from edgeq.errors import InputError, MismatchError
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.graphs import onnx_file, weights
from edgeq.exporting.graphs.graph import constant, copy_graph, read_onnx, save_onnx
from edgeq.exporting.graphs.weights import file_tensors, release_weights
from edgeq.inputs import items_of
from edgeq.runtimes.observer import ActivationObserver
from edgeq.sources.model import ModelRequest, open_model
from edgeq.verbs.export import ExportResult, export_model
from tests.exporting import nets

TEXT = """g (float[1,3,10,12] x) => (float[1,7] y, float[1,8,10,12] z) {
    a = Conv<pads=[1,1,1,1]>(x, w1, b1)
    z = Relu(a)
    c = Conv<pads=[1,1,1,1]>(z, w2)
    d = Relu(c)
    e = GlobalAveragePool(d)
    f = Reshape(e, flat)
    y = MatMul(f, m)
}"""
WEIGHTS = {
    "w1": nets.normal(1, 8, 3, 3, 3), "b1": nets.normal(2, 8), "w2": nets.normal(3, 8, 8, 3, 3) / 4,
    "m": nets.normal(4, 8, 7), "flat": np.array([1, 8]),
}  # fmt: skip
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 10, 12, 3), np.uint8)
IMAGE = nets.normal(5, 1, 3, 10, 12)


@pytest.fixture
def everything_is_large(monkeypatch) -> None:
    monkeypatch.setattr(weights, "LARGE_MODEL", 1 << 10)
    monkeypatch.setattr(weights, "LARGE_TENSOR", 1 << 6)


@pytest.fixture
def two_files(everything_is_large, monkeypatch) -> None:
    monkeypatch.setattr(onnx_file, "MOST_IN_A_FILE", 1 << 10)


def save(folder: Path, *, external: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "model.onnx"
    proto = ir.to_proto(nets.parse(TEXT, WEIGHTS))
    onnx.save(proto, path, save_as_external_data=external, location="weights.bin", size_threshold=64)
    return path


def request(path: Path) -> ModelRequest:
    preset = path.with_name("preset.toml")
    preset.write_text('[preprocessing]\nresize = "stretch"\n')
    return ModelRequest(str(path), preset=str(preset))


def export(path: Path, out: Path, precisions: tuple[str, ...] = ("fp32", "fp16", "int8")) -> ExportResult:
    source = CalibrationSource(list(items_of(list(IMAGES), 8)), method="minmax")
    return export_model(request(path), "x86", precisions, out, calibration=source)


def in_files(model: ir.Model) -> set[str | None]:
    return {tensor.name for tensor in file_tensors(model)}


def folders(model: ir.Model) -> set[Path]:
    tensors = file_tensors(model)
    return {Path(tensor.base_dir) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}


def values(model: ir.Model) -> dict[str, np.ndarray]:
    found = {str(name): constant(value) for name, value in model.graph.initializers.items()}
    return {name: array for name, array in found.items() if array is not None}


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.usefixtures("everything_is_large")
def test_large_tensors_stay_in_their_file(tmp_path, external):
    path = save(tmp_path, external=external)
    model = read_onnx(path)
    assert in_files(model) == {"w1", "w2", "m"}
    for name, array in values(model).items():
        np.testing.assert_array_equal(array, WEIGHTS[name])
    copy = copy_graph(model)
    assert copy.graph.initializers["w2"].const_value is model.graph.initializers["w2"].const_value
    assert nets.ops(copy) == nets.ops(model)
    release_weights(model)
    np.testing.assert_array_equal(values(model)["w2"], WEIGHTS["w2"])


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("link", [os.link, os.symlink])
@pytest.mark.parametrize("large", [False, True])
def test_files_behind_links_are_read_and_run(tmp_path, request, external, link, large):
    """As a hub's cache and package installers lay them out: onnx and onnx-ir refuse to read such files."""
    if large:
        request.getfixturevalue("everything_is_large")
    save(tmp_path / "blobs", external=external)
    (tmp_path / "snapshot").mkdir()
    for file in (tmp_path / "blobs").iterdir():
        link(file, tmp_path / "snapshot" / file.name)
    model = read_onnx(tmp_path / "snapshot" / "model.onnx")
    for name, array in values(model).items():
        np.testing.assert_array_equal(array, WEIGHTS[name])
    assert bool(in_files(model)) == large
    wanted = nets.run(nets.parse(TEXT, WEIGHTS), IMAGE)[0]
    seen = ActivationObserver(model, ["y"]).observe({"x": IMAGE})
    np.testing.assert_allclose(seen["y"], wanted, rtol=1e-5, atol=1e-5)
    assert save_onnx(model, tmp_path / "copy.onnx") is None
    np.testing.assert_array_equal(values(read_onnx(tmp_path / "copy.onnx"))["w2"], WEIGHTS["w2"])


def test_external_data_of_a_small_model_is_read(tmp_path):
    model = read_onnx(save(tmp_path, external=True))
    assert in_files(model) == set()
    assert values(model).keys() == WEIGHTS.keys()
    (tmp_path / "weights.bin").unlink()
    np.testing.assert_array_equal(values(model)["w1"], WEIGHTS["w1"])


@pytest.mark.usefixtures("everything_is_large")
def test_a_file_written_piece_by_piece_is_an_ordinary_one(tmp_path):
    model = read_onnx(save(tmp_path))
    assert save_onnx(model, tmp_path / "copy.onnx") is None
    written, source = onnx.load(tmp_path / "copy.onnx"), onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(written, full_check=True)
    for proto in (written, source):
        proto.graph.initializer.sort(key=lambda tensor: tensor.name)
        for tensor in proto.graph.initializer:
            array = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    assert written.graph.initializer == source.graph.initializer
    assert written.graph.node == source.graph.node
    assert written.opset_import == source.opset_import
    session = onnxruntime.InferenceSession(tmp_path / "copy.onnx", providers=["CPUExecutionProvider"])
    before = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for got, wanted in zip(session.run(None, {"x": IMAGE}), before.run(None, {"x": IMAGE}), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_every_way_to_hold_a_model_gives_the_same_files(tmp_path, monkeypatch):
    def facts(result: ExportResult) -> list[tuple[str, str, float]]:
        return [
            (each.artifact.precision, each.artifact.source_digest, round(each.comparison.cosine, 4))
            for each in result.files
        ]

    path, apart = save(tmp_path / "one"), save(tmp_path / "apart", external=True)
    plain = export(path, tmp_path / "plain")
    monkeypatch.setattr(weights, "LARGE_MODEL", 1 << 10)
    monkeypatch.setattr(weights, "LARGE_TENSOR", 1 << 6)
    assert facts(export(path, tmp_path / "large")) == facts(plain)
    monkeypatch.setattr(onnx_file, "MOST_IN_A_FILE", 1 << 10)
    split = export(apart, tmp_path / "split")
    assert facts(split) == facts(plain)
    for before, behind in zip(plain.files, split.files, strict=True):
        first, second = (
            onnxruntime.InferenceSession(each.artifact.path, providers=["CPUExecutionProvider"]).run(None, {"x": IMAGE})
            for each in (before, behind)
        )
        for wanted, got in zip(first, second, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("two_files")
def test_a_manifest_names_the_file_of_the_weights(tmp_path):
    (written,) = export(save(tmp_path), tmp_path / "out", ("fp32",)).files
    artifact = Artifact.load(written.artifact.path)
    data = artifact.weights_path
    assert data is not None
    assert data == onnx_file.data_path(artifact.path)
    assert artifact.size_bytes == artifact.path.stat().st_size + data.stat().st_size
    stated = json.loads(artifact.manifest_path.read_text())["quantization"]["weights_file"]
    assert stated["file"] == data.name
    data.write_bytes(data.read_bytes()[:-1] + b"!")
    with pytest.raises(MismatchError, match=r"model\.x86\.fp32\.onnx\.data: is not the file that its manifest"):
        Artifact.load(artifact.path)
    data.unlink()
    with pytest.raises(InputError, match=r"its weights are in model\.x86\.fp32\.onnx\.data, which is not next to it"):
        Artifact.load(artifact.path)


@pytest.mark.usefixtures("two_files")
def test_two_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    model = read_onnx(save(tmp_path))

    def fail(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "write_tensor", fail)
    with pytest.raises(InputError, match="No space left on device"):
        save_onnx(model, tmp_path / "out" / "copy.onnx")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.usefixtures("everything_is_large")
def test_computed_weights_run_from_a_temporary_file_that_goes_with_them(tmp_path):
    model = open_model(request(save(tmp_path))).model.graph
    folders = {Path(tensor.base_dir) for tensor in file_tensors(model) if isinstance(tensor, ir.ExternalTensor)}
    changed = copy_graph(model)
    name = "w2"
    doubled = np.array(WEIGHTS[name] * 2)
    changed.graph.initializers[name].const_value = ir.tensor(doubled, name=name)
    expected = nets.run(nets.parse(TEXT, {**WEIGHTS, name: doubled}), IMAGE)
    observer = ActivationObserver(changed, ["y", "z"])
    scratch = {Path(tensor.base_dir) for tensor in file_tensors(changed) if isinstance(tensor, ir.ExternalTensor)}
    assert len(scratch) == 1
    assert scratch != folders
    found = observer.observe({"x": IMAGE})
    for key, wanted in zip(("y", "z"), expected, strict=True):
        np.testing.assert_allclose(found[key], wanted, rtol=1e-4, atol=1e-4)
    (folder,) = scratch
    assert folder.is_dir()
    del observer, changed
    gc.collect()
    assert not folder.exists()


@pytest.mark.usefixtures("everything_is_large")
def test_what_is_missing_or_cut_short_is_named(tmp_path):
    path = save(tmp_path / "apart", external=True)
    data = path.with_name("weights.bin")
    content = data.read_bytes()
    data.write_bytes(content[:-8])
    with pytest.raises(InputError, match=r"does not lie in weights\.bin of \d+ bytes as it says; the file is"):
        read_onnx(path)
    data.unlink()
    with pytest.raises(InputError, match=r"its weights are in weights\.bin, which is not in its folder; copy it there"):
        read_onnx(path)
    whole = save(tmp_path / "one")
    content = whole.read_bytes()
    for length in (len(content) - 1, len(content) // 2, 1100):
        whole.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"model\.onnx: is not a valid ONNX model .*is the file complete\?"):
            read_onnx(whole)
    whole.write_bytes(bytes([0x3F]) + content)
    with pytest.raises(InputError, match="is not a valid ONNX model"):
        read_onnx(whole)
    other = whole.with_suffix(".xml")
    other.write_text("<net/>")
    with pytest.raises(InputError, match=r"model\.xml: is not a valid ONNX model .*; wanted an \.onnx file"):
        read_onnx(other)


@pytest.mark.usefixtures("everything_is_large")
def test_a_path_that_leaves_the_folder_is_refused(tmp_path):
    path = save(tmp_path / "apart", external=True)
    (tmp_path / "weights.bin").write_bytes(path.with_name("weights.bin").read_bytes())
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../weights.bin"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(InputError, match=r"its weights are in \.\./weights\.bin, which is not in its folder"):
        read_onnx(path)
