"""A new file format is one module and one line: it is written, compared, read and benchmarked like those of edgeq."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from edgeq import registry
from edgeq.errors import InputError
from edgeq.exporting.tensorrt.cache import make_cache
from edgeq.sources.artifact_file import open_artifact
from edgeq.sources.formats import FORMATS, all_formats, file_format, format_of, get_format, source_format
from tests.tiny import save_conv_net

STUB = '''
"""ONNX files under another name."""

from edgeq.sources.engine_specs import read_onnx_specs
from edgeq.exporting.onnx.writer import write_fp32
from edgeq.sources.formats import FileFormat

STUB = FileFormat(
    name="stub", suffix=".stub", precisions=("fp32",), runtime="onnxruntime",
    read="edgeq_stub_format:read", write="edgeq_stub_format:write",
)


def read(path):
    return read_onnx_specs(path)


def write(job):
    import dataclasses

    written = write_fp32(job.model, job.target, job.folder)
    path = written.path.with_suffix(".stub")
    written.path.rename(path)
    written.manifest_path.unlink()
    return dataclasses.replace(written, path=path, format="stub").save()
'''


def test_a_file_whose_outputs_are_no_tensors_is_refused_in_a_line(tmp_path: Path) -> None:
    nodes = [helper.make_node("SequenceConstruct", ["image"], ["several"])]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])
    several = helper.make_tensor_sequence_value_info("several", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "sequence", [image], [several])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "sequence.onnx")
    with pytest.raises(InputError, match=r"'several' is a seq\(tensor\(float\)\); wanted a tensor of numbers"):
        open_artifact(tmp_path / "sequence.onnx")


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installs a package of one module and one entry point."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "edgeq_stub_format.py").write_text(STUB)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "edgeq_stub_format", raising=False)
    entry = EntryPoint("stub", "edgeq_stub_format:STUB", "edgeq.formats")
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry] if group == "edgeq.formats" else [])


def test_a_format_is_one_module_and_one_line(stub: None, edgeq, tmp_path: Path) -> None:
    model = save_conv_net(tmp_path / "net.onnx").path
    (tmp_path / "net.onnx.json").unlink()
    (tmp_path / "preset.toml").write_text('[preprocessing]\nheight_px = 16\nwidth_px = 16\nresize = "stretch"\n')
    export = ["export", model, "--preset", tmp_path / "preset.toml", "--out", tmp_path / "out"]
    outcome = edgeq(*export, "--format", "stub", "--precision", "fp32")
    assert outcome.code == 0, outcome
    written = tmp_path / "out" / "net.x86.fp32.stub"
    assert open_artifact(written).format == "stub"
    (tmp_path / "out" / "net.x86.fp32.stub.json").unlink()
    described = open_artifact(written)
    assert (described.format, [spec.name for spec in described.outputs]) == ("stub", ["first", "last"])
    assert "--precision int8: known are fp32 (stub)" in edgeq(*export, "--format", "stub", "--precision", "int8").error
    assert "--keep: changes no stub files" in edgeq(*export, "--format", "stub", "--keep", "Conv").error


def test_suffixes_belong_to_one_format_each(stub: None) -> None:
    formats = all_formats()
    assert {each.name for each in formats} == {*FORMATS, "stub"}
    assert [format_of(each.suffix) for each in formats] == formats
    assert format_of(".pb") is None


def test_an_unknown_format_is_named() -> None:
    with pytest.raises(InputError, match="unknown format 'gguf'; known: onnx, openvino, tensorrt-cache, tflite"):
        get_format("gguf")


def test_a_calibration_cache_is_a_format_that_accompanies_a_model(edgeq, tmp_path: Path) -> None:
    cache = make_cache({"image": 0.5, "a b: c": 0.25})
    path = tmp_path / "net.int8.cache"
    path.write_bytes(cache.render())
    found = format_of(".cache")
    assert found is not None and found.function("read")(path) == cache
    with pytest.raises(InputError, match=r"does not say enough without one \(\.onnx, \.xml, \.tflite\)"):
        open_artifact(path)
    model = save_conv_net(tmp_path / "net.onnx").path
    error = edgeq("export", model, "--format", found.name, "--target", "jetson-orin", "--out", tmp_path / "out").error
    assert "--format tensorrt-cache: the target jetson-orin takes onnx" in error


def test_the_functions_of_every_format_exist() -> None:
    for each in map(get_format, FORMATS):
        assert callable(each.function("read")) and callable(each.function("write"))
        assert all(callable(each.function(role)) for role in ("open", "convert", "observe") if getattr(each, role))
    with pytest.raises(InputError, match="format 'onnx': has no function to convert it"):
        get_format("onnx").function("convert")


def test_a_model_is_opened_in_the_format_of_its_file(stub: None) -> None:
    references = {"net.onnx": "onnx", "a/net.tflite": "tflite", "centernet_resnet18": "onnx", "pack.mod:net": "onnx"}
    assert {reference: source_format(reference).name for reference in references} == references
    # Nothing can start from a format that has no function to open it; a cache is no model.
    assert [file_format(name) for name in ("net.stub", "net.cache", "centernet_resnet18")] == [None, None, None]
