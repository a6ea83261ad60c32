"""Writes a Hugging Face folder anew with the weights of its linear layers in few bits, tensor by tensor."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.errors import InputError, ModelError
from edgeq.exporting.checkpoints.layouts import Layout, get_layout
from edgeq.exporting.checkpoints.selection import Layers, select_layers
from edgeq.exporting.checkpoints.shards import Shards, TensorSpec
from edgeq.exporting.checkpoints.stored import FLOATS, INDEX, StoredTensor, stored_tensors
from edgeq.files import umask, write_json
from edgeq.quantizers import QuantizedWeight
from edgeq.schemes import PerGroup, Scheme

_CONFIG = "config.json"
_BESIDE = frozenset({".json", ".txt", ".model", ".jinja"})
"""Files that are copied: tokenizer, image processor, how the model generates. Code and other weights are not."""
_WORD = 32
_CONVERTED = 1 << 22


@dataclass(frozen=True)
class CheckpointPlan:
    """What a folder is to hold.

    Attributes:
        folder: The model's.
        tensors: Its tensors by name.
        layers: Which of its layers get few bits.
        layout: How these are stored.
        scheme: Their grid, for matrices `(out, in)`.
    """

    folder: Path
    tensors: Mapping[str, StoredTensor]
    layers: Layers
    layout: Layout
    scheme: Scheme

    @property
    def group_size(self) -> int:
        """Inputs that share a scale."""
        assert isinstance(self.scheme.granularity, PerGroup)  # noqa: S101 - `plan_checkpoint` makes no other
        return self.scheme.granularity.size

    def weight(self, module: str) -> StoredTensor:
        """Returns the weight of a module, `(out, in)`."""
        return self.tensors[f"{module}.weight"]


@dataclass(frozen=True)
class FinishedLayers:
    """Layers that are done.

    Attributes:
        weights: Module -> its weight.
        others: Name of a tensor that changed with them -> its values.
    """

    weights: Mapping[str, QuantizedWeight]
    others: Mapping[str, np.ndarray] = field(default_factory=dict)


def plan_checkpoint(
    folder: Path, layout: str, bits: int, group_size: int, skip: Sequence[str] | None = None, *, centred: bool = False
) -> CheckpointPlan:
    """Returns the plan of a checkpoint.

    Args:
        folder: A Hugging Face folder.
        layout: A name of `LAYOUTS`.
        bits: Of the weights.
        group_size: Inputs that share a scale.
        skip: What stays in float; see `select_layers`.
        centred: Whether zero points are in the middle, even if the layout has others.

    Raises:
        InputError: the layout has no such bits, groups do not divide a layer, or an entry of `skip` matches nothing.
        ModelError: a file is damaged.
    """
    found = get_layout(layout)
    if bits not in found.bits:
        known = ", ".join(f"w{each}" for each in found.bits)
        raise InputError(f"`precision` w{bits}: readers of {layout} checkpoints take {known}")
    tensors = stored_tensors(folder)
    symmetric = centred or found.symmetric
    scheme = Scheme(bits=bits, signed=False, symmetric=symmetric, granularity=PerGroup(group_size, 1))
    plan = CheckpointPlan(folder, tensors, select_layers(tensors, skip), found, scheme)
    for module in plan.layers.quantized:
        outputs, inputs = plan.weight(module).shape
        if inputs % group_size:
            raise InputError(
                f"`group_size` {group_size}: {module} has {inputs} inputs, which it does not divide, and readers of "
                f"{layout} checkpoints pad none; choose another, or leave the layer in float with `skip`"
            )
        if outputs * bits % _WORD or inputs * bits % _WORD:
            raise InputError(
                f"`skip`: {module} is {outputs} x {inputs}, and {bits}-bit numbers are stored {_WORD // bits} to a "
                "word; leave the layer in float with `skip`"
            )
    return plan


def write_checkpoint(plan: CheckpointPlan, out: Path, finished: Iterable[FinishedLayers]) -> None:
    """Writes a folder, whole or not at all; one tensor that stays in float is in memory at a time.

    Args:
        plan: The plan.
        out: The folder: absent or empty.
        finished: All layers of the plan, in any order.

    Raises:
        InputError: the folder holds files already, or cannot be written.
        ModelError: a value is beyond what FP16 holds.
    """
    with _whole_folder(out) as folder:
        shards = Shards(folder, _contents(plan))
        left = set(plan.tensors) - {f"{module}.weight" for module in plan.layers.quantized}
        for part in finished:
            for module, weight in part.weights.items():
                for suffix, array in plan.layout.pack(weight).items():
                    shards.write(f"{module}.{suffix}", array)
            for name, array in part.others.items():
                shards.write(name, _as_half(name, array))
                left.remove(name)
        for name in sorted(left):
            tensor = plan.tensors[name]
            shards.write(name, _as_half(name, tensor.read()) if tensor.kind in FLOATS else tensor.read())
        shards.require_whole()
        _write_config(plan, folder)
        for file in sorted(plan.folder.iterdir()):
            if file.suffix in _BESIDE and file.name not in (_CONFIG, INDEX):
                shutil.copyfile(file, folder / file.name)


def as_stored_weight(weight: QuantizedWeight) -> np.ndarray:
    """Returns the matrix that readers see: scales are stored in FP16, and multiplied in FP32 or wider."""
    from dataclasses import replace

    return replace(weight, scale=weight.scale.astype(np.float16).astype(np.float32)).dequantize()


def _contents(plan: CheckpointPlan) -> list[dict[str, TensorSpec]]:
    """Returns what the files hold, each what the model's own file of that number holds."""
    quantized = set(plan.layers.quantized)
    files: dict[Path, dict[str, TensorSpec]] = {}
    for name, tensor in plan.tensors.items():
        specs = files.setdefault(tensor.file, {})
        module = name.removesuffix(".weight")
        if module in quantized and name != module:
            outputs, inputs = tensor.shape
            packed = plan.layout.specs(outputs, inputs, inputs // plan.group_size, plan.scheme.bits)
            specs.update({f"{module}.{suffix}": spec for suffix, spec in packed.items()})
        else:
            dtype = "float16" if tensor.kind in FLOATS else tensor.dtype.name
            specs[name] = TensorSpec(dtype, tensor.shape)
    return list(files.values())


def _write_config(plan: CheckpointPlan, folder: Path) -> None:
    config: dict[str, Any] = json.loads((plan.folder / _CONFIG).read_bytes())
    config.pop("torch_dtype", None)
    config["dtype"] = "float16"
    config["quantization_config"] = plan.layout.config(plan.scheme.bits, plan.group_size, plan.layers.left)
    write_json(folder / _CONFIG, config)


def _as_half(name: str, array: np.ndarray) -> np.ndarray:
    """Returns values in FP16; what is not is converted some at a time, because a table of words is half a gigabyte."""
    values = array.reshape(-1)
    half = values if array.dtype == np.float16 else np.empty(values.shape, np.float16)
    for start in range(0, len(values), _CONVERTED):
        part = slice(start, start + _CONVERTED)
        if half is not values:
            with np.errstate(over="ignore"):
                half[part] = values[part].astype(np.float32)
        if not np.isfinite(half[part]).all():
            raise ModelError(f"{name}: holds values that FP16 cannot, and these checkpoints are computed in FP16")
    return half.reshape(array.shape)


@contextlib.contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """Yields a folder that becomes `out` when the block ends well."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists already; choose another `out`, or remove it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
        try:
            yield temporary
            temporary.chmod(0o777 & ~umask())
            temporary.replace(out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{out}: cannot be written ({reason}); nothing was left behind") from error
