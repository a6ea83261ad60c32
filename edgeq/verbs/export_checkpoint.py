"""`edgeq export FOLDER --format gptq`: a Hugging Face folder with weights of few bits, for servers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.calibration.torch_threads import torch_threads
from edgeq.errors import InputError, MissingDependencyError
from edgeq.exporting.checkpoints.layouts import LAYOUTS
from edgeq.exporting.checkpoints.writer import CheckpointPlan, FinishedLayers, plan_checkpoint, write_checkpoint
from edgeq.inputs.array_files import read_array
from edgeq.memory.config_file import read_config
from edgeq.progress import progress_bar
from edgeq.quantizers import get_weight_method
from edgeq.quantizers.recipes import BY_INPUTS, WITHOUT_INPUTS, Recipe, get_recipe
from edgeq.quantizers.weight import joined
from edgeq.schemes import LOW_BITS

if TYPE_CHECKING:
    from edgeq.quantizers import QuantizedWeight

GROUP_SIZE = 128
"""Inputs with a scale of their own, unless told otherwise: what servers' kernels are tuned for."""

SEQUENCES, LENGTH = 64, 256
"""Sequences to calibrate on, unless told otherwise, and the tokens of each that a text is cut into."""

_GROUPS = (16, 32, 64, 128, 256)
_VALUES = 1 << 22
"""Values of a weight that are rounded at a time, where rows know nothing of each other."""


@dataclass(frozen=True)
class CheckpointResult:
    """What was written.

    Attributes:
        folder: The folder.
        format: Layout of its quantized layers.
        bits: Of their weights.
        group_size: Inputs that share a scale.
        weight_method: What rounded them.
        layers: How many they are.
        left: Linear layers that stay in FP16: the modules that hold them.
        bytes_before: Size of the model's tensors.
        bytes_after: Size of those written.
    """

    folder: Path
    format: str
    bits: int
    group_size: int
    weight_method: str
    layers: int
    left: tuple[str, ...]
    bytes_before: int
    bytes_after: int

    def to_json(self) -> dict[str, Any]:
        """Returns the result as JSON."""
        return {**asdict(self), "folder": str(self.folder), "left": list(self.left)}


def is_checkpoint_format(formats: Sequence[str]) -> bool:
    """Returns whether one of the formats is a layout of checkpoints."""
    return not LAYOUTS.keys().isdisjoint(formats)


def export_checkpoint(
    folder: Path,
    out: Path,
    *,
    layout: str,
    precision: str = "w4",
    group_size: int | None = None,
    weight_method: str | None = None,
    skip: Sequence[str] | None = None,
    calib: Path | np.ndarray | None = None,
    num: int | None = None,
    threads: int | None = None,
    centred: bool = False,
) -> CheckpointResult:
    """Returns what was written: the folder anew, whole or not at all.

    Args:
        folder: A Hugging Face folder.
        out: The new folder: absent or empty.
        layout: A name of `LAYOUTS`.
        precision: `w2`, `w4` or `w8`, as the layout takes them.
        group_size: Inputs that share a scale, 16 to 256; by default 128.
        weight_method: A name of `RECIPES`; by default `gptq-act-order` with `calib`, and `rtn` without.
        skip: What stays in FP16: parts, names or their beginnings, types, regular expressions; by default the vision
            part, the connector and the head.
        calib: Tokens to calibrate on: numbers `(sequences, length)`, a `.npy` file of them, or a text file, which the
            folder's tokenizer reads.
        num: Maximum number of sequences, by default 64.
        threads: CPU threads of torch.
        centred: Whether zero points are in the middle, even if the layout has others.

    Raises:
        InputError: an argument cannot be used, or the folder is not whole; nothing is written.
        ModelError: a file is damaged, or the decoder cannot be built.
        MissingDependencyError: a method reads inputs, and transformers is not installed.
    """
    read_config(folder)
    if precision not in LOW_BITS:
        raise InputError(f"`precision` {precision}: a {layout} checkpoint has one of few bits, such as w4")
    if group_size not in (None, *_GROUPS):
        raise InputError(f"`group_size` {group_size}: wanted one of {', '.join(map(str, _GROUPS))}")
    method = weight_method or (WITHOUT_INPUTS if calib is None else BY_INPUTS)
    recipe = get_recipe(method)
    if recipe.reads_inputs and calib is None:
        raise InputError(
            f"`weight_method` {method}: goes by what the layers read; give `calib` with a text or a .npy file of token "
            "numbers, or choose rtn"
        )
    if calib is not None and not recipe.reads_inputs:
        raise InputError(f"`calib`: {method} reads no inputs; omit it, or choose another `weight_method`")
    plan = plan_checkpoint(folder, layout, int(precision[1:]), group_size or GROUP_SIZE, skip, centred=centred)
    if method == "hqq" and plan.scheme.symmetric:
        raise InputError(f"`weight_method` hqq: chooses zero points, and {layout} has none; choose format awq, or rtn")
    if calib is None:
        write_checkpoint(plan, out, _rounded(plan, plan.layers.quantized, recipe))
    else:
        tokens = _tokens(calib, folder, num or SEQUENCES)
        with torch_threads(threads):
            write_checkpoint(plan, out, _by_inputs(plan, recipe, tokens))
    return CheckpointResult(
        out, layout, plan.scheme.bits, plan.group_size, method, len(plan.layers.quantized), plan.layers.left,
        _size(folder), _size(out),
    )  # fmt: skip


