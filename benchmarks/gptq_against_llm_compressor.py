"""Does our GPTQ lose less of a layer's output than llm-compressor's, on the same weights and inputs?

`python -m benchmarks.gptq_against_llm_compressor`, in an environment that has llm-compressor too, quantizes the linear
layers of the blocks of the Fashion-MNIST ViT, each on its own: calibrated on 256 training images, errors measured on
256 others. llm-compressor's `quantize_weight` gets the scales of its default observer (minimum and maximum).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from benchmarks.cases import DATA, result_parser, write_result
from edgeq.machine import read_machine
from edgeq.quantizers import get_weight_method
from edgeq.quantizers.error_feedback import drawn_to_mean
from edgeq.schemes import PerAxis, PerGroup, Scheme

if TYPE_CHECKING:
    import torch

_IMAGES = 256
_BATCH = 64
_MEAN, _DEVIATION = 0.2860, 0.3530
OURS = ("round", "clip", "gptq", "gptq-act-order")

Method = Callable[[np.ndarray, Scheme, np.ndarray], np.ndarray]
"""Weight `(out, in)`, scheme and second moments `(in, in)` -> the weight as it comes back."""


class Layer(NamedTuple):
    """A linear layer.

    Attributes:
        weight: `(out, in)`.
        seen: Second moments of the inputs that it is calibrated on, per row.
        others: Those of the inputs that errors are measured on.
    """

    weight: np.ndarray
    seen: np.ndarray
    others: np.ndarray


def grid(bits: int, group: int | None) -> Scheme:
    """Returns unsigned integers with zero points, in groups or with a scale for each output."""
    granularity = PerAxis(0) if group is None else PerGroup(group, 1)
    return Scheme(bits=bits, signed=False, symmetric=False, granularity=granularity)


GRIDS = {f"{bits} bits, {group or 'row'}": grid(bits, group) for bits in (4, 3, 2) for group in (None, 32)}


def our_method(name: str) -> Method:
    """Returns a weight method of edgeq."""
    method = get_weight_method(name)
    return lambda weight, scheme, moments: method(weight, scheme, {"second_moments": moments}).dequantize()


def peer_method(actorder: str | None) -> Method:
    """Returns llm-compressor's GPTQ; `static` rounds inputs of large moments first and leaves groups as they are."""
    import torch
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.utils import calculate_qparams
    from llmcompressor.modifiers.gptq.gptq_quantize import quantize_weight

    def quantize(weight: np.ndarray, scheme: Scheme, moments: np.ndarray) -> np.ndarray:
        size = scheme.granularity.size if isinstance(scheme.granularity, PerGroup) else None
        arguments = QuantizationArgs(
            num_bits=scheme.bits, symmetric=False, strategy="channel" if size is None else "group", group_size=size,
            actorder=actorder,
        )  # fmt: skip
        groups = torch.from_numpy(weight).reshape(len(weight), -1, size or weight.shape[1])
        scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), arguments)
        found, _, _ = quantize_weight(
            torch.from_numpy(weight.copy())[None], torch.from_numpy(moments.astype(np.float32))[None], scale[None],
            zero[None], None, arguments,
        )  # fmt: skip
        return np.asarray(found[0].numpy())

    return quantize


def vit_layers(data: Path) -> list[Layer]:
    """Returns the linear layers of the blocks of the Fashion-MNIST ViT."""
    import torch

    from edgeq.models.zoo import load_model

    model = load_model("vit_fashionmnist", data / "weights" / "vit_d128_l6_fashionmnist.safetensors")
    with np.load(data / "classification" / "fashionmnist_train2k_calib.npz") as stored:
        images = stored["x"]
    # They are sorted by class.
    chosen = np.linspace(0, len(images) - 1, 2 * _IMAGES).round().astype(int)
    inputs = torch.from_numpy(((images[chosen] / 255 - _MEAN) / _DEVIATION).astype(np.float32))[:, None]
    linear = {name: each for name, each in model.named_modules() if isinstance(each, torch.nn.Linear)}
    linear = {name: each for name, each in linear.items() if any(part.isdigit() for part in name.split("."))}
    sums: list[dict[str, np.ndarray]] = [{}, {}]
    rows: list[dict[str, int]] = [{}, {}]
    for half in range(2):
        hooks = [each.register_forward_pre_hook(_adding(name, sums[half], rows[half])) for name, each in linear.items()]
        with torch.no_grad():
            for start in range(half, len(inputs), 2 * _BATCH):
                model(inputs[start : start + 2 * _BATCH : 2])
        for hook in hooks:
            hook.remove()
    return [
        Layer(
            each.weight.detach().numpy(),
            drawn_to_mean(sums[0][name], rows[0][name]),
            sums[1][name] / rows[1][name],
        )
        for name, each in linear.items()
        if name in sums[0]
    ]


def _adding(name: str, sums: dict[str, np.ndarray], rows: dict[str, int]) -> Callable[..., None]:
    def hook(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        flat = inputs[0].reshape(-1, inputs[0].shape[-1]).numpy().astype(np.float64)
        sums[name] = sums.get(name, 0) + flat.T @ flat
        rows[name] = rows.get(name, 0) + len(flat)

    return hook


def lost(layers: Iterable[Layer], scheme: Scheme, method: Method) -> np.ndarray:
    """Returns the squared error of each layer's output on inputs that it was not calibrated on, `(layers,)`."""
    found = []
    for layer in layers:
        difference = method(layer.weight, scheme, layer.seen).astype(np.float64) - layer.weight
        found.append(((difference @ layer.others) * difference).sum())
    return np.array(found)


def run(out: Path, layers: list[Layer], grids: Mapping[str, Scheme], methods: Mapping[str, Method], peer: str) -> Path:
    """Returns the file of the table.

    Args:
        out: Its folder.
        layers: What is quantized.
        grids: Name -> grid.
        methods: Name -> method; the first is what errors are divided by.
        peer: The peer and its version.
    """
    lines = []
    for name, scheme in grids.items():
        errors = {method: lost(layers, scheme, each) for method, each in methods.items()}
        first = next(iter(errors.values()))
        means = [float(np.exp(np.log(each / first).mean())) for each in errors.values()]
        lines.append(f"| {name} | {' | '.join(f'{mean:.3f}' for mean in means)} |")
    text = [
        "# Our weight methods against llm-compressor's GPTQ",
        "",
        "Squared error of a layer's output over that of rounding to nearest, geometric mean over the "
        f"{len(layers)} linear layers of the blocks of ViT-d128 (Fashion-MNIST), each quantized on its own; calibrated "
        "on 256 images, errors on 256 others. Unsigned integers with zero points.",
        "",
        f"| grid | {' | '.join(methods)} |",
        "|---|" + "---:|" * len(methods),
        *lines,
        "",
        f"Measured with {peer} on {read_machine().cpu}; what is lost does not depend on the machine.",
    ]
    return write_result(out, "gptq_against_llm_compressor.md", "\n".join(text) + "\n")


def main() -> None:
    parser: argparse.ArgumentParser = result_parser(__doc__)
    arguments = parser.parse_args()
    methods = {name: our_method(name) for name in OURS}
    methods |= {"llm-compressor": peer_method(None), "llm-compressor, static order": peer_method("static")}
    run(arguments.out, vit_layers(DATA), GRIDS, methods, f"llm-compressor {version('llmcompressor')}")


if __name__ == "__main__":
    main()
