"""Reading, asking and writing ONNX graphs. The in-memory form is onnx-ir's `ir.Model`."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeq.errors import EdgeqError, InputError, MissingDependencyError, ModelError
from edgeq.exporting.graphs.onnx_file import (
    data_path,
    load_skeleton,
    load_small,
    require_data,
    require_text,
    require_whole_tensors,
    without_data,
    write_large,
)
from edgeq.exporting.graphs.subgraphs import forget_removed_readers
from edgeq.exporting.graphs.weights import lie_in, to_skeleton
from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.files import atomic_path

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

MIN_OPSET = 13
"""First opset whose QuantizeLinear has an axis, which per-channel weights need."""

_LONG_NAME = "ai.onnx"
_DEPRECATED = "is deprecated in domain_version"

WEIGHTED_OPS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def require_onnx(purpose: str) -> None:
    """Checks that the packages of the `onnx` extra, which every graph pass needs, are there.

    Raises:
        MissingDependencyError: onnx or onnx-ir is not installed.
    """
    for package in ("onnx", "onnx_ir", "onnxscript"):
        try:
            __import__(package)
        except ImportError:
            raise MissingDependencyError(package.replace("_", "-"), "onnx", purpose) from None


def require_file(path: Path) -> None:
    """Checks that an ONNX file is there.

    Raises:
        InputError: it is not.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected an ONNX model")


def read_onnx(path: Path) -> ir.Model:
    """Returns the checked model of an `.onnx` file; large tensors stay in the file until they are asked for.

    Raises:
        InputError: the file is missing, cut short or not ONNX, or its weights are not where it says.
        ModelError: the model has no graph that edgeq can work on.
    """
    require_onnx("reading an ONNX file")
    import onnx
    import onnx_ir as ir

    require_file(path)
    try:
        proto = load_skeleton(path)
        require_text(proto)
        _use_default_domain(proto)
        try:
            onnx.checker.check_model(without_data(proto))
        except onnx.checker.ValidationError as error:
            if _DEPRECATED not in str(error):  # the passes replace such operators, or name them
                raise
        if not proto.graph.node:
            raise ModelError(f"{path}: the model has no nodes")
        require_data(proto, path)
        load_small(proto, path.parent)
        require_whole_tensors(proto)
        model = ir.from_proto(proto)
    except EdgeqError:
        raise
    except Exception as error:  # protobuf, onnx and onnx_ir raise whatever a damaged file makes them trip over
        advice = "is the file complete?" if path.suffix == ".onnx" else "wanted an .onnx file"
        raise InputError(f"{path}: is not a valid ONNX model ({first_line(error)}); {advice}") from error
    lie_in(model, path.parent)
    return model


def copy_graph(model: ir.Model) -> ir.Model:
    """Returns a copy that a pass may change; both read the same large tensors, which nothing writes to."""
    return model.clone()


def _use_default_domain(proto: onnx.ModelProto) -> None:
    """Gives ONNX's own operators the domain "", in place: "ai.onnx" means the same."""
    graphs = [proto.graph, *proto.functions]
    while graphs:
        for node in graphs.pop().node:
            node.domain = "" if node.domain == _LONG_NAME else node.domain
            graphs += [graph for each in node.attribute for graph in (each.g, *each.graphs) if graph.node]
    for opset in (each for owner in (proto, *proto.functions) for each in owner.opset_import):
        opset.domain = "" if opset.domain == _LONG_NAME else opset.domain


def opset_of(model: ir.Model) -> int:
    """Returns the version of the default ONNX operator set."""
    return model.graph.opset_imports.get("", 0)


def fold_constants(model: ir.Model, should_fold: Callable[[ir.Node], bool | None] = lambda node: None) -> None:
    """Computes what depends on constants alone, in place, as far as onnxscript can; what it cannot stays, in silence.

    Args:
        model: Any graph.
        should_fold: Whether a node may be folded; `None` leaves it to onnxscript.
    """
    from onnxscript import optimizer

    log = logging.getLogger("onnxscript")
    level = log.level
    log.setLevel(logging.ERROR)  # it warns of each node that has several outputs
    try:
        optimizer.fold_constants(model, should_fold=should_fold)
    finally:
        log.setLevel(level)


@functools.cache
def _is_tensor(op_type: str, opset: int, position: int) -> bool:
    """Returns whether an output of an ONNX operator can be a tensor, by its declaration."""
    import onnx

    if not onnx.defs.has(op_type, opset, ""):
        return True
    outputs = onnx.defs.get_schema(op_type, opset, "").outputs
    return not outputs or any(each.startswith("tensor(") for each in outputs[min(position, len(outputs) - 1)].types)


def drop_unused(model: ir.Model) -> None:
    """Removes nodes and initializers that nothing reads, in place."""
    import onnx_ir.passes.common as passes

    remove = passes.RemoveUnusedNodesPass()
    forget_removed_readers(model)
    while remove(model).modified and forget_removed_readers(model):
        pass  # what the subgraphs of a removed node alone have read is unused too


