"""A Raspberry Pi's flags of under-voltage and throttling, from its firmware.

`vcgencmd get_throttled` prints `throttled=0x50005`: bits 0 to 3 are now, 16 to 19 since boot (Raspberry Pi
documentation, vcgencmd). The kernel's driver raspberrypi-hwmon tells under-voltage only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeq.sensors.base import Sensor, ask, listed, read_int, read_text

_FLAGS = {0: "under-voltage", 1: "clock capped", 2: "throttled", 3: "soft temperature limit"}
_SINCE_BOOT = 16
_ANSWER = re.compile(r"throttled=0x([0-9a-fA-F]{1,8})")


def read(root: Path) -> dict[str, Any] | None:
    """Returns `now` and `since_boot`, lists of flags (null without vcgencmd), and `under_voltage_alarm`, or null."""
    bits = parse(ask(root, "vcgencmd", "get_throttled"))
    alarms = [
        read_int(folder / "in0_lcrit_alarm")
        for folder in listed(root, "sys/class/hwmon/hwmon*")
        if read_text(folder / "name") == "rpi_volt"
    ]
    known = [alarm for alarm in alarms if alarm is not None]
    if bits is None and not known:
        return None
    return {
        "now": None if bits is None else _named(bits),
        "since_boot": None if bits is None else _named(bits >> _SINCE_BOOT),
        "under_voltage_alarm": any(known) if known else None,
    }


def parse(answer: str | None) -> int | None:
    """Returns the bits of what `vcgencmd get_throttled` printed."""
    found = _ANSWER.fullmatch((answer or "").strip())
    return int(found[1], 16) if found else None


def _named(bits: int) -> list[str]:
    return [name for bit, name in _FLAGS.items() if bits >> bit & 1]


def _troubles(briefs: Sequence[dict[str, Any]]) -> list[str]:
    seen = {flag for brief in briefs for flag in brief["now"] or []}
    if any(brief["under_voltage_alarm"] for brief in briefs):
        seen.add(_FLAGS[0])
    # What came and went between two readings shows in the flags since boot.
    since_boot = [brief["since_boot"] for brief in briefs if brief["since_boot"] is not None]
    if since_boot:
        seen |= set(since_boot[-1]) - set(since_boot[0])
    return [f"Raspberry Pi: {flag}" for flag in _FLAGS.values() if flag in seen]


SENSOR = Sensor(read, lambda reading: reading, _troubles)
