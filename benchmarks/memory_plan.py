"""Does `edgeq plan` say what published studies of these models report?

`python -m benchmarks.memory_plan` plans from descriptions alone and puts published totals next to the plans, with what
explains the difference. Nothing is downloaded or timed, and the figures are the same on every machine.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cases import result_parser, write_result
from benchmarks.published_models import CONFIGS
from edgeq.memory.config_file import read_config
from edgeq.memory.families import read_architecture
from edgeq.memory.storage import stored_bytes
from edgeq.results.memory_plan import MemoryPlan
from edgeq.verbs.memory_plan import plan_model

PLANNED = (
    "llava-1.5-7b", "llava-1.5-13b", "llava-v1.6-mistral-7b", "llama-3.2-11b-vision", "qwen2-vl-2b", "qwen2-vl-7b",
    "qwen2.5-vl-3b", "blip2-opt-2.7b", "smolvlm-256m", "idefics3-8b", "paligemma-3b-224", "llama-3.2-1b", "mistral-7b",
)  # fmt: skip
_GIB = 1 << 30


@dataclass(frozen=True)
class Published:
    """A total that a study reports.

    Attributes:
        model: Name of the model, a key of `CONFIGS`.
        setting: What the study calls the setting.
        gb: What it reports, in `unit`.
        precisions: Part -> precision that the setting means here; parts that are not named are in `rest`.
        rest: Precision of the other parts.
        because: What explains the difference.
        unit: Bytes of one of its GB.
    """

    model: str
    setting: str
    gb: float
    rest: str
    because: str
    precisions: Mapping[str, str]
    unit: int = 10**9


_WORDS = {"embedding": "fp16", "head": "fp16"}
_SIGHT = {"vision": "fp16", "connector": "fp16"}
PUBLISHED = (
    Published("llava-1.5-7b", "FP16", 14.2, "fp16", "rounded up", {}),
    Published("llava-1.5-7b", "INT8", 8.1, "w8", "the rest is not stated", _SIGHT | _WORDS),
    Published("llava-1.5-7b", "language part in NF4", 4.8, "nf4", "4.2 of it for the language part, which takes 3.98 "
              "without double quantization; the rest is not stated", _SIGHT | _WORDS),
    Published("llava-1.5-13b", "FP16", 26.0, "fp16", "13 billion parameters, rounded down", {}),
    Published("llava-1.5-13b", "NF4 throughout", 7.8, "nf4", "embedding and head in FP16, as bitsandbytes does; "
              "the rest is not stated", _WORDS),
    Published("llava-1.5-13b", "language part in NF4", 11.4, "nf4", "a total on the board: keys and values of 2,048 "
              "tokens (1.68), activations (0.22) and the engine (1.05) make 10.8 of these weights", _SIGHT | _WORDS),
    Published("llama-3.2-11b-vision", "FP16", 22.0, "fp16", "11 billion parameters, rounded up", {}),
    Published("llama-3.2-11b-vision", "language part in NF4", 6.8, "nf4", "equal, if the head is in NF4 too", _SIGHT),
    Published("llama-3.2-11b-vision", "NF4 throughout", 5.5, "nf4", "11 billion parameters, no scales", {}),
    Published("llama-3.2-90b-vision", "FP16", 180.0, "fp16", "90 billion parameters", {}),
    Published("llama-3.2-90b-vision", "language part in NF4", 48.0, "nf4", "90 billion parameters", _SIGHT),
    Published("qwen2-vl-2b", "BF16", 4.41, "fp16", "equal", {}),
    Published("qwen2-vl-2b", "bitsandbytes, 8 bits", 2.44, "w8", "equal, if the embedding stays in BF16", _WORDS),
    Published("qwen2-vl-2b", "bitsandbytes, 4 bits", 1.45, "nf4", "the embedding stays in BF16; scales apart", _WORDS),
    Published("qwen2-vl-2b", "own 8 bits per row", 2.967, "w8", "vision, embedding and head are said to be skipped; "
              "the difference is not explained", _SIGHT | _WORDS),
    Published("blip2-opt-2.7b", "float32", 14.43, "fp32", "the head is counted, although it is the embedding once more",
              {}, _GIB),
    Published("blip2-opt-2.7b", "float16", 7.21, "fp16", "the same", {}, _GIB),
    Published("blip2-opt-2.7b", "int4", 1.8, "w4", "every value in 4 bits and nothing for scales, the head counted "
              "twice", {}, _GIB),
    Published("llama-7b", "INT8", 7.0, "w8", "7 billion parameters; here 6.74", {}),
    Published("llama-7b", "INT4", 3.5, "w4g128", "7 billion parameters without scales", {}),
    Published("bert-large", "FP32", 1.36, "fp32", "340 million parameters, rounded up", {}),
    Published("bert-base", "FP32", 0.438, "fp32", "equal", {}),
    Published("bert-base", "dynamic INT8", 0.1815, "w8", "equal, if the embedding is FP32", {"embedding": "fp32"}),
)  # fmt: skip
"""What studies report, with the setting as it is understood here."""


def plan_of(name: str, folder: Path, **options: object) -> MemoryPlan:
    """Returns the plan of a published model on an Orin NX."""
    return plan_model(described(name, folder), **options)  # type: ignore[arg-type]


def described(name: str, folder: Path) -> Path:
    """Returns the file with a model's description."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps(CONFIGS[name]))
    return path


