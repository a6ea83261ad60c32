"""Which x86 CPUs a file is for, by what they add INT8 products with."""

from __future__ import annotations

import dataclasses
from typing import get_args

from edgeq.errors import InputError
from edgeq.machine import Machine
from edgeq.targets.base import Isa, Target
from edgeq.targets.x86 import for_isa

ISAS: tuple[Isa, ...] = get_args(Isa)
"""What `--isa` takes."""

ANY: Isa = "any"


def machine_isa(machine: Machine) -> Isa | None:
    """Returns what a machine adds INT8 products with; `None` for one that is not x86."""
    if machine.architecture not in ("x86_64", "AMD64"):
        return None
    features = set(machine.cpu_features)
    if "amx_int8" in features:
        return "amx"
    return "vnni" if features & {"avx512_vnni", "avx_vnni"} else "avx2"


def parse_isa(name: str) -> Isa:
    """Returns a name that `--isa` takes.

    Raises:
        InputError: it is none.
    """
    if name not in ISAS:
        raise InputError(f"`isa` {name}: known are {', '.join(ISAS)}")
    return name


def with_isa(target: Target, name: str | None, machine: Machine) -> Target:
    """Returns a target whose files are for certain x86 CPUs.

    Args:
        target: The target.
        name: What the user asks for; `None` means this machine, and any CPU if this machine is not x86.
        machine: This machine.

    Raises:
        InputError: there is no such name, or the target is not x86.
    """
    if target.rules.isa is None:
        if name is not None:
            raise InputError(f"`isa` {name}: {target.name} has no x86 engines; omit `isa`")
        return target
    isa = parse_isa(name) if name is not None else machine_isa(machine) or ANY
    return for_isa(dataclasses.replace(target, rules=dataclasses.replace(target.rules, isa=isa)), isa)
