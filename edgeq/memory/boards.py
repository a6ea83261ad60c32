"""Devices with their memory, and what of it is not for the model. What was not measured is a stated assumption."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgeq.errors import InputError
from edgeq.machine import read_machine

_MIB = 1 << 20
_GIB = 1 << 30
_UNITS = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 1 << 10, "mib": _MIB, "gib": _GIB, "tib": 1 << 40}
_SIZE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)\s*([a-z]+)")

THIS_MACHINE = "local"
"""The device that is measured instead of assumed."""


@dataclass(frozen=True)
class Board:
    """A device.

    Attributes:
        name: What it is called.
        memory_bytes: Its memory, shared by CPU and GPU.
        system_bytes: What system and firmware take.
        engine_bytes: What the engine takes before it has a model.
        floats: What its engines compute and store floats in.
        source: Where the two figures are from, in a sentence.
    """

    name: str
    memory_bytes: int
    system_bytes: int
    engine_bytes: int
    floats: Literal["fp16", "fp32"]
    source: str


def _jetson(name: str, gibibytes: int) -> Board:
    # Firmware keeps some hundred MB of every module, JetPack without a desktop about as much again.
    system, engine = 1500 * _MIB, 1000 * _MIB
    source = (
        "System (firmware and JetPack without a desktop) and engine (CUDA context, libraries of TensorRT) are assumed, "
        "not measured: read `free -b` on the board before and after an engine is opened, and give `reserved`."
    )
    return Board(name, gibibytes * _GIB, system, engine, "fp16", source)


BOARDS = {
    board.name: board
    for board in (
        _jetson("orin-nano-4", 4), _jetson("orin-nano", 8), _jetson("orin-nx-8", 8), _jetson("orin-nx", 16),
        _jetson("agx-orin-32", 32), _jetson("agx-orin", 64),
    )
}  # fmt: skip
"""Name -> device. Their modules' names, with the memory where there are several."""


def find_board(name: str, root: Path = Path("/")) -> Board:
    """Returns a device.

    Args:
        name: One of `BOARDS`, or `local` for this machine.
        root: Folder that holds `proc`, for this machine.

    Raises:
        InputError: there is none of that name, or this system does not report its memory.
    """
    if name in BOARDS:
        return BOARDS[name]
    if name != THIS_MACHINE:
        raise InputError(f"unknown `device` {name!r}; known: {', '.join(BOARDS)}, {THIS_MACHINE}")
    total, available = read_machine(root).memory_bytes, _available_bytes(root)
    if total is None or available is None:
        raise InputError("this system does not report its memory; name another `device`")
    source = (
        "System is what this machine has in use now. Engine (Python and an engine's libraries) is assumed, 300 MiB; "
        "`measure` measures it."
    )
    return Board(THIS_MACHINE, total, total - available, 300 * _MIB, "fp32", source)


def parse_bytes(text: str, source: str) -> int:
    """Returns the bytes of a size such as `16GB` (10^9 each) or `15.3GiB` (2^30 each).

    Args:
        text: What was written.
        source: Where, for the error.

    Raises:
        InputError: it is not a size above 0.
    """
    found = _SIZE.fullmatch(text.strip().lower())
    size = round(float(found[1]) * _UNITS[found[2]]) if found and found[2] in _UNITS else 0
    if not size:
        raise InputError(f"{source} {text!r}: wanted a size above 0 with its unit, such as 16GB or 7.4GiB")
    return size


def _available_bytes(root: Path) -> int | None:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
