"""Targets: what a device runs, and which quantization rules its engine rewards.

A target is one file in this folder and one line in `TARGETS`; third parties register through the entry point group
`edgeq.targets`.
"""

from __future__ import annotations

from edgeq.errors import InputError
from edgeq.registry import load_entry
from edgeq.targets.base import Rules, Target

__all__ = ["TARGETS", "Rules", "Target", "get_target"]

TARGETS: dict[str, str] = {
    "arm": "edgeq.targets.arm:ARM",
    "jetson-orin": "edgeq.targets.jetson:JETSON_ORIN",
    "jetson-orin-trt11": "edgeq.targets.jetson:JETSON_ORIN_TRT11",
    "x86": "edgeq.targets.x86:X86",
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
