"""TensorRT for RTX in its child process: logs that were recorded, and what a user sees of its failures."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import onnx
import pytest

from edgeq.errors import EngineError, InputError, MissingDependencyError
from edgeq.runtimes.tensorrt import compile as compiling
from edgeq.runtimes.tensorrt.compile import Compiler
from edgeq.runtimes.tensorrt.compiled_log import READ_VERSIONS, CompiledLog, is_known_version, read_log
from edgeq.runtimes.tensorrt.gpus import gpu_of
from edgeq.runtimes.tensorrt.library import TENSORRT_RTX
from tests.exporting.tensorrt.small_graphs import GRAPHS

LOGS = Path(__file__).parents[2] / "data"
needs_library = pytest.mark.skipif(
    importlib.util.find_spec(TENSORRT_RTX.module) is None,
    reason="TensorRT for RTX is not installed: pip install 'edgeq[rtx]'",
)


def read(version: str = "1.7") -> CompiledLog:
    return read_log((LOGS / f"trt_rtx_{version}.log").read_text().splitlines(), version)


def test_a_log_of_every_version_that_is_read_was_recorded():
    assert all(read(version).kernels for version in READ_VERSIONS)
    assert is_known_version("1.7.1.116") and not is_known_version("1.8.0.1")


def test_a_recorded_log_says_what_each_kernel_is():
    """CenterNet-R18 for SM86: the first four kernels, then by kind."""
    found = read()
    assert (found.weights_bytes, found.activation_bytes) == (20179976, 17244160)
    assert [(kernel.role, kernel.precision, kernel.stored, kernel.outputs) for kernel in found.kernels] == [
        ("conversion", "fp32", "int8", ("int8",)),
        ("contraction", "int8", "int8", ("fp32",)),
        ("pointwise", "fp32", "", ("int8",)),
        ("pool", "int8", "", ("int8",)),
        ("contraction", "fp16", "", ("fp16",)),
        ("attention", "int8", "", ("int8",)),
        ("contraction", "fp16", "int4", ("fp16",)),
        ("contraction", "fp16", "int8", ("fp16",)),
        ("contraction", "int8", "int8", ("fp16",)),
        ("contraction", "fp16", "", ("fp16",)),
    ]
    assert found.kernels[1].nodes[:2] == ("node_Conv_302", "image_dequantize")


@pytest.mark.parametrize(
    "lines", [[], ["Layers:", "Total Weights Memory: 1 bytes", "Total Activation Memory: 1 bytes"]]
)
def test_a_log_without_kernels_is_an_error(lines):
    with pytest.raises(EngineError, match=r"lists no kernels in a form that edgeq reads.*tensorrt-rtx-cu12==1\.7\.\*"):
        read_log(lines, "1.9.0")


@pytest.mark.parametrize("text", ["sm86", "SM86", "86", "8.6"])
def test_capabilities_are_written_in_several_ways(text):
    assert gpu_of(text) == "SM86"


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(compiling, "TENSORRT_RTX", dataclasses.replace(TENSORRT_RTX, module="no_such_package"))
    with pytest.raises(MissingDependencyError, match=r"pip install 'edgeq\[rtx\]'"):
        Compiler()


@pytest.fixture
def graph(tmp_path: Path):
    def save(name: str) -> Path:
        path = tmp_path / "net.onnx"
        onnx.save(GRAPHS[name].model(), path)
        return path

    return save


@needs_library
def test_one_process_compiles_refuses_crashes_and_goes_on(graph):
    with Compiler() as compiler:
        refused = compiler.compile(graph("Det"))
        assert (refused.stage, refused.node, refused.reason) == ("parser", "Det_0", "Det: false")
        crashed = compiler.compile(graph("scale computed"))
        assert crashed.stage == "died" and "killed by signal 11" in crashed.reason
        built = compiler.compile(graph("conv"))
        assert built.stage == "built" and built.plan_bytes > 0
        assert [kernel.precision for kernel in built.kernels if kernel.role == "contraction"] == ["int8"]


@needs_library
@pytest.mark.parametrize(("text", "advice"), [("87", "sm86 is the nearest"), ("", "choose"), ("orin", "choose")])
def test_an_unknown_capability_is_refused_by_the_library(graph, text, advice):
    with (
        Compiler(text) as compiler,
        pytest.raises(InputError, match=f"`sm` {text}: .* builds for .*sm86.*; .*{advice}"),
    ):
        compiler.compile(graph("conv"))


@needs_library
def test_a_free_batch_is_one_image_and_a_free_size_is_refused(tmp_path):
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[{shape}] x) => (float[n,4,m,k] y) { y = Relu(x) }'
    with Compiler() as compiler:
        for name, shape in (("batch", "n,4,8,8"), ("size", "n,4,h,w")):
            onnx.save(onnx.parser.parse_model(text.replace("{shape}", shape)), tmp_path / f"{name}.onnx")
        assert compiler.compile(tmp_path / "batch.onnx").stage == "built"
        with pytest.raises(InputError, match=r"input 'x' has the shape \(-1, 4, -1, -1\).* export it with `size`"):
            compiler.compile(tmp_path / "size.onnx")


@needs_library
def test_limits_of_time_and_memory_end_the_process_and_not_the_caller(graph):
    with Compiler(time_limit_s=0.001) as compiler:
        found = compiler.compile(graph("conv"))
        assert found.stage == "time" and found.reason.startswith("not done in 0.001 s, the limit")
    # Below what the library takes, and a little above it, where it fails, crashes or waits for ever.
    for limit in (20_000_000, 140_000_000):
        with Compiler(time_limit_s=20, memory_bytes=limit) as compiler:
            found = compiler.compile(graph("conv"))
            assert found.stage == "memory", found
            assert found.reason.startswith(f"out of memory of {limit / 1e9:.1f} GB; close other programs")
