"""Discrete GPUs of NVIDIA: `nvidia-smi`; a Jetson's has no such program, or one that does not know these fields.

Their energy is a counter of NVML, in millijoules since the driver was loaded. Functions and their numbers are those of
NVIDIA's NVML reference; the counter exists from Volta on. With several GPUs nothing tells which of them computes, and
none is read.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeq.sensors.base import Sensor, ask

_FIELDS = (
    "name",
    "temperature.gpu",
    "pstate",
    "power.draw",
    "clocks.current.graphics",
    "clocks_throttle_reasons.active",
)
_NVML = "libnvidia-ml.so.1"
_NAME_BYTES = 96
_NUMBER = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")
_MASK = re.compile(r"0x[0-9a-fA-F]{1,16}")
# NVML's nvmlClocksThrottleReasons; those of an idle GPU and of clocks that were set are none.
_REASONS = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}


def read(root: Path) -> list[dict[str, Any]] | None:
    """Returns for each GPU `name`, `temperature_c`, `pstate`, `watts`, `mhz` and `throttling`, each or null."""
    answer = ask(root, "nvidia-smi", f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits")
    return parse(answer)


def parse(answer: str | None) -> list[dict[str, Any]] | None:
    """Returns what is in the table that nvidia-smi printed; lines of another form are left out."""
    rows = [[cell.strip() for cell in line.split(",")] for line in (answer or "").splitlines()]
    gpus = [_parse_row(row) for row in rows if len(row) == len(_FIELDS)]
    return gpus or None


def _parse_row(row: list[str]) -> dict[str, Any]:
    name, celsius, pstate, watts, mhz, mask = row
    bits = int(mask, 16) if _MASK.fullmatch(mask) else None
    return {
        "name": name,
        "temperature_c": _number(celsius),
        "pstate": pstate if pstate.startswith("P") else None,
        "watts": _number(watts),
        "mhz": _number(mhz),
        "throttling": None if bits is None else [reason for bit, reason in _REASONS.items() if bits & bit],
    }


def _number(text: str) -> float | None:
    return float(text) if _NUMBER.fullmatch(text) else None


def _troubles(briefs: Sequence[list[dict[str, Any]]]) -> list[str]:
    found = (f"GPU {gpu['name']}: {reason}" for gpus in briefs for gpu in gpus for reason in gpu["throttling"] or [])
    return list(dict.fromkeys(found))


SENSOR = Sensor(read, lambda reading: reading, _troubles, on_gpu=True)


class GpuEnergy:
    """The counter of the one GPU.

    Args:
        library: NVML, started.
        handle: The GPU.

    Attributes:
        source: What is measured, for people.
    """

    def __init__(self, library: Any, handle: ctypes.c_void_p) -> None:
        self._library, self._handle = library, handle
        name = ctypes.create_string_buffer(_NAME_BYTES)
        known = library.nvmlDeviceGetName(handle, name, _NAME_BYTES) == 0
        self.source = f"NVML {name.value.decode(errors='replace') if known else 'GPU'} (the card alone)"

    def read_j(self) -> float | None:
        """Returns the energy in J, or `None` where the GPU does not count it."""
        millijoules = ctypes.c_ulonglong()
        code = self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle, ctypes.byref(millijoules))
        return millijoules.value / 1000 if code == 0 else None


def open_gpu_energy(root: Path, library: Any = None) -> GpuEnergy | None:
    """Returns the counter of this machine's GPU; `None` where there is none, or more than one GPU.

    Args:
        root: Folder that holds `sys`; a tree of files that stands in for a machine has no driver.
        library: NVML; by default the driver's.
    """
    if library is None:
        if root != Path("/"):
            return None
        try:
            library = ctypes.CDLL(_NVML)
        except OSError:
            return None
    count, handle = ctypes.c_uint(), ctypes.c_void_p()
    if library.nvmlInit_v2() or library.nvmlDeviceGetCount_v2(ctypes.byref(count)) or count.value != 1:
        return None
    if library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle)):
        return None
    energy = GpuEnergy(library, handle)
    return energy if energy.read_j() is not None else None