_INVENTED = "unk__"
"""How onnx's shape inference begins the names of lengths that it does not know."""


def infer_shapes(model: ir.Model) -> None:
    """Infers the shapes of all values, in place, lengths that an earlier inference did not find among them.

    Sequences and optional values have none.
    """
    import onnx_ir as ir
    import onnx_ir.passes.common as passes

    for value in (output for node in model.graph for output in node.outputs):
        forget_lengths(value, lambda name: name.startswith(_INVENTED))
    for value in model.graph.initializers.values():
        if value.const_value is not None:  # onnxscript keeps what was known before it was one
            value.shape = ir.Shape(value.const_value.shape.numpy())
    passes.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    opset = opset_of(model)
    # The pass gives everything the type of a tensor.
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for position, value in enumerate(node.outputs if node.domain == "" else ()):
            if not _is_tensor(node.op_type, opset, position):
                value.type = value.shape = None


def forget_lengths(value: ir.Value, is_meant: Callable[[str], bool]) -> None:
    """Takes the names of some free lengths from a value, in place: shape inference would keep them."""
    import onnx_ir as ir

    if value.shape is not None and not value.shape.is_static():
        dims = [dim if isinstance(dim, int) else dim.value for dim in value.shape]
        value.shape = ir.Shape([None if isinstance(dim, str) and is_meant(dim) else dim for dim in dims])


def specs(values: Sequence[ir.Value]) -> tuple[TensorSpec, ...]:
    """Returns name, dtype and shape of graph inputs or outputs; free dimensions are `None`."""
    result = []
    for value in values:
        if value.dtype is None or value.shape is None or value.name is None:
            raise ModelError(f"{value.name!r} has no known type and shape; run shape inference on the model first")
        shape = tuple(dim if isinstance(dim, int) else None for dim in value.shape)
        result.append(TensorSpec(value.name, str(value.dtype.numpy()), shape))
    return tuple(result)


def constant(value: ir.Value | None) -> np.ndarray | None:
    """Returns the array behind an initializer, or `None` for anything else."""
    if value is None or value.const_value is None or not value.is_initializer():
        return None
    array: np.ndarray = value.const_value.numpy()
    return array


def weight_of(node: ir.Node) -> np.ndarray | None:
    """Returns the constant weight of a weighted node, or `None` (a MatMul of two activations has none)."""
    return constant(node.inputs[1]) if node.op_type in WEIGHTED_OPS and len(node.inputs) > 1 else None


def multiplies_activations(node: ir.Node) -> bool:
    """Returns whether a node is a MatMul of two activations, as an attention has two."""
    return node.op_type == "MatMul" and weight_of(node) is None


def kernel_positions(layer: ir.Node) -> int:
    """Returns the positions of a convolution's kernel, 49 for one of 7 x 7; 1 for other layers."""
    shape = layer.inputs[1].shape if layer.op_type == "Conv" and layer.inputs[1] is not None else None
    return 1 if shape is None else math.prod(dim for dim in shape[2:] if isinstance(dim, int))


def data_inputs(node: ir.Node) -> list[ir.Value]:
    """Returns the inputs of a node that are computed from the image, in order and without repetition."""
    found: dict[int, ir.Value] = {}
    for value in node.inputs:
        if value is not None and (value.producer() is not None or value.is_graph_input()):
            found[id(value)] = value
    return list(found.values())


def walk(model: ir.Model) -> Iterator[ir.Node]:
    """Yields the nodes of the main graph in their order; safe while nodes are added or removed."""
    yield from list(model.graph)


def new_initializer(model: ir.Model, name: str, array: np.ndarray) -> ir.Value:
    """Returns a new initializer of the main graph; its name gets a suffix where it is taken."""
    import onnx_ir as ir

    unique, count = name, 0
    while unique in model.graph.initializers:
        count += 1
        unique = f"{name}_{count}"
    value = ir.Value(
        name=unique,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        const_value=ir.tensor(np.array(array, order="C"), name=unique),
    )
    model.graph.register_initializer(value)
    return value


def save_onnx(model: ir.Model, path: Path) -> Path | None:
    """Writes the model to `path`, whole or not at all, and returns the file of its weights if they lie beside it.

    Raises:
        InputError: the file cannot be written.
        ModelError: the graph is not valid ONNX.
    """
    import onnx

    proto, tensors = to_skeleton(model, data_path(path).name)
    try:
        onnx.checker.check_model(without_data(proto))
    except onnx.checker.ValidationError as error:
        raise ModelError(f"{path.name}: the graph to write is not valid ONNX ({first_line(error)})") from error
    if tensors:
        return write_large(proto, tensors, path)
    with atomic_path(path) as temporary:
        temporary.write_bytes(proto.SerializeToString(deterministic=True))
    return None


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, cut to 200 characters, or the name of its type."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
