"""`edgeq check --compile`: what NVIDIA's own compiler makes of a file, layer by layer against what the file plans.

The compiler is TensorRT for RTX: parser and builder of the generation of TensorRT 11, which run without a GPU. It is
not the TensorRT of a Jetson: it proves that the parser takes the file and where Q/DQ pairs become integers, no speed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.graphs.graph import WEIGHTED_OPS, read_onnx
from edgeq.exporting.tensorrt.check import STRONG_TYPING_ONLY, check_graph, first_gpu
from edgeq.exporting.tensorrt.qdq import DQ
from edgeq.results.compilation import Compilation, NodePrecision
from edgeq.runtimes.tensorrt.compile import DEFAULT_SM, Compiled, Compiler, require_library
from edgeq.runtimes.tensorrt.compiled_log import READ_VERSIONS, Kernel, is_known_version
from edgeq.runtimes.tensorrt.library import TENSORRT_RTX
from edgeq.targets import Target

if TYPE_CHECKING:
    import onnx_ir as ir

Planned = Literal["int8", "fp8", "float", "weights"]
_NARROW = ("int8", "fp8")


@dataclass(frozen=True)
class _Layer:
    """A layer of the ONNX graph: its node's name here and in the compiler, its operator, and what is planned for it.

    `dequantize` names the nodes that give its weight from few bits, and this one's scales: a kernel of its own may.
    """

    name: str
    compiled_name: str
    operator: str
    planned: Planned
    dequantize: tuple[str, ...]


def default_gpu(path: Path) -> str:
    """Returns the kind of GPU to compile a file for: `DEFAULT_SM`, or the first that computes its FP8 or FP4.

    Args:
        path: An ONNX file of any tool, or the manifest of one of ours.

    Raises:
        InputError: the file cannot be read.
        ModelError: it holds no graph.
    """
    file = Artifact.load(path).path if path.suffix == ".json" else path
    return first_gpu(read_onnx(file)) or DEFAULT_SM


def compile_file(path: Path, compiler: Compiler) -> Compilation:
    """Returns what the compiler makes of an ONNX file.

    Args:
        path: The file, of any tool.
        compiler: The compiler; it takes one file after the other.

    Raises:
        InputError: the compiler does not know the compute capability.
        ModelError: the file holds no graph.
        EngineError: the compiler cannot be imported, or its log cannot be read.
    """
    layers = _layers(path)  # first: a file that is no graph is not the compiler's fault
    compiled = compiler.compile(path)
    library = f"{TENSORRT_RTX.title} {compiled.version}".rstrip()
    if compiled.stage != "built":
        return Compilation(library, compiler.sm, compiled.stage, compiled.node, compiled.reason)
    computing = dict(_by_node(compiled.kernels))
    names = {layer.compiled_name for layer in layers}
    stored = {node: kernel.stored for kernel in compiled.kernels if kernel.stored for node in kernel.nodes}
    roles = Counter(kernel.role for kernel in compiled.kernels)
    return Compilation(
        library=library,
        sm=compiler.sm,
        stage="built",
        note=_note(compiled),
        parse_s=round(compiled.parse_s, 3),
        build_s=round(compiled.build_s, 3),
        kernels=len(compiled.kernels) - roles["synchronisation"],
        conversions=roles["conversion"],
        float_epilogues=sum(map(_has_float_epilogue, compiled.kernels)),
        fused_attention=_fused_attention(compiled.kernels),
        plan_bytes=compiled.plan_bytes,
        weights_bytes=compiled.weights_bytes,
        activation_bytes=compiled.activation_bytes,
        nodes=tuple(_compared(layer, computing.get(layer.compiled_name), stored, names) for layer in layers),
    )


def require_compiler(target: Target) -> None:
    """Checks before the files of a target are written that they can be compiled.

    Raises:
        InputError: they are not for TensorRT.
        MissingDependencyError: TensorRT for RTX is not installed.
    """
    if not target.runtimes[0].startswith("tensorrt"):
        raise InputError(f"`verify` compile: is for files of TensorRT, and {target.name} has another engine; omit it")
    require_library()


def compile_artifacts(artifacts: Sequence[Artifact]) -> dict[str, Compilation]:
    """Returns file name -> what the compiler makes of it, for the ONNX files among some; equal files are compiled once.

    Files are compiled for SM86, those of FP8 and FP4 for the first capability that computes these.

    Raises:
        EngineError: the compiler cannot be imported, or its log cannot be read.
    """
    found: dict[str, Compilation] = {}
    with ExitStack() as stack:
        compilers: dict[str, Compiler] = {}
        for artifact in artifacts:
            if artifact.format != "onnx" or artifact.digest in found:
                continue
            sm = default_gpu(artifact.path)
            if sm not in compilers:
                compilers[sm] = stack.enter_context(Compiler(sm))
            found[artifact.digest] = compile_file(artifact.path, compilers[sm])
    return {each.path.name: found[each.digest] for each in artifacts if each.digest in found}


def _note(compiled: Compiled) -> str:
    if is_known_version(compiled.version):
        return ""
    return f"the log of version {compiled.version} was read as that of {READ_VERSIONS[-1]}, the newest that edgeq knows"


def _layers(path: Path) -> list[_Layer]:
    model = read_onnx(path)
    nodes = [node for node in model.graph if node.op_type in WEIGHTED_OPS]
    # The parser calls a node without a name after its output. The check names it too, by rules of its own.
    names = [str(node.name or f"node_of_{node.outputs[0].name}") for node in nodes]
    checked = check_graph(model, (STRONG_TYPING_ONLY, 0), strongly_typed=True)
    planned: dict[str, Planned] = dict.fromkeys(checked.int8_layers, "int8")
    planned |= dict.fromkeys(checked.weight_layers, "weights")
    planned |= dict.fromkeys(checked.fp8_layers, "fp8")
    return [
        _Layer(str(node.name), name, node.op_type, planned.get(str(node.name), "float"), _dequantize(node))
        for node, name in zip(nodes, names, strict=True)
    ]


def _dequantize(node: ir.Node) -> tuple[str, ...]:
    producer = node.inputs[1].producer() if node.inputs[1] is not None else None
    return (str(producer.name), *_dequantize(producer)) if producer is not None and producer.op_type == DQ else ()


def _by_node(kernels: tuple[Kernel, ...]) -> Iterator[tuple[str, Kernel]]:
    """Yields the kernels that multiply, with the nodes that they compute; of several for a node, its own comes last.

    A kernel names the node that it multiplies for, and after it those whose epilogue it takes over.
    """
    for kernel in reversed(kernels):
        if kernel.role in ("contraction", "attention"):
            for node in kernel.nodes:
                yield node, kernel


def _compared(
    layer: _Layer, kernel: Kernel | None, stored_by: Mapping[str, str], layers: Collection[str]
) -> NodePrecision:
    precision = "" if kernel is None else kernel.precision
    kept = (stored_by[name] for name in layer.dequantize if name in stored_by)
    stored = "" if kernel is None else kernel.stored or next(kept, "")
    # What is folded, or merged with another layer, is in no kernel: nobody can say in what it would be computed.
    agrees = precision == layer.planned or {precision, layer.planned}.isdisjoint(_NARROW)
    agrees = agrees and (layer.planned != "weights" or bool(stored))
    reason = "" if agrees else _reason(layer, kernel, layers)
    return NodePrecision(layer.name, layer.operator, layer.planned, precision, stored, agrees, reason)


def _reason(layer: _Layer, kernel: Kernel | None, layers: Collection[str]) -> str:
    if kernel is None:
        return "no kernel multiplies for it alone: folded, or merged with an equal layer"
    if kernel.role == "attention":
        return "its attention is one kernel, which computes in floats: one query, or a size that has no INT8 kernel"
    others = [node for node in kernel.nodes if node in layers and node != layer.compiled_name]
    if layer.planned == "weights" and others:
        return (
            f"one kernel multiplies for it and {', '.join(others)}, which read the same; its weight is stored in floats"
        )
    return ""


def _has_float_epilogue(kernel: Kernel) -> bool:
    return kernel.role == "contraction" and kernel.precision == "int8" and "int8" not in kernel.outputs


def _fused_attention(kernels: tuple[Kernel, ...]) -> dict[str, int]:
    fused = [kernel for kernel in kernels if kernel.role == "attention"]
    return dict(Counter(f"{kernel.precision} to {', '.join(kernel.outputs)}" for kernel in fused).most_common())
