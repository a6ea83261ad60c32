"""The process that `edgeq bench` watches while a bundle generates: one bundle, opened part by part, then timed.

Memory is counted by process and never falls, so each turn of each bundle has one to itself:
`python -m edgeq.generation.timed_process` with a `TimedJob` as JSON answers with a `Timed` in its last line.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgeq.bundles.manifest import Bundle, read_manifest
from edgeq.generation.model import GeneratingModel, Prompt, Times
from edgeq.generation.parts import OpenParts
from edgeq.generation.search import Limits
from edgeq.machine import peak_rss_bytes
from edgeq.runtimes import get_runtime
from edgeq.runtimes.base import Session

_SEED = 0


@dataclass(frozen=True)
class TimedJob:
    """What is timed.

    Attributes:
        folder: The bundle.
        runtime: The engine.
        threads: CPU threads; `None` leaves it to the engine.
        prompt_tokens: Tokens of the prompt, those of an image included.
        new_tokens: Tokens that follow it.
        seconds: Least time of one turn, after a warm-up.
    """

    folder: str
    runtime: str
    threads: int | None
    prompt_tokens: int
    new_tokens: int
    seconds: float


@dataclass(frozen=True)
class Timed:
    """What was found.

    Attributes:
        prefill_ns: Each time from the prompt to the first token, the image included.
        images_ns: The same for the image alone; none without a vision part.
        steps_ns: Each step after it.
        part_bytes: Part -> how much the process grew when it was opened.
        baseline_bytes: Memory before the first part was opened.
        peak_bytes: The most memory of the process.
        environment: What the session of the decoder reports.
    """

    prefill_ns: list[int]
    images_ns: list[int]
    steps_ns: list[int]
    part_bytes: dict[str, int]
    baseline_bytes: int
    peak_bytes: int
    environment: dict[str, Any]


def timed(job: TimedJob) -> Timed:
    """Returns times and memory of a bundle in this process, on a drawn prompt and a grey image."""
    bundle = read_manifest(Path(job.folder))
    # What the engine's libraries take is not the first part's.
    get_runtime(job.runtime).import_engine()
    baseline = _resident_bytes()
    part_bytes: dict[str, int] = {}
    sessions: dict[str, Session] = {}
    for part in bundle.parts:
        before = _resident_bytes()
        sessions |= OpenParts.open(bundle, job.runtime, job.threads, only=[part.name]).sessions
        part_bytes[part.name] = max(0, _resident_bytes() - before)
    with OpenParts(bundle, job.runtime, sessions) as parts:
        model = GeneratingModel(parts)
        prompt = _drawn(bundle, job.prompt_tokens)
        # No token ends the text, so that every round takes as many steps.
        model.generate([prompt], Limits((), min(job.new_tokens, 3)))
        model.times = Times()
        images: list[int] = []
        started = time.perf_counter()
        while not images or time.perf_counter() - started < job.seconds:
            model.generate([prompt], Limits((), job.new_tokens))
            images.append(model.times.images_ns - sum(images))
        return Timed(
            prefill_ns=model.times.prefill_ns,
            images_ns=images if prompt.images else [],
            steps_ns=model.times.steps.steps_ns,
            part_bytes=part_bytes,
            baseline_bytes=baseline,
            peak_bytes=peak_rss_bytes() or 0,
            environment=sessions["decoder"].environment(),
        )


def _drawn(bundle: Bundle, length: int) -> Prompt:
    """Returns a prompt of so many tokens, with an image if the model takes one of a fixed size."""
    tokens, images = bundle.tokens, _image(bundle)
    stand_ins = [*tokens.before_image, *[tokens.image or 0] * (tokens.per_image or 0), *tokens.after_image]
    block = stand_ins if images else []
    rng = np.random.default_rng(_SEED)
    # The vocabulary is the last axis of the logits; its first tokens are the same in speed as any others.
    width = bundle.require_part("decoder").outputs[0].shape[-1]
    words = [each for each in range(width if isinstance(width, int) else 2) if each != tokens.image]
    rest = rng.choice(words, max(1, length - len(block)))
    return Prompt("the drawn prompt", (*block, *map(int, rest)), images)


def _image(bundle: Bundle) -> Mapping[str, np.ndarray]:
    vision = bundle.part("vision")
    if vision is None or len(vision.inputs) != 1 or bundle.tokens.per_image is None:
        return {}
    (taken,) = vision.inputs
    shape = [1, *(axis for axis in taken.shape[1:] if isinstance(axis, int))]
    return {taken.name: np.zeros(shape, taken.dtype)} if len(shape) == len(taken.shape) else {}


def _resident_bytes() -> int:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Times what the first argument says, and prints the answer."""
    job = msgspec.json.decode(sys.argv[1].encode(), type=TimedJob)
    sys.stdout.write(f"\n{json.dumps(dataclasses.asdict(timed(job)))}\n")


if __name__ == "__main__":
    main()
