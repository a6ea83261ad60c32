"""Exports a torch model to ONNX once per run: it takes three seconds for a small one, and repeats itself exactly."""

from __future__ import annotations

import functools
import hashlib
import importlib
import io
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgeq.files import sha256_json, write_bytes

if TYPE_CHECKING:
    import onnx
    import torch

_FIXED = ("edgeq.models.", "tests.", "torch.nn.", "torchvision.")
_MAX_BYTES = 64 << 20

_folder: Path | None = None
"""Where a run keeps what its processes have made."""


@contextmanager
def keeping_exports(folder: Path) -> Iterator[None]:
    """Has torch's exporter find what it exported before, in this process or another one of the run.

    Only models whose code does not change during a run. What edgeq makes of the exporter's graph it makes every time.
    """
    from edgeq.sources import torch_export

    export = torch_export._program

    def original(*arguments: Any) -> onnx.ModelProto:
        keep_registry()
        keep_composite_operators()
        return export(*arguments)

    def program(
        module: torch.nn.Module, example: torch.Tensor, output_names: Sequence[str], opset: int, dynamic_batch: bool
    ) -> onnx.ModelProto:
        import onnx

        digest = _digest(module)
        if digest is None:
            return original(module, example, output_names, opset, dynamic_batch)
        options = [list(example.shape), str(example.dtype), list(output_names), opset, dynamic_batch]
        kept = folder / f"{sha256_json([digest, *options])}.onnx"
        if kept.is_file():
            return onnx.load_model_from_string(kept.read_bytes())
        proto = original(module, example, output_names, opset, dynamic_batch)
        if proto.ByteSize() < _MAX_BYTES:
            write_bytes(kept, proto.SerializeToString())
        return proto

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_export, "_program", program)
        patch.setattr(sys.modules[__name__], "_folder", folder)
        yield


def made_once(name: str, make: Callable[[], bytes]) -> bytes:
    """Returns what a function makes, which gives the same bytes each time, and calls it once per run.

    Args:
        name: Of the file that keeps it.
        make: Called where no process of the run has done so before.
    """
    if _folder is None:
        return make()
    kept = _folder / name
    if not kept.is_file():
        write_bytes(kept, make())
    return kept.read_bytes()


@functools.cache
def keep_registry() -> None:
    """Has torch's exporter read its library of operators once for an opset, not at every export.

    It reads the source of 500 functions for it, which is more than half of the time that a small model takes.
    """
    registry: Any = importlib.import_module("torch.onnx._internal.exporter._registration").ONNXRegistry
    registry.from_torchlib = staticmethod(functools.cache(registry.from_torchlib))


@functools.cache
def keep_composite_operators() -> None:
    """Has torch look for its composite operators again only when modules were imported, which may bring others.

    It asks for each of them by name, sixty times for every export and every decomposition of a conversion.
    """
    import torch

    utils: Any = importlib.import_module("torch._export.utils")
    look = utils._materialize_cpp_cia_ops
    found: set[str] = set()
    modules = 0

    def look_for_others() -> None:
        nonlocal modules
        if len(sys.modules) == modules:
            return
        names = set(torch._C._dispatch_get_registrations_for_dispatch_key("CompositeImplicitAutograd"))
        if not names <= found:
            look()
            found.update(names)
        modules = len(sys.modules)

    utils._materialize_cpp_cia_ops = look_for_others


def _digest(module: torch.nn.Module) -> str | None:
    """Returns a digest of a module's classes, attributes and weights; `None` of one whose code may change."""
    if not all(type(each).__module__.startswith(_FIXED) for each in module.modules()):
        return None
    stream = io.BytesIO()
    try:
        _Pickler(stream).dump(module)
    except (pickle.PicklingError, AttributeError, TypeError):
        return None
    return hashlib.sha256(stream.getbuffer()).hexdigest()


class _Pickler(pickle.Pickler):
    """Writes digests in place of tensors, whose pickles differ from one time to the next."""

    def persistent_id(self, value: Any) -> Any:
        import torch

        if not isinstance(value, torch.Tensor):
            return None
        content = value.detach().contiguous().flatten().view(torch.uint8).numpy()
        return str(value.dtype), tuple(value.shape), hashlib.sha256(content.data).hexdigest()
