"""The board's self-test over the double, and the model that it ships."""

from __future__ import annotations

import pytest

from edgeq.errors import EngineError
from edgeq.runtimes.tensorrt.selftest import CONVOLUTIONS, MODEL, run_self_test
from tests.make_device_test import build


def test_the_shipped_model_is_what_its_script_makes():
    import onnx

    onnx.checker.check_model(onnx.load(MODEL))
    assert onnx.load(MODEL) == build()


def test_it_builds_runs_inspects_and_compares(trt):
    found = run_self_test()
    assert found["int8_layers"] == CONVOLUTIONS
    assert found["tensorrt"] == trt.__version__
    assert found["gpu"] == "Orin"
    assert found["relative_error"] < 0.01
    assert found["compute_ms"] > 0


def test_float_kernels_and_wrong_outputs_show(trt, faults):
    faults.no_int8 = True
    faults.distort["explicit"] = 0.5
    found = run_self_test()
    assert found["int8_layers"] == 0
    assert found["relative_error"] > 0.3


def test_what_fails_is_told(trt, faults):
    faults.build_error = "CUDA initialization failure with error: 35"
    with pytest.raises(EngineError, match="error: 35"):
        run_self_test()
