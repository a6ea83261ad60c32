"""The process that `edgeq plan --measure` watches: opens a model in transformers, reads a context, reports its memory.

It is a process to itself, so that nothing else is in it: `python -m edgeq.memory.measured_process` with a `Job` as JSON
answers with a `Measured` as the last line of its output.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edgeq.machine import peak_rss_bytes, restart_peak_rss

ONE_SQUARE = ("blip-2", "clip", "llava", "paligemma", "siglip")
"""Families whose images are one square; others are measured without an image."""

_WARM_UP_TOKENS = 16


@dataclass(frozen=True)
class Job:
    """What is measured.

    Attributes:
        config: The `config.json`.
        folder: Folder with weights in safetensors; empty to draw them.
        architecture: Class of the model in transformers; empty if the description does not say.
        context: Tokens to read; 0 for none.
        side: Side of the image in pixels, for one of `ONE_SQUARE`; 0 for none.
    """

    config: str
    folder: str
    architecture: str
    context: int
    side: int


@dataclass(frozen=True)
class Measured:
    """What was found, in bytes.

    Attributes:
        engine: Engine with its version.
        engine_bytes: Memory before there was a model.
        weights: All weights.
        cache: Keys and values.
        before: Memory with the model, before it read anything.
        peak: Most memory while it read.
    """

    engine: str
    engine_bytes: int
    weights: int
    cache: int
    before: int
    peak: int


def measure(job: Job) -> Measured:
    """Returns the memory of this process before and while a model reads a context and an image."""
    import torch
    import transformers

    document = json.loads(Path(job.config).read_text())
    config = transformers.AutoConfig.for_model(**document)
    kind = _class_of(job, document, config)
    engine_bytes = _resident_bytes()
    model = _opened(kind, config, job).eval()
    weights = sum(each.nbytes for each in model.parameters())
    with torch.inference_mode():
        # Libraries load their kernels when they are first called.
        _read(model, dataclasses.replace(job, context=min(job.context, _WARM_UP_TOKENS)), document)
        before = _resident_bytes()
        if restart_peak_rss() is None:
            raise OSError("the system does not count the peak of a process again")
        cache = _read(model, job, document)
    engine = f"transformers {importlib.metadata.version('transformers')}, torch {torch.__version__}"
    return Measured(engine, engine_bytes, weights, cache, before, peak_rss_bytes() or 0)


def _class_of(job: Job, document: Any, config: Any) -> Any:
    """Returns the class of the model, its module imported."""
    import transformers

    if job.architecture:
        return getattr(transformers, job.architecture)
    if document["model_type"] in ("clip", "siglip", "bert"):
        auto = transformers.AutoModel
    else:
        is_vision = "vision_config" in document
        auto = transformers.AutoModelForImageTextToText if is_vision else transformers.AutoModelForCausalLM
    return auto._model_mapping[type(config)]


def _opened(kind: Any, config: Any, job: Job) -> Any:
    import torch

    if job.folder:
        return kind.from_pretrained(
            job.folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
    return kind._from_config(config, dtype=torch.float32)


def _read(model: Any, job: Job, document: Any) -> int:
    """Has the model read an image, then a text, and returns the bytes of keys and values."""
    import torch

    if job.side:
        model.get_image_features(pixel_values=torch.zeros(1, 3, job.side, job.side))
    if not job.context:
        return 0
    family, tokens = document["model_type"], torch.ones(1, job.context, dtype=torch.long)
    if family in ("clip", "siglip"):
        model.get_text_features(input_ids=tokens)
        return 0
    if family == "bert":
        model(input_ids=tokens)
        return 0
    # BLIP-2 as a whole wants an image in every text.
    reader = model.language_model if family == "blip-2" else model
    found = reader(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=True, logits_to_keep=1)
    # transformers renamed it in 5.24.
    cache = getattr(found, "cache", None) or found.past_key_values
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers if layer.keys is not None)


def _resident_bytes() -> int:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Measures what the first argument says, and prints the answer."""
    warnings.simplefilter("ignore")
    job = msgspec.json.decode(sys.argv[1].encode(), type=Job)
    sys.stdout.write(f"\n{json.dumps(dataclasses.asdict(measure(job)))}\n")


if __name__ == "__main__":
    main()
