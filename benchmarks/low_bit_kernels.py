"""How fast are products with weights of 2, 4 and 8 bits in ONNX Runtime, OpenVINO and LiteRT, compared with FP32?

`python -m benchmarks.low_bit_kernels` times linear layers for one row, as when a decoder writes a token, and for many,
as when it reads a text or a transformer an image. Both products take turns in one process. Five minutes of an idle CPU.
What it finds of edgeq's own files is the table by which `edgeq export` says what is slower than FP32 (`--table`).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.cases import result_parser, write_result
from edgeq.exporting.costs.low_bit_products import TABLE, LowBitProduct, write_products
from edgeq.exporting.onnx.low_bit_nodes import Form, insert_low_bit_weights
from edgeq.files import write_text
from edgeq.machine import read_machine
from edgeq.quantizers.round_nearest import round_nearest
from edgeq.schemes import PerGroup, Scheme
from edgeq.wording import counted

SHAPES = ((128, 512), (768, 3072), (2048, 8192))
ROWS = (1, 128)
ROUNDS = 11
GROUPS = (16, 32, 128)
THREADS = 1

Run = Callable[[np.ndarray], Any]


class Kernel(NamedTuple):
    """A form of weights in an engine.

    Attributes:
        title: What the table calls it.
        engine: `onnxruntime`, `openvino` or `litert`.
        bits: Of a weight.
        form: How it is stored; `None` in LiteRT, which has one form.
        group: Inputs that share a scale.
        level: Accuracy level of MatMulNBits; `None` for that of edgeq's files.
    """

    title: str
    engine: str
    bits: int
    form: Form | None
    group: int = 32
    level: int | None = None


KERNELS = (
    *(
        Kernel(f"ONNX Runtime, {bits} bits, groups of {group}", "onnxruntime", bits, "matmul_nbits", group)
        for bits in (8, 4, 2)
        for group in GROUPS
    ),
    *(
        Kernel(f"ONNX Runtime, {bits} bits, level 0", "onnxruntime", bits, "matmul_nbits", level=0)
        for bits in (8, 4, 2)
    ),
    *(
        Kernel(f"OpenVINO, {bits} bits, groups of {group}", "openvino", bits, "dequantize_linear", group)
        for bits in (8, 4)
        for group in GROUPS
    ),
    *(Kernel(f"LiteRT, 4 bits, groups of {group}", "litert", 4, None, group) for group in GROUPS[1:]),
)


def files(weight: np.ndarray, kernel: Kernel, rows: int) -> tuple[bytes, bytes]:
    """Returns files that multiply so many rows by a matrix `(in, out)`, in FP32 and in few bits."""
    if kernel.engine != "litert":
        return product(weight, None), product(weight, kernel)
    import torch

    from edgeq.exporting.tflite.convert import convert_module
    from edgeq.exporting.tflite.low_bit import in_four_bits

    inputs, outputs = weight.shape
    layer = torch.nn.Linear(inputs, outputs, bias=False)
    layer.weight = torch.nn.Parameter(torch.from_numpy(np.ascontiguousarray(weight.T)))
    whole = convert_module(layer, torch.zeros(rows, inputs), ["y"], "product")
    return whole, in_four_bits(whole, "product", {}, kernel.group)[0]


def product(weight: np.ndarray, kernel: Kernel | None) -> bytes:
    """Returns an ONNX file that multiplies by a matrix `(in, out)`, in FP32 or in few bits."""
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
    if kernel is not None and kernel.form is not None:
        scheme = Scheme(bits=kernel.bits, signed=False, symmetric=False, granularity=PerGroup(kernel.group, 1))
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
    if engine == "litert":
        return _litert(content)
    from edgeq.runtimes.openvino import OpenVinoSession

    core = OpenVinoSession.import_engine().Core()
    settings = {"INFERENCE_NUM_THREADS": THREADS, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(core.read_model(content), "CPU", settings).create_infer_request()
    return lambda rows: request.infer({"x": rows}, share_inputs=True)[0]


def _litert(content: bytes) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=THREADS)
    interpreter.allocate_tensors()
    (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(rows: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(given["index"], rows)
        interpreter.invoke()
        found: np.ndarray = interpreter.get_tensor(made["index"])
        return found

    return run


def ratio(first: Run, other: Run, rows: np.ndarray, rounds: int) -> float:
    """Returns the time of one product over another's, median over rounds in which both run."""

    def taken(run: Run) -> float:
        started = time.perf_counter()
        run(rows)
        return time.perf_counter() - started

    for run in (first, other):
        run(rows)
    return statistics.median(taken(first) / taken(other) for _ in range(rounds))


