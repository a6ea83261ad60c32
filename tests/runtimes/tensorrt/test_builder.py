"""Building over the double of four versions of TensorRT."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from edgeq.errors import EngineError, InputError, MismatchError, ModelError
from edgeq.exporting.tensorrt.cache import CalibrationCache, make_cache, parse_cache
from edgeq.runtimes.cuda import open_cuda
from edgeq.runtimes.tensorrt.build_options import BuildOptions, FromCache, FromImages, FromScales
from edgeq.runtimes.tensorrt.builder import build_plan
from tests.trt_fixtures import SCALES, image, save_net

ENTROPY = "EntropyCalibration2"
IMAGES = [image(seed)["image"] for seed in range(3)]


@pytest.fixture
def qdq(tmp_path):
    return save_net(tmp_path / "net.int8.onnx", qdq=True)


@pytest.fixture
def plain(tmp_path):
    return save_net(tmp_path / "net.fp16.onnx", qdq=False)


def build(trt, artifact, **options):
    return build_plan(trt, open_cuda(), artifact.path, artifact.inputs, BuildOptions(**options))


def header(plan):
    """What the double wrote into its plan."""
    return json.loads(plan.content[len(b"TRTDOUBLE") + 32 :].partition(b"\0")[0])


def kinds(plan):
    return {layer["name"]: layer["kind"] for layer in header(plan)["layers"]}


def cache_of(version: str, algorithm: str = ENTROPY, scales: dict[str, float] | None = None) -> CalibrationCache:
    return make_cache(SCALES if scales is None else scales, algorithm=algorithm, version=version)


def test_qdq_nodes_give_int8_in_every_version(trt, qdq):
    plan = build(trt, qdq, int8=True, fp16=True)
    assert [kinds(plan)[f"conv{index}"] for index in range(3)] == ["Int8"] * 3
    assert header(plan)["detailed"]
    assert header(plan)["pools"] == {"WORKSPACE": 1 << 30}
    assert plan.strongly_typed is trt.__version__.startswith("11")
    assert {"INT8", "FP16"} <= set(header(plan)["flags"]) or plan.strongly_typed


def test_fp32_computes_in_fp32_and_fp16_in_fp16(trt, plain):
    assert "TF32" not in header(build(trt, plain))["flags"]
    plan = build(trt, plain, fp16=True)
    assert "TF32" in header(plan)["flags"]
    if not plan.strongly_typed:
        assert set(kinds(plan).values()) == {"Half"}


def test_a_strongly_typed_file_is_built_so_where_tensorrt_can(trt, qdq):
    plan = build(trt, qdq, int8=True, fp16=True, strongly_typed=True)
    assert header(plan)["strong"] is plan.strongly_typed is (not trt.__version__.startswith("8"))


def test_scales_by_name_give_int8_without_a_calibrator(old_trt, plain):
    plan = build(old_trt, plain, int8=True, fp16=True, calibration=FromScales(SCALES))
    assert [kinds(plan)[f"conv{index}"] for index in range(3)] == ["Int8"] * 3
    assert plan.missing_scales == ()


def test_missing_scales_are_told_and_keep_layers_out_of_int8(old_trt, plain):
    some = {name: scale for name, scale in SCALES.items() if name not in ("sums1", "relu1")}
    plan = build(old_trt, plain, int8=True, fp16=True, calibration=FromScales(some))
    assert set(plan.missing_scales) == {"sums1", "relu1"}
    assert [kinds(plan)[f"conv{index}"] for index in range(3)] == ["Int8", "Half", "Half"]


@pytest.mark.parametrize("useless", [0.0, float("inf")])
def test_scales_of_no_use_are_left_out(old_trt, plain, useless):
    plan = build(old_trt, plain, int8=True, fp16=True, calibration=FromScales(SCALES | {"relu0": useless}))
    assert plan.missing_scales == ("relu0",)


def test_a_cache_of_another_version_is_restamped_and_that_is_said(old_trt, plain, caplog):
    caplog.set_level(logging.INFO, "edgeq")
    plan = build(old_trt, plain, int8=True, fp16=True, calibration=FromCache(cache_of("7.2.3")))
    assert [kinds(plan)[f"conv{index}"] for index in range(3)] == ["Int8"] * 3
    assert f"TensorRT 7203; it is used as one of {old_trt.__version__}" in caplog.text


@pytest.mark.parametrize("algorithm", [ENTROPY, "MinMaxCalibration"])
def test_a_cache_goes_to_the_calibrator_of_its_algorithm(old_trt, plain, algorithm):
    cache = cache_of(old_trt.__version__, algorithm)
    plan = build(old_trt, plain, int8=True, fp16=True, calibration=FromCache(cache))
    assert kinds(plan)["conv0"] == "Int8"


def test_a_cache_that_tensorrt_rejects_is_an_error_and_not_a_calibration(old_trt, plain, faults):
    faults.refuse_cache = True
    with pytest.raises(EngineError, match=r"rejected the calibration cache.*does not match calibrator"):
        build(old_trt, plain, int8=True, fp16=True, calibration=FromCache(cache_of("10.3.0")))


@pytest.mark.parametrize("make", [FromScales, lambda scales: FromCache(cache_of("10.3.0", ENTROPY, scales))])
def test_scales_of_another_model_are_refused(old_trt, plain, make):
    with pytest.raises(MismatchError, match=r"none of its \d+ tensors has a scale.*'other'.*another model"):
        build(old_trt, plain, int8=True, fp16=True, calibration=make({"other": 0.1}))


@pytest.mark.parametrize("algorithm", [ENTROPY, "MinMaxCalibration"])
def test_images_calibrate_on_the_board_and_leave_a_cache(old_trt, board, plain, algorithm):
    plan = build(old_trt, plain, int8=True, fp16=True, calibration=FromImages(iter(IMAGES), algorithm))
    assert [kinds(plan)[f"conv{index}"] for index in range(3)] == ["Int8"] * 3
    assert plan.cache is not None
    written = parse_cache(plan.cache, "written")
    assert written.algorithm == algorithm
    # The double uses the largest input for every tensor: the images really reached it.
    assert written.scales()["image"] == pytest.approx(max(np.abs(array).max() for array in IMAGES) / 127)
    assert board.device_bytes == 0
    assert board.streams == {}


def test_a_calibration_that_breaks_off_raises_its_error_after_the_build(old_trt, board, plain):
    def images():
        yield IMAGES[0]
        raise InputError("3 of 20 images cannot be read")

    with pytest.raises(InputError, match="3 of 20 images"):
        build(old_trt, plain, int8=True, fp16=True, calibration=FromImages(images(), ENTROPY))
    assert board.device_bytes == 0


def test_interrupting_a_calibration_interrupts(old_trt, plain):
    def images():
        yield IMAGES[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(old_trt, plain, int8=True, fp16=True, calibration=FromImages(images(), ENTROPY))


def test_no_image_is_an_error(old_trt, plain):
    with pytest.raises(InputError, match="no whole batch"):
        build(old_trt, plain, int8=True, fp16=True, calibration=FromImages(iter(()), ENTROPY))


def test_the_last_partial_batch_is_left_out(old_trt, tmp_path):
    artifact = save_net(tmp_path / "net.onnx", qdq=False, batch=None)
    loud = [array * (10 if number == 2 else 1) for number, array in enumerate(IMAGES)]
    plan = build(old_trt, artifact, int8=True, fp16=True, batch=2, calibration=FromImages(iter(loud), ENTROPY))
    scale = parse_cache(plan.cache or b"", "written").scales()["image"]
    assert scale == pytest.approx(max(np.abs(array).max() for array in loud[:2]) / 127)
    assert plan.inputs[0].shape[0] == 2
    assert header(plan)["profiles"]["image"] == [[2, 32, 32, 32]] * 3


def test_calibration_is_refused_where_tensorrt_has_none(monkeypatch, board, faults, plain):
    from tests.trt_fixtures import install

    trt = install(monkeypatch, "11.4.0.106", board, faults)
    with pytest.raises(MismatchError, match=r"11\.4\.0\.106 takes no calibration.*`route` explicit"):
        build(trt, plain, int8=True, fp16=True, calibration=FromScales(SCALES))


def test_layers_stay_in_float_on_request(old_trt, plain, caplog):
    options = {"int8": True, "fp16": True, "calibration": FromScales(SCALES)}
    plan = build(old_trt, plain, float_layers=frozenset({"conv1", "unknown"}), **options)
    assert [kinds(plan)[f"conv{index}"] for index in range(3)] == ["Int8", "Half", "Int8"]
    assert plan.float_layers == ("conv1",)
    assert "no layers named unknown" in caplog.text


def test_what_fp16_cannot_compute_stays_fp32_with_its_output(old_trt, plain, qdq, caplog):
    layers = frozenset({"conv1", "conv2"})
    assert [kinds(build(old_trt, plain, fp16=True, fp32_layers=layers))[f"conv{index}"] for index in range(3)] == [
        "Half", "Float", "Float",
    ]  # fmt: skip
    mixed = build(old_trt, qdq, int8=True, fp16=True, fp32_layers=frozenset({"conv1", "gone"}))
    assert kinds(mixed)["conv1"] == "Float"
    assert "no layers named gone to keep in FP32" in caplog.text
    assert set(kinds(build(old_trt, plain, fp32_layers=layers)).values()) == {"Float"}  # FP32 has no islands


def test_a_dla_core_takes_scales_and_no_qdq(old_trt, faults, plain, qdq):
    options = {"int8": True, "fp16": True}
    with pytest.raises(InputError, match="finds 0 DLA cores"):
        build(old_trt, plain, dla_core=0, calibration=FromScales(SCALES), **options)
    faults.dla_cores = 2
    plan = build(old_trt, plain, dla_core=1, calibration=FromScales(SCALES), **options)
    assert header(plan)["dla_core"] == 1
    with pytest.raises(MismatchError, match="DLA takes no Q/DQ"):
        build(old_trt, qdq, dla_core=0, **options)


def test_parser_errors_name_the_nodes(trt, tmp_path):
    artifact = save_net(tmp_path / "net.onnx", qdq=False, extra="Strange")
    with pytest.raises(ModelError) as caught:
        build(trt, artifact, fp16=True)
    node = "node 5" if trt.__version__.startswith("8") else "node strange (Strange)"
    assert f"{node}: No importer registered for op: Strange" in str(caught.value)


def test_a_file_that_is_no_onnx_is_refused(trt, plain):
    plain.path.write_bytes(b"QuantizeLinear? no")
    with pytest.raises(ModelError, match="Failed to parse the ONNX model"):
        build(trt, plain, fp16=True)


def test_a_build_that_returns_none_is_an_error_with_what_was_said(trt, faults, plain):
    faults.build_error = "Could not find any implementation for node conv1."
    with pytest.raises(EngineError, match=r"built no engine.*any implementation for node conv1"):
        build(trt, plain, fp16=True)
    faults.build_error = "Autotuning failed: CUDA out of memory"
    with pytest.raises(EngineError, match=r"out of memory.*`workspace`"):
        build(trt, plain, fp16=True)


def test_a_free_size_is_refused(trt, plain):
    import dataclasses

    free = dataclasses.replace(plain.inputs[0], shape=(1, 32, None, None))
    with pytest.raises(InputError, match="`size` HxW"):
        build_plan(trt, open_cuda(), plain.path, (free,), BuildOptions())


def test_the_timing_cache_is_written_and_a_foreign_one_replaced(trt, plain, tmp_path, caplog):
    path = tmp_path / "timing.cache"
    build(trt, plain, fp16=True, timing_cache=path)
    written = path.read_bytes()
    assert written == b"TIMING-" + trt.__version__.encode()
    build(trt, plain, fp16=True, timing_cache=path)
    assert caplog.text == ""
    path.write_bytes(b"of another device")
    build(trt, plain, fp16=True, timing_cache=path)
    assert "of another device or version" in caplog.text
    assert path.read_bytes() == written


def test_interrupting_a_build_ends_it(monkeypatch, trt, plain):
    from edgeq.runtimes.tensorrt import progress

    def interrupted(steps: int) -> None:
        raise KeyboardInterrupt

    class Bar:
        def __enter__(self):
            return interrupted

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(progress, "progress_bar", lambda *_arguments, **_keywords: Bar())
    if not hasattr(trt, "IProgressMonitor"):
        assert build(trt, plain, fp16=True).content
        return
    with pytest.raises(KeyboardInterrupt):
        build(trt, plain, fp16=True)


def test_a_driver_that_does_not_start_is_told(trt, faults, plain):
    faults.no_driver = True
    with pytest.raises(EngineError, match=r"made no builder.*CUDA initialization failure with error: 35"):
        build(trt, plain, fp16=True)
