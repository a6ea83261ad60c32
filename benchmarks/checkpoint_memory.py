"""How much memory and time does it take to write a decoder's checkpoint in 4 bits, one layer in memory at a time?

`python -m benchmarks.checkpoint_memory` writes a decoder of random weights, 2.5 GB in FP16 in one file, as a GPTQ
checkpoint in a process of its own, and measures that process's peak memory. Of its 16 blocks `--blocks` says how many
methods that read inputs quantize; the others are computed in FP16, so that memory is that of the whole model, and the
time of all follows from what a block of each kind took. Needs 4 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from benchmarks.cases import result_parser, write_result
from edgeq.exporting.checkpoints.shards import Shards, TensorSpec
from edgeq.exporting.checkpoints.stored import stored_tensors
from edgeq.files import write_json
from edgeq.machine import read_machine
from edgeq.progress import reporting_to
from edgeq.quantizers.recipes import get_recipe
from edgeq.verbs.export_checkpoint import export_checkpoint

_RSS_UNIT = 1 if sys.platform == "darwin" else 1024
_MB = 1e6
_BOUND = 1.5


@dataclass(frozen=True)
class Size:
    """A decoder of Llama's form.

    Attributes:
        blocks: How many blocks it has.
        width: Of a token.
        inner: Width within the feed-forward part.
        heads: Heads of attention.
        groups: Heads of keys and values.
        words: Tokens that it knows.
        tokens: Sequences to calibrate on, and their length.
        group_size: Weights that share a scale.
    """

    blocks: int
    width: int
    inner: int
    heads: int
    groups: int
    words: int
    tokens: tuple[int, int] = (16, 256)
    group_size: int = 128

    def matrices(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Yields name and shape of the matrices of a block."""
        narrow = self.width * self.groups // self.heads
        yield from (("self_attn.q_proj", (self.width, self.width)), ("self_attn.k_proj", (narrow, self.width)))
        yield from (("self_attn.v_proj", (narrow, self.width)), ("self_attn.o_proj", (self.width, self.width)))
        yield from (("mlp.gate_proj", (self.inner, self.width)), ("mlp.up_proj", (self.inner, self.width)))
        yield "mlp.down_proj", (self.width, self.inner)


WHOLE = Size(16, 2048, 8192, 32, 8, 128256)
"""Widths of a common decoder of 1.24 billion weights, with one table for words and head."""


def write_decoder(folder: Path, size: Size) -> None:
    """Writes a Hugging Face folder with random weights in FP16, one tensor in memory at a time."""
    specs = {"model.embed_tokens.weight": TensorSpec("float16", (size.words, size.width))}
    for block in range(size.blocks):
        path = f"model.layers.{block}"
        specs |= {f"{path}.{name}.weight": TensorSpec("float16", shape) for name, shape in size.matrices()}
        specs |= {
            f"{path}.{name}.weight": TensorSpec("float16", (size.width,))
            for name in ("input_layernorm", "post_attention_layernorm")
        }
    specs["model.norm.weight"] = TensorSpec("float16", (size.width,))
    folder.mkdir(parents=True)
    shards, draw = Shards(folder, [specs]), np.random.default_rng(0)
    for name, spec in specs.items():
        if len(spec.shape) == 1:
            shards.write(name, np.ones(spec.shape, np.float16))
        else:
            # Uniform, with the deviation of usual weights; drawn as halves, which is quick.
            numbers = draw.integers(-1000, 1000, spec.shape, np.int16, endpoint=True).astype(np.float16)
            shards.write(name, numbers * np.float16(0.035 / 1000))
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": size.words,
        "hidden_size": size.width, "intermediate_size": size.inner, "num_hidden_layers": size.blocks,
        "num_attention_heads": size.heads, "num_key_value_heads": size.groups, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 2048, "hidden_act": "silu", "tie_word_embeddings": True, "dtype": "float16",
    }  # fmt: skip
    write_json(folder / "config.json", config)


@dataclass
class _Blocks:
    """Notes the process's CPU time whenever a block of a decoder is finished.

    Attributes:
        ends: CPU seconds of the process at the start and behind each block.
    """

    ends: list[float] = field(default_factory=list)

    def start(self, total: int | None, label: str, unit: str) -> None:
        if unit == "blocks":
            self.ends.append(time.process_time())

    def advance(self, count: int) -> None:
        if self.ends:
            self.ends.append(time.process_time())

    def end(self) -> None:
        """Has nothing to close."""