class Timed(NamedTuple):
    """What was found of a kernel.

    Attributes:
        kernel: The kernel.
        products: Its products, each over FP32's time.
        size: Of the last shape's file over FP32's.
        error: Relative error of the last shape's output.
    """

    kernel: Kernel
    products: list[LowBitProduct]
    size: float
    error: float


def timed(kernel: Kernel, shapes: Sequence[tuple[int, int]], rounds: int) -> Timed:
    """Returns a kernel's time for each shape and number of rows."""
    rng = np.random.default_rng(0)
    products, error, size = [], 0.0, 0.0
    for inputs, outputs in shapes:
        weight = rng.standard_normal((inputs, outputs)).astype(np.float32)
        for count in ROWS:
            whole, narrow = files(weight, kernel, count)
            floats, run = opened(whole, kernel.engine), opened(narrow, kernel.engine)
            rows = rng.standard_normal((count, inputs)).astype(np.float32)
            found = ratio(run, floats, rows, rounds)
            products.append(LowBitProduct(kernel.engine, kernel.bits, kernel.group, inputs, outputs, count, found))
            wanted = floats(rows)
            error = float(np.linalg.norm(run(rows) - wanted) / np.linalg.norm(wanted))
            size = len(narrow) / len(whole)
    return Timed(kernel, products, size, error)


def run(out: Path, table: Path, kernels: Sequence[Kernel] = KERNELS, shapes: Sequence[tuple[int, int]] = SHAPES,
        rounds: int = ROUNDS) -> Path:  # fmt: skip
    """Returns the file of the page.

    Args:
        out: Its folder.
        table: File for what edgeq reads: the products in the form that its files have.
        kernels: The rows.
        shapes: Inputs and outputs of the layers.
        rounds: How often both products of a pair are timed.
    """
    import onnxruntime

    from edgeq.runtimes.openvino import OpenVinoSession

    titles = [f"{inputs} x {outputs}, {counted(count, 'row')}" for inputs, outputs in shapes for count in ROWS]
    lines = [f"| weights | {' | '.join(titles)} | size | output error |", "|---|" + "---:|" * (len(titles) + 2)]
    shipped: list[LowBitProduct] = []
    for kernel in kernels:
        found = timed(kernel, shapes, rounds)
        ratios = " | ".join(f"{each.ratio:.2f}" for each in found.products)
        lines.append(f"| {kernel.title} | {ratios} | {found.size:.3f} | {found.error:.3f} |")
        print(lines[-1], flush=True)
        shipped += found.products if kernel.level is None else []
    openvino = OpenVinoSession.import_engine().__version__.partition("-")[0]
    versions = f"onnxruntime {onnxruntime.__version__}, openvino {openvino}, litert {version('ai-edge-litert')}"
    where = f"{read_machine().cpu}, {counted(THREADS, 'thread')}, {versions}"
    write_text(table, write_products(where, shipped))
    text = [
        "# Products with weights of few bits: time over FP32's in the same engine",
        "",
        *lines,
        "",
        f"Measured in turns, median of {rounds} rounds, {where}. Zero points (in LiteRT none), rounded to nearest; "
        "FP32 where the engine computes in floats. Size over FP32's and the relative error of the output for normal "
        "weights are those of the last shape. `level 0` is MatMulNBits's default, in groups of 32; edgeq writes 4.",
    ]
    return write_result(out, "low_bit_kernels.md", "\n".join(text) + "\n")


def make_parser() -> argparse.ArgumentParser:
    parser = result_parser(__doc__)
    parser.add_argument("--table", type=Path, default=TABLE, help="file for the table that edgeq reads")
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    run(arguments.out, arguments.table)


if __name__ == "__main__":
    main()
