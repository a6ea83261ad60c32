"""Large weights: left in the files where they lie, and handed to engines there.

A model of gigabytes is never in memory twice: copies of a graph share their large tensors, an engine maps the same
file, and what was read is given back. Small models are not touched by any of it.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

LARGE_TENSOR = 1 << 16
"""Bytes from which a tensor is left where it is, in a large model."""

LARGE_MODEL = 1 << 26
"""Bytes of weights from which a model is large."""

ALIGNMENT = 64
_CHUNK = 1 << 24
_NUMPY_KINDS = "biuf"


def large_tensors(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    """Returns name -> tensor of the large initializers of a large model; none for any other.

    Types that numpy does not have by itself (bfloat16, 4-bit integers) are left out.
    """
    tensors = {
        name: value.const_value
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
        and value.const_value.dtype.numpy().kind in _NUMPY_KINDS
        and value.const_value.dtype.bitwidth >= 8
    }
    if sum(tensor.nbytes for tensor in tensors.values()) < LARGE_MODEL:
        return {}
    return {name: tensor for name, tensor in tensors.items() if tensor.nbytes >= LARGE_TENSOR}


def to_skeleton(model: ir.Model, location: str) -> tuple[onnx.ModelProto, dict[str, ir.TensorProtocol]]:
    """Returns a model as a message, and its large tensors, which it names as external data in this order.

    Args:
        model: The model; it is not changed.
        location: Name of the file that the tensors are said to lie in.
    """
    tensors = large_tensors(model)
    try:
        _place(model, tensors, location, "")
        return _message(model, tensors), tensors
    finally:
        for name, tensor in tensors.items():
            model.graph.initializers[name].const_value = tensor


def _message(model: ir.Model, outside: Collection[str]) -> onnx.ModelProto:
    """Returns a model as a message that holds all its constants but those named in `outside`, which lie in files."""
    import onnx_ir as ir

    lying = {str(value.name): value.const_value for value in _external(model) if value.name not in outside}
    try:
        for name, tensor in lying.items():
            model.graph.initializers[name].const_value = ir.tensor(np.array(tensor.numpy()), name=name)
        return ir.to_proto(model)
    finally:
        for name, tensor in lying.items():
            model.graph.initializers[name].const_value = tensor


def _place(
    model: ir.Model, tensors: Mapping[str, ir.TensorProtocol], location: str, folder: Path | str
) -> list[ir.ExternalTensor]:
    """Lets tensors of a model lie in a file, one behind the other, and returns them."""
    import onnx_ir as ir

    placed, offset = [], 0
    for name, tensor in tensors.items():
        shape, dtype = ir.Shape(tensor.numpy().shape), ir.DataType(tensor.dtype)
        here = ir.ExternalTensor(location, offset, tensor.nbytes, dtype, shape=shape, name=name, base_dir=folder)
        model.graph.initializers[name].const_value = here
        placed.append(here)
        offset += tensor.nbytes + -tensor.nbytes % ALIGNMENT
    return placed


class _Scratch:
    """A temporary folder that is deleted with the last tensor that lies in it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="edgeq-weights-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)


def lie_in(model: ir.Model, folder: Path) -> None:
    """Says in which folder the files lie that hold tensors of a model.

    Hubs keep what they fetched behind symbolic links, and installers link one file into many environments. onnx-ir
    reads neither below a base folder, so such tensors name their file itself.
    """
    import onnx_ir as ir

    for value in _external(model):
        tensor = value.const_value
        file = (folder / tensor.location).resolve()
        if file == folder.resolve() / tensor.location and file.stat().st_nlink == 1:
            tensor.base_dir = folder
        else:
            value.const_value = ir.ExternalTensor(
                str(file), tensor.offset, tensor.length, tensor.dtype, shape=tensor.shape, name=tensor.name
            )


def map_weights(model: ir.Model) -> tuple[onnx.ModelProto, Path | None]:
    """Returns a model as a message whose large tensors lie in files, and the folder of these, for an engine to map.

    Tensors that were computed, lie behind a link or begin at odd bytes of a file, are put into a temporary file first,
    which lives as long as they do: the memory that they took is free again, and the model reads them there.
    """
    tensors = large_tensors(model)
    if not tensors:
        return _message(model, ()), None
    if not _lies_well(list(tensors.values())):
        scratch = _Scratch()
        with (scratch.folder / "weights").open("wb") as stream:
            for tensor in tensors.values():
                write_tensor(tensor, stream)
                stream.write(bytes(-tensor.nbytes % ALIGNMENT))
        for placed in _place(model, tensors, "weights", scratch.folder):
            placed.meta["edgeq.scratch"] = scratch
    release_weights(model)
    first = model.graph.initializers[next(iter(tensors))].const_value
    return _message(model, tensors), Path(getattr(first, "base_dir", "."))


def release_weights(model: ir.Model) -> None:
    """Gives back the memory of all tensors of a model that lie in files, see `release`."""
    for tensor in file_tensors(model):
        release(tensor)


def file_tensors(model: ir.Model) -> list[ir.TensorProtocol]:
    """Returns the tensors of a model that lie in files."""
    return [value.const_value for value in _external(model)]


def _external(model: ir.Model) -> list[Any]:
    import onnx_ir as ir

    return [value for value in model.graph.initializers.values() if isinstance(value.const_value, ir.ExternalTensor)]


def _lies_well(tensors: Sequence[ir.TensorProtocol]) -> bool:
    """Returns whether tensors lie in files of one folder, each where its type may begin."""
    import onnx_ir as ir

    lying = [tensor for tensor in tensors if isinstance(tensor, ir.ExternalTensor) and tensor.base_dir]
    aligned = all(not (tensor.offset or 0) % tensor.dtype.itemsize for tensor in lying)
    return aligned and len(lying) == len(tensors) and len({str(tensor.base_dir) for tensor in lying}) == 1


def write_tensor(tensor: ir.TensorProtocol, stream: IO[bytes]) -> None:
    """Writes the bytes of a tensor, and gives its memory back."""
    content = np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8)
    for start in range(0, len(content), _CHUNK):
        stream.write(content[start : start + _CHUNK].data)
    del content
    release(tensor)


def release(tensor: ir.TensorProtocol | None) -> None:
    """Gives back the memory of a tensor that lies in a file; it is read again when somebody asks for it."""
    import onnx_ir as ir

    if isinstance(tensor, ir.ExternalTensor):
        with suppress(BufferError):  # an array of it is in use
            tensor.release()