def measure(folder: Path, out: Path, size: Size, method: str, blocks: int) -> dict[str, float]:
    """Returns CPU seconds, those of all blocks and peak memory in bytes of a process that writes a checkpoint."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    arguments = (theirs, folder, out, size, method, blocks)
    process = multiprocessing.get_context("spawn").Process(target=_export, args=arguments)
    process.start()
    theirs.close()
    try:
        found: dict[str, float] = json.loads(ours.recv_bytes())
    finally:
        process.join()
    return found


def _export(answers: Connection, folder: Path, out: Path, size: Size, method: str, blocks: int) -> None:
    tokens = np.random.default_rng(1).integers(0, size.words, size.tokens) if get_recipe(method).reads_inputs else None
    others = "|".join(map(str, range(blocks, size.blocks)))
    skip = [rf"model\.layers\.({others})\..*"] if others else None
    timed, used = _Blocks(), time.process_time()
    with reporting_to(lambda: timed):
        export_checkpoint(
            folder, out, layout="gptq", group_size=size.group_size, weight_method=method, calib=tokens, skip=skip,
            threads=1,
        )  # fmt: skip
    cpu = time.process_time() - used
    each = np.diff(timed.ends)
    # Blocks in FP16 are computed as well: what they lack is the quantization.
    lacking = float(each[:blocks].mean() - each[blocks:].mean()) * (size.blocks - blocks) if blocks < len(each) else 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT
    answers.send_bytes(json.dumps({"cpu": cpu, "all": cpu + lacking, "peak": peak}).encode())


def run(out: Path, size: Size, methods: list[str], blocks: int) -> Path:
    """Returns the file of the table.

    Args:
        out: Its folder.
        size: Of the decoder.
        methods: Names of recipes.
        blocks: Blocks that methods which read inputs quantize; the others stay in FP16.
    """
    layer = 4 * sum(rows * columns for _, (rows, columns) in size.matrices())
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model"
        write_decoder(source, size)
        shard = next(iter(stored_tensors(source).values())).file.stat().st_size
        for method in methods:
            quantized = blocks if get_recipe(method).reads_inputs else size.blocks
            out_folder = Path(folder) / method
            found = measure(source, out_folder, size, method, quantized)
            written = sum(file.stat().st_size for file in out_folder.glob("*.safetensors"))
            shutil.rmtree(out_folder)
            lines.append(
                f"| {method} | {quantized} of {size.blocks} | {shard / _MB:,.0f} | {written / _MB:,.0f} | "
                f"{found['peak'] / _MB:,.0f} | {(_BOUND * shard + layer) / _MB:,.0f} | {found['cpu']:.0f} | "
                f"{found['all'] / 60:.1f} |"
            )
            print(lines[-1], flush=True)
    text = "\n".join(
        [
            "# Memory and time of a checkpoint in 4 bits",
            "",
            f"A decoder of random weights in one file, {size.blocks} blocks of width {size.width} and {size.inner}, as "
            f"a GPTQ checkpoint in groups of {size.group_size}. Peak: resident memory of the whole process, libraries "
            f"included. Bound: {_BOUND} times the file plus one block in FP32. Where some blocks are quantized the "
            "others stay in FP16 and are computed, so that memory is that of the whole model; the minutes of all "
            "blocks, on one core, follow from what a block of each kind took.",
            "",
            "| method | blocks | file, MB | checkpoint, MB | peak, MB | bound, MB | CPU s | CPU minutes of all |",
            "|---|---|---:|---:|---:|---:|---:|---:|",
            *lines,
            "",
            f"Methods that read inputs: {size.tokens[0]} sequences of {size.tokens[1]} random tokens. Measured on "
            f"{read_machine().cpu}, one thread, by the process's own CPU time: other processes ran meanwhile.",
        ]
    )
    return write_result(out, "checkpoint_memory.md", text + "\n")


def main() -> None:
    parser: argparse.ArgumentParser = result_parser(__doc__)
    parser.add_argument("--weight-method", nargs="+", default=["rtn", "gptq-act-order"], help="recipes to measure")
    parser.add_argument("--blocks", type=int, default=2, help="blocks that methods quantize which read inputs")
    arguments = parser.parse_args()
    run(arguments.out, WHOLE, arguments.weight_method, arguments.blocks)


if __name__ == "__main__":
    main()
