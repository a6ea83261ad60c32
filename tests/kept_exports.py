"""Exports a torch model to ONNX once per run: it takes three seconds for a small one, and repeats itself exactly."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgeq.files import sha256_json, write_bytes

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

_FIXED = ("edgeq.models.", "tests.", "torch.nn.", "torchvision.")
_MAX_BYTES = 32 << 20


@contextmanager
def keeping_exports(folder: Path) -> Iterator[None]:
    """Has `open_model` find the graphs that were exported before, in this process or another one of the run.

    Only those of models whose code does not change during a run. Tests of the exporter import it by name, before this
    begins, and export every time.
    """
    from edgeq.sources import torch_export

    original = torch_export.export_torch

    def export(module: torch.nn.Module, example: torch.Tensor, output_names: Any, **options: Any) -> ir.Model:
        import onnx
        import onnx_ir as ir

        digest = _digest(module)
        if digest is None:
            return original(module, example, output_names, **options)
        key = sha256_json([digest, list(example.shape), str(example.dtype), list(output_names), options])
        kept = folder / f"{key}.onnx"
        if kept.is_file():
            return ir.from_proto(onnx.load_model_from_string(kept.read_bytes()))
        graph = original(module, example, output_names, **options)
        proto = ir.to_proto(graph)
        if proto.ByteSize() < _MAX_BYTES:
            write_bytes(kept, proto.SerializeToString())
        return graph

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_export, "export_torch", export)
        yield


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
