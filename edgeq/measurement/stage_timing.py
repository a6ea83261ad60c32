"""What an image costs beside inference: from pixels to a model's input, and from its outputs to predictions.

`time_stages` is called by the runner of a benchmark, in the process and on the device where the model ran, after the
model was timed and its memory was read.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from edgeq.inputs.preprocessing import preprocess
from edgeq.runtimes.base import Session
from edgeq.runtimes.latency import summarize
from edgeq.tasks import find_decoder

# The most frequent size of COCO's images.
_IMAGE_PX = (480, 640)
MIN_RUNS, MIN_S = 64, 0.2
"""Samples of a stage, and the sum of their times, that suffice for its figures."""

_MAX_NS = 2_000_000_000
_WARMUP_RUNS = 3
_STATISTICS = ("runs", "p50", "p90", "mean", "min", "max", "mad")


def time_stages(session: Session, min_runs: int = MIN_RUNS, min_s: float = MIN_S) -> dict[str, Any]:
    """Returns `preprocess_ms`, `postprocess_ms` and `problem`, as JSON values.

    The image is noise of 480 x 640 pixels, decoded already; the outputs are the model's own for it, so that a decoder
    finds what a model finds in noise. Either is null where the manifest does not describe it; `problem` says why one
    that is described could not be timed, and is null otherwise.

    Args:
        session: The open model.
        min_runs: Samples of each stage, at least.
        min_s: Sum of the samples of each stage, at least.
    """
    answer: dict[str, Any] = {"preprocess_ms": None, "postprocess_ms": None, "problem": None}
    inputs, pre, post = session.artifact.inputs, session.artifact.preprocessing, session.artifact.postprocessing
    if pre is None or len(inputs) != 1 or inputs[0].shape[:1] not in ((1,), (None,)):
        return answer
    spec = inputs[0]
    image = np.random.default_rng(0).integers(0, 256, (*_IMAGE_PX, 3), np.uint8)
    try:
        answer["preprocess_ms"] = {
            **_time(lambda: spec.encode(preprocess(image, pre)[0]), min_runs, min_s),
            "image_px": list(_IMAGE_PX),
        }
        if post is not None:
            array, placement = preprocess(image, pre)
            outputs = session.run({spec.name: spec.encode(array)})
            decode, specs = find_decoder(post).decode, session.artifact.outputs
            answer["postprocess_ms"] = _time(
                lambda: decode({each.name: each.decode(outputs[each.name]) for each in specs}, post, placement),
                min_runs,
                min_s,
            )
    except Exception as error:  # a decoder of the user's raises what it likes, and a latency is no less true for it
        answer["problem"] = f"{type(error).__name__}: {error}"
    return answer


def _time(work: Callable[[], object], min_runs: int, min_s: float) -> dict[str, Any]:
    for _ in range(_WARMUP_RUNS):
        work()
    samples: list[int] = []
    elapsed = 0
    while (len(samples) < min_runs or elapsed < min_s * 1e9) and elapsed < _MAX_NS:
        before = time.perf_counter_ns()
        work()
        samples.append(time.perf_counter_ns() - before)
        elapsed += samples[-1]
    statistics = summarize(samples)
    return {name: getattr(statistics, name) for name in _STATISTICS}
