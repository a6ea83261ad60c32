"""Runs a model in a process of this machine and compares its memory with what is planned for it."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys

from edgeq.boundary import parse_json
from edgeq.errors import EngineError, InputError, MissingDependencyError
from edgeq.memory.architecture import Architecture
from edgeq.memory.boards import THIS_MACHINE, find_board
from edgeq.memory.config_file import ConfigFile
from edgeq.memory.measured_process import ONE_SQUARE, Job, Measured
from edgeq.memory.run_time import activation_bytes, cache_bytes
from edgeq.memory.storage import stored_bytes
from edgeq.results.memory_plan import MeasuredMemory, MemoryPlan

_FLOATS, _WIDTH = "fp32", 4
_ENVIRONMENT = {
    # Nothing is fetched, whatever the description names.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    # Freed blocks are given back at once (mallopt(3)); otherwise the peak depends on how the heap is cut up.
    "MALLOC_MMAP_THRESHOLD_": "65536",
}
_TIMEOUT_S = 1800
_LAST_CHARACTERS = 200


def measure_memory(config: ConfigFile, model: Architecture, plan: MemoryPlan) -> MeasuredMemory:
    """Returns what a process takes that reads the plan's context in FP32, and what is planned for that.

    Weights are read from safetensors next to the description; without such files they are drawn, which takes the same
    memory. Pickled weights are never read.

    Args:
        config: The model's description.
        model: What it says.
        plan: What is planned; its context is taken.

    Raises:
        MissingDependencyError: transformers is not installed.
        InputError: this machine has too little memory, or is not Linux.
        EngineError: the model cannot be opened or run.
    """
    if importlib.util.find_spec("transformers") is None or importlib.util.find_spec("torch") is None:
        raise MissingDependencyError("transformers", "language", "running a model with `measure`")
    vision = model.vision if config.model_type in ONE_SQUARE else None
    image = None if vision is None else vision.tokens(vision.image_size)
    weights = sum(stored_bytes(part.weights, _FLOATS, _FLOATS) for part in model.parts)
    cache = 0 if model.decoder is None else cache_bytes(model.decoder, plan.context, 0, _FLOATS)
    activations = activation_bytes(model, plan.context, image, _WIDTH)
    board = find_board(THIS_MACHINE)
    free, needed = board.memory_bytes - board.system_bytes, weights + cache + activations + board.engine_bytes
    if needed > free:
        raise InputError(
            f"{config.path}: takes {needed / 1e9:.2f} GB in FP32, and {free / 1e9:.2f} are free here; omit `measure`, "
            "or give a shorter `context`"
        )
    folder = config.path.parent
    has_weights = config.path.name == "config.json" and any(folder.glob("*.safetensors"))
    side = 0 if vision is None else vision.image_size[0]
    job = Job(str(config.path), str(folder) if has_weights else "", config.architecture, plan.context, side)
    found = _run(job)
    return MeasuredMemory(
        engine=found.engine,
        weights=found.weights,
        planned_weights=weights,
        cache=found.cache,
        planned_cache=cache,
        activations=max(0, found.peak - found.before - found.cache),
        planned_activations=activations,
        engine_bytes=found.engine_bytes,
        peak=found.peak,
        context=plan.context,
        with_image=image is not None,
        random_weights=not has_weights,
    )


def _run(job: Job) -> Measured:
    command = [sys.executable, "-m", "edgeq.memory.measured_process", json.dumps(dataclasses.asdict(job))]
    environment = {**os.environ, **_ENVIRONMENT}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"{job.config}: took over {_TIMEOUT_S} s to run; give a shorter `context`") from error
    if done.returncode != 0:
        said = " ".join(done.stderr.split())[-_LAST_CHARACTERS:]
        raise EngineError(f"{job.config}: transformers cannot run it here (exit code {done.returncode}): ...{said}")
    line = done.stdout.strip().splitlines()[-1]
    return parse_json(line.encode(), Measured, source="the measured process", kind="its memory", error=EngineError)