def _by_inputs(plan: CheckpointPlan, recipe: Recipe, tokens: np.ndarray) -> Iterator[FinishedLayers]:
    """Yields the decoder's layers by what they read, then all others rounded to nearest."""
    from edgeq.calibration.decoder_layers import quantize_decoder

    done: set[str] = set()
    for part in quantize_decoder(plan, recipe, tokens):
        done |= part.weights.keys()
        yield part
    others = [module for module in plan.layers.quantized if module not in done]
    yield from _rounded(plan, others, get_recipe(WITHOUT_INPUTS))


def _rounded(plan: CheckpointPlan, modules: Sequence[str], recipe: Recipe) -> Iterator[FinishedLayers]:
    """Yields layers one at a time, quantized without inputs."""
    with progress_bar(len(modules), "quantizing weights", unit="layers") as advance:
        for module in modules:
            yield FinishedLayers({module: _in_rows(plan, module, recipe)})
            advance(1)


def _in_rows(plan: CheckpointPlan, module: str, recipe: Recipe) -> QuantizedWeight:
    weight, quantize = plan.weight(module).read(), get_weight_method(recipe.method)
    step = max(1, _VALUES // weight.shape[1])
    parts = (weight[start : start + step].astype(np.float32) for start in range(0, len(weight), step))
    return joined([quantize(part, plan.scheme, {}) for part in parts])


def _tokens(calib: Path | np.ndarray, folder: Path, num: int) -> np.ndarray:
    """Returns numbers of tokens `(sequences, length)`, evenly spaced."""
    if isinstance(calib, Path):
        numbers = read_array(calib) if calib.suffix == ".npy" else _read_text(calib, folder)
    else:
        numbers = calib
    if numbers.ndim != 2 or not numbers.size or numbers.dtype.kind not in "iu":
        raise InputError(
            f"`calib`: holds {numbers.dtype} of shape {numbers.shape}; wanted numbers of tokens (sequences, length)"
        )
    spread = np.linspace(0, len(numbers) - 1, min(num, len(numbers))).round().astype(int)
    return np.asarray(numbers[spread], np.int64)


def _read_text(calib: Path, folder: Path) -> np.ndarray:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingDependencyError("tokenizers", "language", "reading a text to calibrate on") from error

    file = folder / "tokenizer.json"
    if not file.is_file():
        raise InputError(
            f"{folder}: has no {file.name} to read `calib` {calib} with; give a .npy file of token numbers"
        )
    numbers = Tokenizer.from_file(str(file)).encode(calib.read_text(encoding="utf-8")).ids
    length = min(LENGTH, len(numbers))
    if not length:
        raise InputError(f"`calib` {calib}: holds no text")
    whole = len(numbers) // length * length
    return np.array(numbers[:whole]).reshape(-1, length)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
