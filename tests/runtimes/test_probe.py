"""The file that `edgeq doctor` runs, and what it finds out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import cast

import numpy as np
import pytest

from edgeq.errors import InputError
from edgeq.exporting.tflite.graph import read_graph
from edgeq.machine import read_machine
from edgeq.runtimes import RUNTIMES, get_runtime, is_installed
from edgeq.runtimes.probe import EXPECTED, INPUT, ONNX, TFLITE, probe
from tests import exact

ENGINES = {"litert": "ai-edge-litert"}


def test_the_shipped_file_is_what_the_script_builds():
    import onnx

    from tests.make_probe import build, build_tflite

    onnx.checker.check_model(build(), full_check=True)
    assert onnx.load(ONNX.path) == build()
    assert read_graph(TFLITE.path.read_bytes(), "probe") == read_graph(build_tflite(), "probe")


def test_the_expected_result_is_that_of_the_reference():
    from onnx.reference import ReferenceEvaluator

    outputs = cast(list[np.ndarray], ReferenceEvaluator(str(ONNX.path)).run(None, {"input": INPUT}))
    np.testing.assert_allclose(outputs[0], EXPECTED, rtol=1e-6)


def runs_files(name):
    """Returns whether a runtime runs model files, and not engines that were built from them."""
    return not {"onnx", "tflite"}.isdisjoint(get_runtime(name).formats)


@pytest.mark.kernels
@pytest.mark.parametrize("runtime", [name for name in RUNTIMES if is_installed(name) and runs_files(name)])
def test_engines_add_up_int8_products_exactly_where_the_cpu_can(runtime):
    result = probe(runtime)
    if exact.KERNELS_ARE_EXACT or runtime == "litert":
        assert result["relative_error"] < 1 / 200
    else:
        assert result["relative_error"] == pytest.approx(0.5, abs=0.02)
    assert result["environment"]["engine"].startswith(ENGINES.get(runtime, runtime))


@pytest.mark.skipif(not is_installed("openvino"), reason="openvino is not installed")
@pytest.mark.skipif("avx2" not in read_machine().cpu_features, reason="an x86 CPU is needed")
def test_saturation_without_vnni_is_seen():
    """OpenVINO's kernels for CPUs of the AVX2 generation, which oneDNN's own variable asks for."""
    done = subprocess.run(
        [sys.executable, "-m", "edgeq.runtimes.probe", "openvino"],
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["relative_error"] == pytest.approx(0.5, abs=0.02)


def test_an_engine_that_is_not_known_is_refused():
    with pytest.raises(InputError, match="unknown runtime"):
        probe("tensorflow")
