"""`edgeq export --target jetson-orin`: the files of both routes, and ranges from a cache."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest

from edgeq.calibration.source import CalibrationSource
from edgeq.errors import InputError, MismatchError, MissingDependencyError
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.options import ExportOptions
from edgeq.exporting.tensorrt.cache import make_cache, parse_cache
from edgeq.files import sha256_file, write_bytes
from edgeq.runtimes.tensorrt import compile as compiling
from edgeq.runtimes.tensorrt.library import TENSORRT_RTX
from edgeq.sources.model import ModelRequest
from edgeq.targets import get_target
from edgeq.verbs.export import ExportResult, export_model

VERIFY: Literal["compile"] | None = None if importlib.util.find_spec(TENSORRT_RTX.module) is None else "compile"


def request_for(model: Path, target: str) -> ModelRequest:
    return ModelRequest(str(model), preset="centernet", opset=get_target(target).rules.opset)


@pytest.fixture(scope="module")
def calibration(drawn) -> CalibrationSource:
    return CalibrationSource(drawn.annotations, drawn.folder)


@pytest.fixture(scope="module")
def exported(small_onnx, calibration, tmp_path_factory) -> ExportResult:
    folder = tmp_path_factory.mktemp("jetson")
    return export_model(
        request_for(small_onnx, "jetson-orin"), "jetson-orin", ("fp16", "int8"), folder, calibration=calibration
    )


def by_precision(result: ExportResult) -> dict[str, Artifact]:
    return {file.artifact.precision: file.artifact for file in result.files}


def initializers(path: Path) -> dict[str, np.ndarray]:
    return {value.name: onnx.numpy_helper.to_array(value) for value in onnx.load(path).graph.initializer}


def test_int8_brings_the_cache_and_the_float_file_that_the_cache_is_for(exported):
    artifacts = by_precision(exported)
    assert list(artifacts) == ["fp32", "fp16", "int8"]
    facts = artifacts["int8"].quantization["calibration_cache"]
    assert facts["float_file"] == artifacts["fp32"].name
    path = artifacts["int8"].path.with_name(facts["file"])
    assert facts["digest"] == sha256_file(path)
    cache = parse_cache(path.read_bytes(), path.name)
    assert (cache.version, cache.algorithm) == (100300, "EntropyCalibration2")
    assert facts["tensors"] == len(cache.bits)
    # Every activation that the explicit file quantizes is a tensor of the float file with the very same scale.
    graph = onnx.load(artifacts["int8"].path).graph
    scales = initializers(artifacts["int8"].path)
    activations = {
        node.input[0]: node.input[1]
        for node in graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] not in scales
    }
    assert len(activations) > 15
    assert {name: float(scales[scale]) for name, scale in activations.items()}.items() <= cache.scales().items()
    tensors = {name for node in onnx.load(artifacts["fp32"].path).graph.node for name in (*node.input, *node.output)}
    assert set(cache.bits) <= tensors


def test_header_follows_the_method(small_onnx, drawn, tmp_path):
    result = export_model(
        request_for(small_onnx, "jetson-orin"), "jetson-orin", ("int8",), tmp_path,
        calibration=CalibrationSource(drawn.annotations, drawn.folder, method="minmax"),
    )  # fmt: skip
    facts = by_precision(result)["int8"].quantization["calibration_cache"]
    assert facts["algorithm"] == "MinMaxCalibration"
    assert (tmp_path / facts["file"]).read_bytes().startswith(b"TRT-100300-MinMaxCalibration\n")


def test_fp16_is_left_to_the_engine(exported):
    artifacts = by_precision(exported)
    for name, array in initializers(artifacts["fp32"].path).items():
        np.testing.assert_array_equal(initializers(artifacts["fp16"].path)[name], array)


def test_deconvolutions_and_heads_stay_float_and_biases_with_them(exported):
    facts = by_precision(exported)["int8"].quantization
    assert sorted(set(facts["float_nodes"].values())) == [
        "last convolution of a head", "the target leaves ConvTranspose in float"
    ]  # fmt: skip
    graph = onnx.load(by_precision(exported)["int8"].path).graph
    assert {value.data_type for value in graph.initializer} == {onnx.TensorProto.FLOAT, onnx.TensorProto.INT8}


def test_deconvolutions_on_demand(small_onnx, exported, tmp_path):
    assert exported.ranges_path is not None
    source = CalibrationSource(exported.ranges_path)
    request = request_for(small_onnx, "jetson-orin")
    result = export_model(
        request, "jetson-orin", ("int8",), tmp_path, calibration=source, options=ExportOptions(int8_deconv=True)
    )
    facts = by_precision(result)["int8"].quantization
    assert set(facts["float_nodes"].values()) == {"last convolution of a head"}
    with pytest.raises(InputError, match="runs ConvTranspose in INT8 by itself"):
        export_model(request, "x86", ("int8",), tmp_path, calibration=source, options=ExportOptions(int8_deconv=True))


def test_deconvolutions_on_demand_are_rewritten_where_the_compiler_computes_them_in_float(
    small_onnx, exported, tmp_path
):
    source = CalibrationSource(exported.ranges_path)
    request, options = request_for(small_onnx, "jetson-orin-trt11"), ExportOptions(int8_deconv=True)
    result = export_model(
        request, "jetson-orin-trt11", ("int8",), tmp_path, calibration=source, options=options, verify=VERIFY
    )
    (file,) = result.files
    assert file.artifact.quantization["rewritten_conv_transpose"] == 3
    nodes = onnx.load(file.artifact.path).graph.node
    assert "ConvTranspose" not in {node.op_type for node in nodes}
    for compiled in result.compiled.values():  # none without the compiler
        assert compiled.is_built and not compiled.disagreements
        assert compiled.by_precision == {"int8": 26, "fp16": 3}  # the last convolution of each head


def test_what_cannot_be_compiled_is_told_before_anything_is_written(small_onnx, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="`verify` compile: is for files of TensorRT, and x86 has another engine"):
        export_model(request_for(small_onnx, "x86"), "x86", ("fp32",), tmp_path / "out", verify="compile")
    monkeypatch.setattr(compiling, "TENSORRT_RTX", dataclasses.replace(TENSORRT_RTX, module="no_such_package"))
    request = request_for(small_onnx, "jetson-orin")
    with pytest.raises(MissingDependencyError, match=r"pip install 'edgeq\[rtx\]'"):
        export_model(request, "jetson-orin", ("fp32",), tmp_path / "out", verify="compile")
    assert not (tmp_path / "out").exists()


def test_a_cache_gives_the_file_that_its_ranges_gave(small_onnx, exported, tmp_path):
    written = by_precision(exported)["int8"]
    cache = written.path.with_name(written.quantization["calibration_cache"]["file"])
    request = request_for(small_onnx, "jetson-orin")
    result = export_model(request, "jetson-orin", ("int8",), tmp_path, calibration=CalibrationSource(cache))
    again = by_precision(result)["int8"]
    assert again.quantization["method"] == "calibration-cache"
    found, wanted = initializers(again.path), initializers(written.path)
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, rtol=2e-7)


def test_a_cache_of_another_model_or_for_another_use_is_refused(small_onnx, tmp_path):
    request = request_for(small_onnx, "jetson-orin")
    cache = tmp_path / "other.cache"
    write_bytes(cache, make_cache({"elsewhere": 0.1}).render())
    out = tmp_path / "out"
    with pytest.raises(MismatchError, match="the ranges hold no interval for tensor"):
        export_model(request, "jetson-orin", ("int8",), out, calibration=CalibrationSource(cache))
    assert [path for path in out.iterdir() if ".int8." in path.name] == []
    with pytest.raises(InputError, match="`method` mse needs images"):
        export_model(request, "jetson-orin", ("int8",), out, calibration=CalibrationSource(cache, method="mse"))
    with pytest.raises(InputError, match="holds symmetric ranges alone"):
        export_model(request, "x86", ("int8",), out, calibration=CalibrationSource(cache))


def test_dynamic_files_are_refused_before_anything_is_written(small_onnx, tmp_path):
    with pytest.raises(InputError, match="jetson-orin take no dynamic INT8 files"):
        export_model(request_for(small_onnx, "jetson-orin"), "jetson-orin", ("dynamic",), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tensorrt_11_gets_fp16_throughout(small_onnx, exported, tmp_path):
    assert exported.ranges_path is not None
    target = "jetson-orin-trt11"
    result = export_model(
        request_for(small_onnx, target), target, ("fp32", "fp16", "int8"), tmp_path,
        calibration=CalibrationSource(exported.ranges_path),
    )  # fmt: skip
    artifacts = by_precision(result)
    assert not list(tmp_path.glob("*.cache"))
    assert {spec.dtype for spec in (*artifacts["int8"].inputs, *artifacts["int8"].outputs)} == {"float32"}
    for precision in ("fp16", "int8"):
        assert all(array.dtype != np.float32 for array in initializers(artifacts[precision].path).values())
    cosines = {file.artifact.precision: file.comparison.cosine for file in result.files}
    assert cosines["fp16"] > 0.99999
    assert cosines["int8"] > 0.95  # random weights: .988 with FP32 scales


def test_an_opset_without_fp16_scales_is_refused(small_onnx, tmp_path):
    request = request_for(small_onnx, "jetson-orin")
    with pytest.raises(InputError, match="opset 17: Q/DQ nodes take FP16 scales from opset 19 on"):
        export_model(request, "jetson-orin-trt11", ("fp32",), tmp_path)


def test_the_command_names_the_cache_and_what_the_board_does_with_it(edgeq, small_onnx, exported, tmp_path):
    assert exported.ranges_path is not None
    done = edgeq(
        "export", small_onnx, "--preset", "centernet", "--target", "jetson-orin", "--precision", "int8",
        "--calib", exported.ranges_path, "--int8-deconv", "--out", tmp_path,
    )  # fmt: skip
    assert done.code == 0, done
    (line,) = [line for line in done.out.splitlines() if "small.jetson-orin.int8.cache" in line]
    assert "scales for small.jetson-orin.fp32.onnx, under the header of TensorRT 10.3.0; edgeq build writes" in line
    assert "the target leaves ConvTranspose in float" not in done.out
