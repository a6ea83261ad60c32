"""Opening, cleaning, identifying and writing ONNX graphs. The in-memory form is onnx-ir's `ir.Model`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeq.errors import InputError, MissingDependencyError, ModelError
from edgeq.exporting.artifact import TensorSpec
from edgeq.files import atomic_path

if TYPE_CHECKING:
    import onnx_ir as ir

MIN_OPSET = 13
"""First opset whose QuantizeLinear has an axis, which per-channel weights need."""

_SPLIT_CHANGED = 18

WEIGHTED_OPS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def require_onnx(purpose: str) -> None:
    """Checks that the packages of the `export` extra that every graph pass needs are there.

    Raises:
        MissingDependencyError: onnx or onnx-ir is not installed.
    """
    for package in ("onnx", "onnx_ir", "onnxscript"):
        try:
            __import__(package)
        except ImportError:
            raise MissingDependencyError(package.replace("_", "-"), "export", purpose) from None


def read_onnx(path: Path) -> ir.Model:
    """Returns the checked model of an `.onnx` file.

    Raises:
        InputError: the file is missing, cut short or not ONNX.
        ModelError: the model has no graph that edgeq can work on.
    """
    require_onnx("reading an ONNX file")
    import onnx
    import onnx_ir as ir
    from google.protobuf.message import DecodeError

    if not path.is_file():
        raise InputError(f"{path}: no such file; expected an ONNX model")
    try:
        proto = onnx.load(path)
        onnx.checker.check_model(proto)
    except (DecodeError, onnx.checker.ValidationError, OSError, ValueError) as error:
        raise InputError(f"{path}: is not a valid ONNX model ({_first_line(error)}); is the file complete?") from error
    if not proto.graph.node:
        raise ModelError(f"{path}: the model has no nodes")
    return ir.from_proto(proto)


def convert_opset(model: ir.Model, opset: int) -> ir.Model:
    """Returns `model` in the given ONNX opset; the same object where nothing has to change.

    Raises:
        ModelError: a node has no equivalent in that opset.
    """
    import onnx
    import onnx_ir as ir

    if opset_of(model) == opset:
        return model
    if opset < _SPLIT_CHANGED <= opset_of(model):
        _slice_instead_of_split(model)
    try:
        proto = onnx.version_converter.convert_version(ir.to_proto(model), opset)
        for node in proto.graph.node:
            # onnx 1.23 leaves it behind on the way down to 17. Zero is its default.
            kept = [each for each in node.attribute if (each.name, each.i) != ("noop_with_empty_axes", 0)]
            del node.attribute[:]
            node.attribute.extend(kept)
        onnx.checker.check_model(proto)
    except (RuntimeError, onnx.checker.ValidationError) as error:
        raise ModelError(
            f"the model cannot be converted from opset {opset_of(model)} to {opset} ({_first_line(error)}); "
            "choose another `opset`"
        ) from error
    return ir.from_proto(proto)


def opset_of(model: ir.Model) -> int:
    """Returns the version of the default ONNX operator set."""
    return model.graph.opset_imports.get("", 0)


def clean(model: ir.Model) -> None:
    """Brings a graph into the form that all passes expect, in place.

    1. Functions are inlined, what is computed from constants alone is a constant, constants are initializers, and
       initializers are not inputs.
    2. Identity and Dropout nodes and everything unused are gone, and so is documentation: an exporter's stack traces
       name the folders of the machine it ran on.
    3. Every node and value has a name of its own, and shapes are inferred.
    """
    import onnx_ir as ir
    import onnx_ir.passes.common as passes
    from onnxscript.optimizer import fold_constants

    _bypass_dropout(model)
    passes.InlinePass()(model)
    fold_constants(model)
    ir.passes.Sequential(
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.RemoveInitializersFromInputsPass(),
        passes.IdentityEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.ClearMetadataAndDocStringPass(),
        passes.TopologicalSortPass(),
        passes.NameFixPass(),
    )(model)
    infer_shapes(model)


def drop_unused(model: ir.Model) -> None:
    """Removes nodes and initializers that nothing reads, in place."""
    import onnx_ir.passes.common as passes

    passes.RemoveUnusedNodesPass()(model)


def infer_shapes(model: ir.Model) -> None:
    """Infers the shapes of all values, in place."""
    import onnx_ir.passes.common as passes

    passes.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)


def make_static(model: ir.Model, batch: int = 1) -> None:
    """Replaces a free batch dimension of every input by `batch`, in place.

    Raises:
        ModelError: an input has another free dimension; the message says which.
    """
    import onnx_ir as ir

    for value in model.graph.inputs:
        if value.shape is None:
            raise ModelError(f"input {value.name!r} has no shape; export the model with a static input shape")
        dims = [dim if isinstance(dim, int) else None for dim in value.shape]
        if dims and dims[0] is None:
            dims[0] = batch
        if None in dims:
            raise ModelError(
                f"input {value.name!r} has the free shape {value.shape}; give its height and width with `size` HxW"
            )
        value.shape = ir.Shape([dim for dim in dims if dim is not None])


def set_input_size(model: ir.Model, height_px: int, width_px: int) -> None:
    """Gives free height and width of the image input `(N, C, H, W)` a value, in place.

    Raises:
        ModelError: the model is fixed to another size.
    """
    import onnx_ir as ir

    value = model.graph.inputs[0]
    if value.shape is None or len(value.shape) != 4:
        raise ModelError(f"input {value.name!r} has shape {value.shape}, wanted an image batch (N, 3 or 1, H, W)")
    for found, wanted in zip(value.shape[2:], (height_px, width_px), strict=True):
        if isinstance(found, int) and found != wanted:
            raise ModelError(f"the model is fixed to {value.shape}; omit `size` or export the model again")
    value.shape = ir.Shape([*value.shape[:2], height_px, width_px])


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


def save_onnx(model: ir.Model, path: Path) -> None:
    """Writes the model to `path`, whole or not at all.

    Raises:
        InputError: the file cannot be written.
        ModelError: the graph is not valid ONNX.
    """
    import onnx
    import onnx_ir as ir

    proto = ir.to_proto(model)
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"{path.name}: the graph to write is not valid ONNX ({_first_line(error)})") from error
    with atomic_path(path) as temporary:
        temporary.write_bytes(proto.SerializeToString(deterministic=True))


def _slice_instead_of_split(model: ir.Model) -> None:
    """Replaces every Split of known lengths by Slices, in place: the converter knows no way down for opset 18's."""
    import onnx_ir as ir

    for node in walk(model):
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
        source = node.inputs[0]
        if node.op_type != "Split" or source is None:
            continue
        lengths = [output.shape[axis] for output in node.outputs if output.shape is not None]
        ends = list(itertools.accumulate(length for length in lengths if isinstance(length, int)))
        if len(ends) < len(node.outputs):
            continue
        for start, end, output in zip([0, *ends[:-1]], ends, list(node.outputs), strict=True):
            window = [
                new_initializer(model, f"{output.name}_{part}", np.array([number], np.int64))
                for part, number in (("start", start), ("end", end), ("axis", axis))
            ]
            piece = ir.node("Slice", [source, *window], name=f"{output.name}_slice")
            model.graph.insert_before(node, piece)
            name, result = output.name, piece.outputs[0]
            result.shape, result.type = output.shape, output.type
            output.replace_all_uses_with(result, replace_graph_outputs=True)
            output.name, result.name = f"{name}_split", name
        model.graph.remove(node, safe=True)


def _bypass_dropout(model: ir.Model) -> None:
    for node in walk(model):
        if node.op_type == "Dropout" and node.inputs[0] is not None:
            node.outputs[0].replace_all_uses_with(node.inputs[0], replace_graph_outputs=True)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
