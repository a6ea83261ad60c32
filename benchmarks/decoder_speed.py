"""How fast do decoders with weights of 8 and 4 bits write text on this CPU, compared with FP32?

`python -m benchmarks.decoder_speed` exports a Llama-like decoder with random weights as a bundle, stores its linear
layers in 8 and 4 bits, and has every bundle read a prompt and write tokens in ONNX Runtime and OpenVINO, in turns and
in fresh processes. The weights decide nothing about speed; no model is downloaded. Five minutes of an idle CPU.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.cases import result_parser, write_result
from edgeq.bundles.contents import BundleFile
from edgeq.bundles.export import BundleRequest, export_bundle
from edgeq.bundles.manifest import Bundle
from edgeq.exporting.graphs.graph import read_onnx, save_onnx
from edgeq.exporting.graphs.onnx_file import data_path
from edgeq.exporting.onnx.low_bit import form_of
from edgeq.exporting.onnx.low_bit_nodes import ACCURACY_LEVEL, insert_low_bit_weights
from edgeq.exporting.planning.keep import Kept
from edgeq.exporting.planning.low_bit import make_low_bit_plan
from edgeq.generation.benchmark import GenerationSampling, bench_bundles
from edgeq.machine import read_machine
from edgeq.results.measurement import BenchResult
from edgeq.schemes import LayerScheme, PerGroup, Scheme
from edgeq.targets import get_target

SHAPE = {
    "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 10, "num_attention_heads": 16,
    "num_key_value_heads": 8, "vocab_size": 16000, "max_position_embeddings": 1024,
}  # fmt: skip
BITS = (8, 4)
GROUP = 32
THREADS = 1
ENGINES = {"onnxruntime": "x86-ort", "openvino": "x86-openvino"}
SAMPLING = GenerationSampling(prompt_tokens=128, new_tokens=24, rounds=3, seconds=9)


def save_random(folder: Path, shape: Mapping[str, int]) -> int:
    """Writes a folder of a Llama with random weights, in halves, and returns how many weights it has."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        **shape, tie_word_embeddings=False, pad_token_id=0, bos_token_id=1, eos_token_id=2
    )
    model: Any = transformers.LlamaForCausalLM(config)
    model.half().save_pretrained(folder)
    return int(sum(parameter.numel() for parameter in model.parameters()))


def in_few_bits(bundle: Bundle, target: str, bits: int, out: Path) -> Bundle:
    """Returns a copy of a bundle whose decoder, with its head, has weights rounded to so many bits.

    Args:
        bundle: The bundle in FP32.
        target: Whose engine's form the weights get.
        bits: Bits of a weight.
        out: Folder of the copy.
    """
    chosen = get_target(target)
    graph = read_onnx(bundle.path("decoder"))
    scheme = Scheme(bits=bits, signed=False, symmetric=False, granularity=PerGroup(GROUP))
    plan = make_low_bit_plan(graph, chosen.rules, Kept({}), LayerScheme(scheme))
    insert_low_bit_weights(graph, plan.layers.weights, form_of(chosen, bits, GROUP))
    out.mkdir()
    for file in bundle.files:
        if not file.file.startswith("decoder.onnx"):
            shutil.copyfile(bundle.folder / file.file, out / file.file)
    path = out / "decoder.onnx"
    save_onnx(graph, path)
    beside = data_path(path)
    decoder = dataclasses.replace(
        bundle.require_part("decoder"),
        model=BundleFile.of(path), weights=BundleFile.of(beside) if beside.is_file() else None,
        precision=f"w{bits}g{GROUP}a", method="rtn",
    )  # fmt: skip
    parts = tuple(decoder if part.name == "decoder" else part for part in bundle.parts)
    copy = dataclasses.replace(bundle, folder=out, parts=parts, target=target)
    copy.save()
    return copy


def row(found: BenchResult, first: BenchResult) -> str:
    """Returns the cells of a bundle in an engine."""
    speed, whole = found.generation, first.generation
    assert speed is not None and whole is not None
    prompt = speed.prompt_tokens / speed.prefill_ms * 1e3
    cells = [
        found.artifact.rpartition("-")[2], found.runtime, f"{(found.size_bytes or 0) / 1e6:.0f}",
        f"{(found.peak_rss_bytes or 0) / 1e6:.0f}", f"{speed.prefill_ms:.0f}", f"{prompt:.0f}",
        f"{whole.prefill_ms / speed.prefill_ms:.2f}", f"{found.latency_ms.p50:.1f}", f"{speed.tokens_per_s:.1f}",
        f"{1 / (found.ratio_to_first or 1):.2f}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def run(out: Path, shape: Mapping[str, int] | None = None, sampling: GenerationSampling = SAMPLING) -> Path:
    """Returns the file of the table.

    Args:
        out: Its folder.
        shape: Of the Llama, as its configuration names it.
        sampling: What is measured.
    """
    shape = SHAPE if shape is None else shape
    lines: list[str] = []
    versions: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "random").mkdir()
        weights = save_random(folder / "random", shape)
        whole = export_bundle(BundleRequest(folder / "random", tokenizer="none", threads=THREADS), folder / "fp32")
        shutil.rmtree(folder / "random")
        for engine, target in ENGINES.items():
            narrow = [in_few_bits(whole, target, bits, folder / f"{target}-w{bits}") for bits in BITS]
            found = bench_bundles([whole, *narrow], [engine], threads=THREADS, sampling=sampling)
            lines += [row(each, found[0]) for each in found]
            versions.append(found[0].environment.engine)
            for each in narrow:
                shutil.rmtree(each.folder)
    text = [
        "# A decoder with weights of few bits: speed of text",
        "",
        "| weights | engine | MB | peak memory MB | prefill ms | prompt tokens / s | times FP32 | ms / token | "
        "tokens / s | times FP32 |",
        f"|---|---|{'--:|' * 8}",
        *lines,
        "",
        f"Measured in turns, each turn in a fresh process, {sampling.rounds} rounds, {THREADS} thread, "
        f"{read_machine().cpu}; {', '.join(versions)}. A Llama of {weights / 1e6:.0f} million random weights "
        f"({shape['num_hidden_layers']} layers of {shape['hidden_size']}), all linear layers and the head rounded to "
        f"nearest in groups of {GROUP} with zero points; in ONNX Runtime MatMulNBits at accuracy level "
        f"{ACCURACY_LEVEL}, in OpenVINO DequantizeLinear in blocks. {sampling.prompt_tokens} tokens of prompt, "
        f"{sampling.new_tokens} after them. `times FP32` is speed over FP32's in the same engine.",
    ]
    return write_result(out, "decoder_speed.md", "\n".join(text) + "\n")


def main() -> None:
    run(result_parser(__doc__).parse_args().out)


if __name__ == "__main__":
    main()
