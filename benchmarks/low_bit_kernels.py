"""How fast are products with weights of 2, 4 and 8 bits in ONNX Runtime and OpenVINO on this CPU, compared with FP32?

`python -m benchmarks.low_bit_kernels` times linear layers for one row, as when a decoder writes a token, and for many,
as when it reads a text or a transformer an image. Both products take turns in one process. Two minutes of an idle CPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.cases import result_parser, write_result
from edgeq.exporting.onnx.low_bit_nodes import Form, insert_low_bit_weights
from edgeq.machine import read_machine
from edgeq.quantizers.round_nearest import round_nearest
from edgeq.schemes import PerGroup, Scheme
from edgeq.wording import counted

SHAPES = ((768, 3072), (2048, 8192))
ROWS = (1, 128)
ROUNDS = 11
GROUP = 32
THREADS = 1

Run = Callable[[np.ndarray], Any]


class Kernel(NamedTuple):
    """A form of weights in an engine.

    Attributes:
        title: What the table calls it.
        engine: `onnxruntime` or `openvino`.
        bits: Of a weight.
        form: How it is stored.
        level: Accuracy level of MatMulNBits; `None` for that of edgeq's files.
    """

    title: str
    engine: str
    bits: int
    form: Form
    level: int | None = None


KERNELS = (
    *(Kernel(f"ONNX Runtime, {bits} bits", "onnxruntime", bits, "matmul_nbits") for bits in (8, 4, 2)),
    *(Kernel(f"ONNX Runtime, {bits} bits, level 0", "onnxruntime", bits, "matmul_nbits", 0) for bits in (8, 4, 2)),
    *(Kernel(f"OpenVINO, {bits} bits", "openvino", bits, "dequantize_linear") for bits in (8, 4)),
)


def product(weight: np.ndarray, kernel: Kernel | None) -> bytes:
    """Returns a file that multiplies by a matrix `(in, out)`, in FP32 or in few bits."""
    import onnx
    import onnx_ir as ir

    inputs, outputs = weight.shape
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["rows", width])
        for name, width in (("x", inputs), ("y", outputs))
    ]
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:], [onnx.numpy_helper.from_array(weight, "w")])
    model = ir.from_proto(
        onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 21)])
    )
    if kernel is not None:
        scheme = Scheme(bits=kernel.bits, signed=False, symmetric=False, granularity=PerGroup(GROUP, 1))
        matrix = np.ascontiguousarray(weight.T)
        insert_low_bit_weights(model, {"product": round_nearest(matrix, scheme, {})}, kernel.form)
        if kernel.level is not None:
            next(iter(model.graph)).attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", kernel.level)
    content: bytes = ir.to_proto(model).SerializeToString()
    return content


def opened(content: bytes, engine: str) -> Run:
    """Returns what multiplies rows by the matrix of a file."""
    if engine == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return lambda rows: session.run(None, {"x": rows})[0]
    from edgeq.runtimes.openvino import OpenVinoSession

    core = OpenVinoSession.import_engine().Core()
    settings = {"INFERENCE_NUM_THREADS": THREADS, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(core.read_model(content), "CPU", settings).create_infer_request()
    return lambda rows: request.infer({"x": rows}, share_inputs=True)[0]


def ratio(first: Run, other: Run, rows: np.ndarray, rounds: int) -> float:
    """Returns the time of one product over another's, median over rounds in which both run."""

    def taken(run: Run) -> float:
        started = time.perf_counter()
        run(rows)
        return time.perf_counter() - started

    for run in (first, other):
        run(rows)
    return statistics.median(taken(first) / taken(other) for _ in range(rounds))


def rows_of(kernels: Sequence[Kernel], shapes: Sequence[tuple[int, int]], rounds: int) -> Iterator[list[str]]:
    """Yields the cells of a row for each kernel."""
    rng = np.random.default_rng(0)
    for kernel in kernels:
        cells, error, size = [], 0.0, 0.0
        for inputs, outputs in shapes:
            weight = rng.standard_normal((inputs, outputs)).astype(np.float32)
            whole, narrow = product(weight, None), product(weight, kernel)
            floats, run = opened(whole, kernel.engine), opened(narrow, kernel.engine)
            for count in ROWS:
                rows = rng.standard_normal((count, inputs)).astype(np.float32)
                cells.append(f"{ratio(run, floats, rows, rounds):.2f}")
                wanted = floats(rows)
                error = float(np.linalg.norm(run(rows) - wanted) / np.linalg.norm(wanted))
            size = len(narrow) / len(whole)
        yield [kernel.title, *cells, f"{size:.3f}", f"{error:.3f}"]


def run(out: Path, kernels: Sequence[Kernel] = KERNELS, shapes: Sequence[tuple[int, int]] = SHAPES,
        rounds: int = ROUNDS) -> Path:  # fmt: skip
    """Returns the file of the table.

    Args:
        out: Its folder.
        kernels: The rows.
        shapes: Inputs and outputs of the layers.
        rounds: How often both products of a pair are timed.
    """
    import onnxruntime

    from edgeq.runtimes.openvino import OpenVinoSession

    titles = [f"{inputs} x {outputs}, {counted(count, 'row')}" for inputs, outputs in shapes for count in ROWS]
    lines = [f"| weights | {' | '.join(titles)} | size | output error |", "|---|" + "---:|" * (len(titles) + 2)]
    for cells in rows_of(kernels, shapes, rounds):
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    versions = f"onnxruntime {onnxruntime.__version__}, openvino {OpenVinoSession.import_engine().__version__}"
    text = [
        "# Products with weights of few bits: time over FP32's in the same engine",
        "",
        *lines,
        "",
        f"Measured in turns, median of {rounds} rounds, {THREADS} thread, {read_machine().cpu}; {versions}. Groups of "
        f"{GROUP} with zero points, rounded to nearest; FP32 where the engine computes in floats. Size over FP32's and "
        "the relative error of the output for normal weights are those of the last shape. `level 0` is MatMulNBits's "
        "default; edgeq writes 4.",
    ]
    return write_result(out, "low_bit_kernels.md", "\n".join(text) + "\n")


def make_parser() -> argparse.ArgumentParser:
    return result_parser(__doc__)


def main() -> None:
    run(make_parser().parse_args().out)


if __name__ == "__main__":
    main()
