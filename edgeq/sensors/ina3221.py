"""Power of a Jetson's rails, from its INA3221 monitors.

JetPack 5 and 6 have the kernel's hwmon driver (docs.kernel.org/hwmon/ina3221), earlier ones NVIDIA's for iio. A chip
has three channels; what the drivers number beyond them are shunt voltages and sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeq.sensors.base import Sensor, listed, read_int, read_text, unique

_HWMON = "sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*"
_IIO = "sys/bus/i2c/drivers/ina3221x/*/iio:device*"
_NOT_CONNECTED = "NC"
# The rails that feed the whole module: Orin NX and Nano, Xavier NX; the first Jetson Nano.
_TOTAL_RAILS = ("VDD_IN", "POM_5V_IN")


def read(root: Path) -> dict[str, Any] | None:
    """Returns `rails` {name: {`volts`, `amperes`, `watts`}}, `total_watts` and `total_of`, the rails in that sum."""
    rails = unique([*_read_hwmon(root), *_read_iio(root)])
    if not rails:
        return None
    counted = [name for name in _TOTAL_RAILS if name in rails][:1] or list(rails)
    return {
        "rails": rails,
        "total_watts": round(sum(rails[name]["watts"] for name in counted), 6),
        "total_of": counted,
    }


def _read_hwmon(root: Path) -> Iterator[tuple[str, dict[str, float]]]:
    for folder in listed(root, _HWMON):
        for channel in (1, 2, 3):
            label = read_text(folder / f"in{channel}_label")
            yield from _rail(label, read_int(folder / f"in{channel}_input"), read_int(folder / f"curr{channel}_input"))


def _read_iio(root: Path) -> Iterator[tuple[str, dict[str, float]]]:
    for folder in listed(root, _IIO):
        for channel in (0, 1, 2):
            label = read_text(folder / f"rail_name_{channel}")
            millivolts = read_int(folder / f"in_voltage{channel}_input")
            yield from _rail(label, millivolts, read_int(folder / f"in_current{channel}_input"))


def _rail(
    label: str | None, millivolts: int | None, milliamperes: int | None
) -> Iterator[tuple[str, dict[str, float]]]:
    if label and label != _NOT_CONNECTED and millivolts is not None and milliamperes is not None:
        watts = millivolts * milliamperes / 1e6
        yield label, {"volts": millivolts / 1000, "amperes": milliamperes / 1000, "watts": watts}


def _brief(reading: dict[str, Any]) -> dict[str, float]:
    return {name: rail["watts"] for name, rail in reading["rails"].items()}


SENSOR = Sensor(read, _brief)
