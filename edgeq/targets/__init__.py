"""Targets: what a device runs, and which quantization rules its engine rewards.

A target is one file in this folder and one line in `TARGETS`; third parties register through the entry point group
`edgeq.targets`.
"""

from __future__ import annotations

from edgeq.errors import InputError
from edgeq.registry import load_entry
from edgeq.targets.base import Rules, Target

__all__ = ["TARGETS", "Rules", "Target", "for_runtime", "get_target"]

TARGETS: dict[str, str] = {
    "arm": "edgeq.targets.arm:ARM",
    "jetson-orin": "edgeq.targets.jetson:JETSON_ORIN",
    "jetson-orin-trt11": "edgeq.targets.jetson:JETSON_ORIN_TRT11",
    "rtx": "edgeq.targets.rtx:RTX",
    "x86": "edgeq.targets.x86:X86",
    "x86-openvino": "edgeq.targets.x86:X86_OPENVINO",
    "x86-ort": "edgeq.targets.x86:X86_ORT",
}


def get_target(name: str) -> Target:
    """Returns the target of that name.

    Raises:
        InputError: there is none of that name.
    """
    target = load_entry("target", TARGETS, name)
    if not isinstance(target, Target):
        raise InputError(f"target {name!r}: its entry is {type(target).__name__}, wanted edgeq.targets.Target")
    return target


def for_runtime(name: str, runtime: str | None) -> str:
    """Returns the name of the target whose files are planned for a runtime, of those that a target stands for.

    Args:
        name: A name of `TARGETS`.
        runtime: The runtime; `None` leaves the choice to the target.

    Raises:
        InputError: the target's files are not for that runtime.
    """
    target = get_target(name)
    if runtime is None or (runtime == target.runtimes[0] and not target.engines):
        return name
    if runtime not in target.engines:
        wanted = ", ".join(target.engines or target.runtimes[:1])
        raise InputError(f"`runtime` {runtime}: the files of the target {name} are planned for {wanted}; choose it")
    return target.engines[runtime]