def compared(found: Published, folder: Path) -> str:
    """Returns the row of a published total."""
    model = read_architecture(read_config(described(found.model, folder)))
    floats = "fp32" if found.model.startswith("bert") else "fp16"
    bytes_ = sum(
        stored_bytes(
            part.weights, found.precisions.get(part.name, found.rest), floats if found.rest != "fp32" else "fp32"
        )
        for part in model.parts
    )
    ours = bytes_ / found.unit
    return (
        f"| {found.model} | {found.setting} | {found.gb:g} | {ours:.2f} | {100 * (ours / found.gb - 1):+.1f} % | "
        f"{found.because} |"
    )


def planned(name: str, folder: Path) -> str:
    """Returns the row of a plan for an Orin NX."""
    plan = plan_of(name, folder)
    by_name = {each.name: each for each in plan.precisions}
    weights = [
        sum(part.bytes_by_precision[precision] for part in plan.parts) / 1e9 for precision in ("fp16", "w8", "w4g128")
    ]
    per_token = plan_of(name, folder, context=plan.context - 1).use.cache
    chosen = plan.chosen or "nothing fits"
    cells = [
        name, f"{plan.parameters:,}", *(f"{each:.2f}" for each in weights),
        f"{by_name['asymmetric'].weight_bytes / 1e9:.2f}" if "asymmetric" in by_name else "-",
        f"{(plan.use.cache - per_token) / 1024:g}", f"{plan.image_tokens:,}" if plan.image else "-",
        f"{plan.use.cache / 1e6:,.0f}", f"{plan.use.activations / 1e6:,.0f}", chosen, f"{plan.use.total / 1e9:.2f}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def run(out: Path) -> Path:
    """Returns the result file.

    Args:
        out: Folder for the result.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        plans = [planned(name, folder) for name in PLANNED]
        totals = [compared(each, folder) for each in PUBLISHED]
    text = [
        "# Memory of language and vision-language models, planned from their descriptions", "",
        "GB are 10^9 bytes. Parameters are exact: tests compare every part with transformers 5.24 on the meta device. "
        "Weights in FP16, in 8 bits per output channel, in 4 bits per group of 128, and with the decoder alone in 4 "
        "bits. Keys and values, activations and total: on an Orin NX of 16 GiB, for a context of 2,048 tokens (more if "
        "an image alone takes that) and an image of the model's own size; system and engine are assumed to take 2.62 "
        "GB.", "",
        "| model | parameters | FP16 | w8 | w4g128 | asymmetric | KiB per token | image tokens | keys, values MB | "
        "activations MB | chosen | total GB |",
        f"|---|{'--:|' * 9}---|--:|", *plans, "",
        "## Published totals", "",
        "Weights alone, in the unit of the study; the last column says what else its figure seems to hold.", "",
        "| model | setting | published GB | planned GB | difference | because |", "|---|---|--:|--:|--:|---|", *totals,
        "",
        "A study states 2 to 4 GB for keys and values of Llama-3.2-Vision 11B at 2,048 tokens. Its 8 heads of keys and "
        "values for 32 of queries make that 0.27 GB, and 0.21 for the image in its 8 layers of cross-attention.", "",
        "Computed, not measured: the same on every machine.",
    ]  # fmt: skip
    return write_result(out, "memory_plan.md", "\n".join(text) + "\n")


def main() -> None:
    run(result_parser(__doc__).parse_args().out)


if __name__ == "__main__":
    main()
