"""What is said of layers that the compiler does not compute as planned, from kernels that are made up here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeq.exporting.artifact import Preprocessing
from edgeq.exporting.graphs.graph import read_onnx
from edgeq.exporting.onnx.weight_only import write_weight_only
from edgeq.exporting.onnx.writer import FloatModel
from edgeq.runtimes.tensorrt.compile import Compiled
from edgeq.runtimes.tensorrt.compiled_log import Kernel
from edgeq.targets import get_target
from edgeq.verbs.check_compile import compile_file
from tests.exporting import nets

TWO = """g (float[9,32] x) => (float[9,11] y, float[9,32] z) {
    [first] m = MatMul(x, w) y = Relu(m) [second] k = MatMul(x, v) z = Relu(k) }"""


class _Merging:
    """A compiler that computes both layers in one kernel, and keeps the weight of one in 4 bits."""

    sm = "SM86"

    def compile(self, path: Path) -> Compiled:
        second = next(node for node in read_onnx(path).graph if node.name == "second")
        weight = second.inputs[1]
        producer = None if weight is None else weight.producer()
        assert producer is not None
        dequantize = str(producer.name)
        kernels = (
            Kernel(dequantize, "kgen", (), ("int4",), ("fp16",), (dequantize,)),
            Kernel("second+first_myl0_1", "gemm", ("fp16",), (), ("fp16",), ("second", "first")),
        )
        return Compiled("built", "1.7", kernels=kernels)


def test_a_weight_that_is_written_out_for_a_common_kernel_is_explained(tmp_path):
    graph = nets.graph(TWO, {"w": nets.normal(0, 32, 11), "v": nets.normal(1, 32, 32)})
    model = FloatModel("net", graph, Preprocessing(height_px=8, width_px=8))
    written = write_weight_only(model, get_target("rtx"), tmp_path, "w4")
    compiler: Any = _Merging()
    first, second = compile_file(written.path, compiler).nodes
    assert (first.node, first.compiled, first.stored, first.agrees) == ("first", "fp16", "", False)
    assert (
        first.reason == "one kernel multiplies for it and second, which read the same; its weight is stored in floats"
    )
    assert (second.node, second.stored, second.agrees, second.reason) == ("second", "int4", True, "")
