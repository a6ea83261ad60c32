"""Precisions for which ONNX Runtime has kernels, as files: bundles, what they read, and their speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.cases import code_state
from benchmarks.name_reader.subjects import Subject
from edgeq.bundles.chain import Sample
from edgeq.bundles.export import BundleRequest, export_bundle
from edgeq.bundles.manifest import Bundle
from edgeq.generation.benchmark import GenerationSampling, bench_bundles
from edgeq.generation.model import GeneratingModel, Prompt
from edgeq.generation.parts import OpenParts
from edgeq.generation.search import Limits
from edgeq.machine import read_machine
from edgeq.results.measurement import BenchResult

_BATCH = 50
_HALF = {"vision": "fp16", "connector": "fp16", "embedding": "fp16", "decoder": "fp16", "head": "fp16"}


class Files(NamedTuple):
    """One way to write a subject.

    Attributes:
        title: What the table calls it.
        parts: Part -> precision; empty for FP32.
    """

    title: str
    parts: Mapping[str, str]


def _small(precision: str, *parts: str) -> dict[str, str]:
    return _HALF | dict.fromkeys(parts, precision)


_ALL = ("vision", "connector", "decoder")
FILES = (
    Files("FP32", {}),
    Files("FP16", _HALF),
    Files("8 bits, groups of 32, skip list (decoder alone)", _small("w8g32a-rtn", "decoder")),
    Files("4 bits, groups of 32, all parts", _small("w4g32a-rtn", *_ALL)),
    Files("**asymmetric**: decoder 4 bits, groups of 32", _small("w4g32a-rtn", "decoder")),
    Files("2 bits, groups of 16, all parts, rounding", _small("w2g16a-rtn", *_ALL)),
    Files("2 bits, groups of 16, all parts, GPTQ", _small("w2g16a-gptq", *_ALL)),
)
"""In the order of the table; speeds are compared with the first."""


def measure_files(
    subject: Subject, folder: Path, choices: Sequence[Files], threads: int, seconds: float
) -> dict[str, Any]:
    """Returns size, texts, speed and memory of a subject's files, as JSON.

    Args:
        subject: The subject.
        folder: Where its bundles go, and where those of an earlier call are.
        choices: Which to write.
        threads: CPU threads of ONNX Runtime.
        seconds: Least time that each is timed, over all turns.
    """
    bundles = []
    for number, files in enumerate(choices):
        out = folder / str(number)
        bundles.append(Bundle.load(out) if out.is_dir() else write_files(subject, files, out, threads))
    timed = time_files(bundles, subject, threads, seconds)
    return {
        "threads": threads,
        "state": code_state(),
        "cpu": read_machine().cpu,
        "rows": [
            {
                "title": files.title,
                "bytes": sum(part.size_bytes for part in bundle.parts),
                "texts": read_files(bundle, subject, threads),
                "tokens_per_s": None if speed.generation is None else speed.generation.tokens_per_s,
                "prefill_ms": None if speed.generation is None else speed.generation.prefill_ms,
                "ratio": speed.ratio_to_first,
                "peak_bytes": speed.peak_rss_bytes,
                "baseline_bytes": speed.baseline_rss_bytes,
                "stable": speed.stable,
            }
            for files, bundle, speed in zip(choices, bundles, timed, strict=True)
        ],
    }


def write_files(subject: Subject, files: Files, out: Path, threads: int) -> Bundle:
    """Returns the bundle of a subject."""
    entries = tuple(f"{part}={precision}" for part, precision in files.parts.items())
    calibrated = any(precision.endswith("gptq") for precision in files.parts.values())
    request = BundleRequest(
        subject.folder, parts=entries, samples=(lambda *_: _samples(subject)) if calibrated else None,
        tokenizer="none", threads=threads,
    )  # fmt: skip
    return export_bundle(request, out)


def read_files(bundle: Bundle, subject: Subject, threads: int) -> list[str]:
    """Returns what ONNX Runtime reads with a bundle's files, greedily, for each test image."""
    script, pixels = subject.script, subject.test[0]
    limits = Limits((script.end,), script.longest + 2)
    texts: list[str] = []
    with OpenParts.open(bundle, "onnxruntime", threads) as parts:
        model = GeneratingModel(parts)
        for start in range(0, len(pixels), _BATCH):
            prompts = [
                Prompt(f"image {number}", script.prompt, {"pixel_values": pixels[number : number + 1]})
                for number in range(start, min(start + _BATCH, len(pixels)))
            ]
            texts += [script.text_of(tokens) for tokens in model.generate(prompts, limits)]
    return texts


def time_files(bundles: Sequence[Bundle], subject: Subject, threads: int, seconds: float) -> list[BenchResult]:
    """Returns speed and memory of bundles, in turns, with the subject's prompt and longest answer."""
    script = subject.script
    sampling = GenerationSampling(len(script.prompt), script.longest + 1, seconds=seconds)
    return bench_bundles(bundles, ["onnxruntime"], threads=threads, sampling=sampling)


def _samples(subject: Subject) -> list[Sample]:
    """Returns the calibration images, each with its text as the answer."""
    pixels, texts = subject.calibration
    tokens: np.ndarray = subject.script.tokens_of(texts)[:, :-1]
    return [
        {"pixel_values": image[None], "input_ids": row[None]} for image, row in zip(pixels, tokens, strict=True)
    ]  # fmt: skip
