"""Does our AWQ lose less of a decoder's output than llm-compressor's, on the same weights and inputs?

`python -m benchmarks.awq_against_llm_compressor`, in an environment that has llm-compressor too, quantizes the linear
layers of the decoder of the trained reader of hex digits (4 layers of 96 channels) but its head: calibrated on 128
texts of 24 tokens, measured on 128 others. llm-compressor's AWQ has its default mappings and settings.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import edgeq
from benchmarks.cases import DATA, result_parser, write_result
from edgeq.machine import read_machine

OURS = ("rtn", "awq", "gptq", "awq+gptq")
GROUP = 32
_TEXTS, _TOKENS, _BEGIN, _DIGITS = 128, 24, 17, 16
_PEERS = ("llm-compressor, rounding", "llm-compressor, AWQ")

Quantize = Callable[[Any, Any, int], Any]
"""Model, tokens to calibrate on `(texts, tokens)` and bits -> the model with weights of few bits."""


class Lost(NamedTuple):
    """What a quantized decoder gives in place of the float one.

    Attributes:
        error: Norm of the difference of all scores over their norm.
        divergence: Mean divergence of the next token's probabilities, in thousandths of a nat.
    """

    error: float
    divergence: float


def decoder(folder: Path) -> Any:
    """Returns the decoder of a LLaVA with its head, as a model of texts."""
    import torch
    import transformers

    whole = transformers.LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    model = transformers.LlamaForCausalLM(whole.config.text_config)
    model.model.load_state_dict(whole.model.language_model.state_dict())
    model.lm_head.load_state_dict(whole.lm_head.state_dict())
    return model.eval()


def texts(seed: int, count: int = _TEXTS) -> Any:
    """Returns tokens `(count, 24)`: the one that begins a text, and digits."""
    import torch

    digits = np.random.default_rng(seed).integers(0, _DIGITS, (count, _TOKENS - 1))
    return torch.from_numpy(np.concatenate([np.full((count, 1), _BEGIN), digits], axis=1))


def ours(method: str) -> Quantize:
    """Returns a weight method of edgeq."""
    import torch

    class Scores(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, tokens: torch.Tensor) -> Any:
            return self.model(tokens, use_cache=False).logits

    def quantize(model: Any, seen: Any, bits: int) -> Any:
        called = [each[None] for each in seen]
        done = edgeq.quantize_weights(
            Scores(model), called, bits, group_size=GROUP, weight_method=method, keep=["model.lm_head"]
        )
        return done.module.model

    return quantize


def peers(*, scaled: bool) -> Quantize:
    """Returns llm-compressor's rounding to nearest, after AWQ's scales if `scaled`."""
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier
    from llmcompressor.pipelines.cache import IntermediatesCache
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    # AWQ pins memory for a GPU, which fails where there is none.
    IntermediatesCache.pin_memory = lambda *_: None
    # It wants one, and has nothing to read with it.
    words = Tokenizer(models.WordLevel({"0": 0}, unk_token="0"))  # noqa: S106 - a word, no secret
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="0", pad_token="0")  # noqa: S106

    def quantize(model: Any, seen: Any, bits: int) -> Any:
        weights = QuantizationArgs(num_bits=bits, symmetric=False, strategy="group", group_size=GROUP)
        groups = {"group_0": QuantizationScheme(targets=["Linear"], weights=weights)}
        recipe = [*([AWQModifier()] if scaled else []), QuantizationModifier(config_groups=groups, ignore=["lm_head"])]
        data = Dataset.from_dict({"input_ids": seen.tolist(), "attention_mask": np.ones(seen.shape, int).tolist()})
        with tempfile.TemporaryDirectory() as folder:
            # It asks a hub for models that are not from a folder.
            model.save_pretrained(folder)
            changed = type(model).from_pretrained(folder, dtype=model.dtype)
            oneshot(
                model=changed, dataset=data, recipe=recipe, processor=tokenizer, num_calibration_samples=len(seen),
                max_seq_length=seen.shape[1],
            )  # fmt: skip
        return changed.eval()

    return quantize


def lost(model: Any, changed: Any, others: Any) -> Lost:
    """Returns what a quantized model gives in place of the float one, on texts that it has not seen."""
    import torch

    with torch.no_grad():
        wanted, found = (each(others).logits.double() for each in (model, changed))
    logs, given = wanted.log_softmax(-1), found.log_softmax(-1)
    divergence = (logs.exp() * (logs - given)).sum(-1).mean()
    return Lost(float((found - wanted).norm() / wanted.norm()), 1000 * float(divergence))


def run(out: Path, model: Any, methods: Mapping[str, Quantize], bits: tuple[int, ...], peer: str, count: int) -> Path:
    """Returns the file of the table.

    Args:
        out: Its folder.
        model: The decoder.
        methods: Name -> what quantizes it.
        bits: Of the weights.
        peer: The peer and its version.
        count: Texts to calibrate on, and as many to measure on.
    """
    seen, others = texts(1, count), texts(2, count)
    rows = []
    for name, quantize in methods.items():
        found = [lost(model, quantize(model, seen, each), others) for each in bits]
        rows.append(f"| {name} | {' | '.join(f'{each.error:.4f} | {each.divergence:.3f}' for each in found)} |")
    lines = [
        "# Our AWQ against llm-compressor's",
        "",
        "The decoder of the trained reader of hex digits, its linear layers but the head in groups of "
        f"{GROUP} with zero points; calibrated on {count} texts of {_TOKENS} tokens, measured on {count} others: norm "
        "of the scores' difference over the scores' norm, and divergence of the next token's probabilities in "
        "thousandths of a nat.",
        "",
        f"| method | {' | '.join(f'{each} bits, error | divergence' for each in bits)} |",
        "|---|" + "---:|" * (2 * len(bits)),
        *rows,
        "",
        f"Measured with {peer} on {read_machine().cpu}; what is lost does not depend on the machine. Our AWQ also "
        "clips weights by search, as its paper does; llm-compressor's does not.",
    ]
    return write_result(out, "awq_against_llm_compressor.md", "\n".join(lines) + "\n")


def main() -> None:
    parser: argparse.ArgumentParser = result_parser(__doc__)
    arguments = parser.parse_args()
    methods = {f"edgeq, {name}": ours(name) for name in OURS}
    methods |= dict(zip(_PEERS, (peers(scaled=False), peers(scaled=True)), strict=True))
    model = decoder(DATA / "vlm" / "tiny_llava_hex")
    run(arguments.out, model, methods, (4,), f"llm-compressor {version('llmcompressor')}", _TEXTS)


if __name__ == "__main__":
    main()
