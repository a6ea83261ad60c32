"""`edgeq.plan`: what a language or vision-language model takes of a device's memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from edgeq.api.arguments import FilePath, path
from edgeq.memory.boards import parse_bytes
from edgeq.results.memory_plan import MemoryPlan
from edgeq.sources.model import parse_size
from edgeq.verbs.memory_plan import parse_pinned, plan_model


def plan(
    model: FilePath,
    *,
    device: str = "orin-nx",
    memory: str | int | None = None,
    reserved: str | int | None = None,
    context: int | None = None,
    image: str | tuple[int, int] | None = None,
    kv: Literal["float", "int8"] = "float",
    part: Sequence[str] = (),
    measure: bool = False,
) -> MemoryPlan:
    """Returns what a model takes of a device's memory, from its `config.json` alone.

    Args:
        model: A local Hugging Face folder, or its `config.json`. Its code is never run.
        device: `orin-nano-4`, `orin-nano`, `orin-nx-8`, `orin-nx`, `agx-orin-32`, `agx-orin` or `local`.
        memory: Memory of the device if it differs: bytes, or `16GB`, `7.4GiB`.
        reserved: What system and engine take of it; by default a stated assumption.
        context: Tokens, the image's included; by default 2,048.
        image: Height and width of an image in pixels; by default the model's own size.
        kv: What keys and values are stored in: the engine's float type, or `int8`.
        part: Parts with a fixed precision, `PART=PRECISION` each, such as `decoder=w4g32a`.
        measure: Whether to run the model here in FP32 with transformers, for comparison.

    Raises:
        InputError: there is no such description, its family is unknown, or nothing can be planned for what is asked.
        ModelError: the model brings code, or this variant of its family is not known.
        MissingDependencyError: `measure` without transformers.
        EngineError: the model cannot be run here.
    """
    return plan_model(
        path(model, "model"),
        device=device,
        memory_bytes=_bytes(memory, "`memory`"),
        reserved_bytes=_bytes(reserved, "`reserved`"),
        context=context,
        image=parse_size(image, "`image`") if isinstance(image, str) else image,
        kv=kv,
        pinned=parse_pinned(tuple(part)),
        measure=measure,
    )


def _bytes(size: str | int | None, source: str) -> int | None:
    return parse_bytes(size, source) if isinstance(size, str) else size
