"""`edgeq plan`: what a language or vision-language model takes of a device's memory, before anything is downloaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from edgeq.errors import InputError
from edgeq.memory.architecture import ImageSize
from edgeq.memory.boards import find_board
from edgeq.memory.config_file import read_config
from edgeq.memory.families import read_architecture
from edgeq.memory.planner import PlanRequest, plan_memory
from edgeq.results.memory_plan import MemoryPlan

DEFAULT_DEVICE = "orin-nx"


def plan_model(
    model: Path,
    *,
    device: str = DEFAULT_DEVICE,
    memory_bytes: int | None = None,
    reserved_bytes: int | None = None,
    context: int | None = None,
    image: ImageSize | None = None,
    kv: Literal["float", "int8"] = "float",
    pinned: Mapping[str, str] | None = None,
    measure: bool = False,
) -> MemoryPlan:
    """Returns what a model takes of a device's memory, from its `config.json` alone.

    Args:
        model: A Hugging Face folder, or its `config.json`. Its code is never run, its weights are not read.
        device: One of `edgeq.memory.boards.BOARDS`, or `local`.
        memory_bytes: Memory of the device, if it is not what its name says.
        reserved_bytes: What system and engine take of it; by default a stated assumption.
        context: Tokens; by default 2,048, or as many as the model was made for.
        image: Height and width of its images; by default the model's own size.
        kv: What keys and values are stored in: the engine's float type, or `int8`.
        pinned: Part -> the precision that it has in any case.
        measure: Whether to run the model here in a separate process, for comparison: then its weights are read.

    Raises:
        InputError: there is no config.json, it is not whole, its family is unknown, or nothing can be planned for what
            is asked.
        ModelError: the model brings code, or this variant of its family is not known.
        MissingDependencyError: `measure` without transformers.
        EngineError: the model cannot be run here.
    """
    if kv not in ("float", "int8"):
        raise InputError(f"`kv` {kv!r}: wanted float or int8")
    config = read_config(model)
    architecture = read_architecture(config)
    request = PlanRequest(find_board(device), memory_bytes, reserved_bytes, context, image, kv, pinned or {})
    plan = plan_memory(config.name, architecture, request)
    if not measure:
        return plan
    from edgeq.memory.measured import measure_memory

    return dataclasses.replace(plan, measured=measure_memory(config, architecture, plan))


def parse_pinned(stated: tuple[str, ...]) -> dict[str, str]:
    """Returns part -> precision of texts `PART=PRECISION`.

    Raises:
        InputError: a text has another form.
    """
    found = {}
    for each in stated:
        part, separator, precision = each.partition("=")
        if not (separator and part and precision):
            raise InputError(f"`part` {each!r}: wanted PART=PRECISION, such as decoder=w4g128")
        found[part] = precision
    return found
