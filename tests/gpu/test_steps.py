"""The steps of `make test-gpu`: skipped with a reason without a GPU, and tried here on the pretended one."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from edgeq.exporting.artifact import Artifact
from edgeq.runtimes import open_session
from edgeq.runtimes.cuda import DeviceFacts, driver_problem
from edgeq.verbs.build import BuildRequest, build_engines
from tests.gpu import __main__ as command
from tests.gpu.refit import refit
from tests.gpu.small import relative_error, small_net
from tests.gpu.steps import ON_ANY_GPU, ON_RTX, equality, kernels, layers, validity
from tests.trt_fixtures import board, faults, rtx
from tests.trt_running import BEHAVIOUR

__all__ = ["board", "faults", "rtx"]


@pytest.fixture
def built(rtx, tmp_path):
    """A folder as the step `build` leaves it."""
    net = small_net(tmp_path / "Small")
    build_engines([net.path], BuildRequest())
    return tmp_path


def states(rows):
    return [(row.step, row.state) for row in rows]


def test_without_a_gpu_every_step_is_skipped_and_says_why(monkeypatch, capsys):
    monkeypatch.setattr(command, "driver_problem", lambda: "the driver is away")
    assert command.main() == 0
    printed = capsys.readouterr().out
    for step in (*ON_ANY_GPU, *ON_RTX):
        assert f"| {step} |  | skipped | no GPU: the driver is away |" in printed
    assert printed.splitlines()[-1].startswith("0 passed, 0 FAILED")


def test_a_gpu_that_the_library_does_not_know_is_named(rtx, board, monkeypatch):
    board.facts = DeviceFacts("NVIDIA H200", "9.0", "12.8")
    monkeypatch.setattr(command, "driver_problem", lambda: None)
    rows, why_none, why_no_rtx = command.machine()
    assert why_none is None and why_no_rtx is not None and why_no_rtx.endswith("does not know SM90")
    assert "NVIDIA H200, compute capability 9.0" in rows[0].found


def test_engines_that_compute_what_their_files_say_pass(built, board, faults):
    assert states(equality(built)) == [("equality", "passed")]
    faults.distort["float"] = 0.2
    (row,) = equality(built)
    assert row.state == "FAILED" and "of 0.001" in row.found


def test_the_library_is_asked_what_this_gpu_runs(rtx, tmp_path):
    (row,) = validity(tmp_path)
    assert row.state == "passed" and "SM86 VALID" in row.found and "SM89 INVALID" in row.found


def test_compiled_kernels_have_to_be_found_again(built, faults):
    assert states(kernels(built)) == [("kernels", "passed")]
    shutil.rmtree(built / "kernels")
    faults.refuse_kernels = True
    assert states(kernels(built)) == [("kernels", "FAILED")]


def test_the_inspector_tells_layers(built):
    (row,) = layers(built)
    assert row.state == "passed" and "fp32" in row.found


def test_exchanged_weights_have_to_show_in_the_output(rtx, tmp_path, monkeypatch):
    assert states(refit(tmp_path)) == [("refit", "passed")]
    monkeypatch.setitem(BEHAVIOUR, "Refitter.refit_cuda_engine", lambda g, this: True)  # and changes nothing
    assert states(refit(tmp_path)) == [("refit", "FAILED")]


def test_a_step_that_dies_is_a_failure_with_its_reason(tmp_path):
    (row,) = command.in_child("no such step", tmp_path, 60)
    assert row.state == "FAILED" and "KeyError: 'no such step'" in row.found


@pytest.mark.gpu
@pytest.mark.skipif(driver_problem() is not None, reason=f"no GPU: {driver_problem()}")
def test_an_engine_runs_on_the_gpu(tmp_path):
    pytest.importorskip("tensorrt_rtx")
    net = small_net(tmp_path)
    (found,) = build_engines([net.path], BuildRequest())
    inputs = {"x": np.random.default_rng(0).normal(size=(1, 8, 16, 16)).astype(np.float32)}
    with open_session(found.artifact, "tensorrt-rtx") as session:
        output = session.run(inputs)["y"]
    with open_session(Artifact.load(net.path), "onnxruntime") as session:
        assert relative_error(output, session.run(inputs)["y"]) < 1e-3
