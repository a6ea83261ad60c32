"""Clock and load of a Jetson's GPU, from the kernel's devfreq."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeq.sensors.base import Sensor, listed, read_int, read_text

# Names in the device tree: Xavier, TX2, Orin, and the newer generic one.
_GPUS = ("gv11b", "gp10b", "ga10b", "gpu")


def read(root: Path) -> dict[str, Any] | None:
    """Returns `mhz`, `min_mhz`, `max_mhz`, `governor` and `load_percent`, each or null."""
    folder = _find(root)
    if folder is None:
        return None
    per_mille = read_int(folder / "device/load")
    return {
        "mhz": _mhz(folder / "cur_freq"),
        "min_mhz": _mhz(folder / "min_freq"),
        "max_mhz": _mhz(folder / "max_freq"),
        "governor": read_text(folder / "governor"),
        "load_percent": None if per_mille is None else per_mille / 10,
    }


def _find(root: Path) -> Path | None:
    folders = listed(root, "sys/class/devfreq/*")
    return next((folder for folder in folders if read_text(folder / "device/of_node/name") in _GPUS), None)


def _mhz(path: Path) -> float | None:
    hertz = read_int(path)
    return hertz / 1e6 if hertz is not None and hertz > 0 else None


SENSOR = Sensor(read, lambda reading: {"mhz": reading["mhz"], "load_percent": reading["load_percent"]})


class GpuClock:
    """The clock of a Jetson's GPU, asked for again and again."""

    def __init__(self, root: Path) -> None:
        self._folder = _find(root)

    def read_mhz(self) -> float | None:
        """Returns the clock in MHz, or `None` if the system does not report it."""
        return None if self._folder is None else _mhz(self._folder / "cur_freq")
