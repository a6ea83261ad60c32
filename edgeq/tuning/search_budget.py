"""What a tuned file may lose, take and weigh, as users write it: `12ms`, `0.5x`, `4MB`, `20mJ`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from edgeq.errors import InputError

_AMOUNT = re.compile(r"\s*(?P<number>\d+(?:\.\d*)?|\.\d+)\s*(?P<unit>[A-Za-z]*)\s*")
_LATENCY: Mapping[str, float] = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_SIZE: Mapping[str, float] = {
    "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30,
}  # fmt: skip
_ENERGY: Mapping[str, float] = {"mj": 1e-3, "j": 1.0}
_TIME: Mapping[str, float] = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Limit:
    """The most of something.

    Attributes:
        value: In ms, in bytes, in J, or as a multiple of FP32's.
        is_ratio: Whether it is a multiple of FP32's.
        text: As the user wrote it.
    """

    value: float
    is_ratio: bool
    text: str

    def keeps(self, ratio: float | None, value: float | None) -> bool:
        """Returns whether a file keeps the limit; what is not known does not.

        Args:
            ratio: The file's amount over FP32's.
            value: Its amount in the limit's own unit.
        """
        found = ratio if self.is_ratio else value
        return found is not None and found <= self.value


@dataclass(frozen=True)
class Budget:
    """What a tuned file may cost; `None` is not limited.

    Attributes:
        max_drop: Points of the score that it may lose against FP32.
        latency: The most time of one run.
        size: The largest file.
        memory: The most memory that a process holds while its engine runs the file.
        energy: The most energy of one image.
    """

    max_drop: float | None = None
    latency: Limit | None = None
    size: Limit | None = None
    memory: Limit | None = None
    energy: Limit | None = None

    @classmethod
    def of(
        cls,
        max_drop: float | None,
        latency: str | None,
        size: str | None,
        memory: str | None = None,
        energy: str | None = None,
    ) -> Budget:
        """Returns a budget as a user writes it; without any limit it is a loss of `DEFAULT_DROP` points.

        Raises:
            InputError: a unit is unknown, or an amount is out of range.
        """
        if max_drop is not None and not (math.isfinite(max_drop) and max_drop > 0):
            raise InputError(f"`max_drop` {max_drop:g}: wanted points of the score, more than 0")
        if all(each is None for each in (max_drop, latency, size, memory, energy)):
            max_drop = DEFAULT_DROP
        return cls(
            max_drop,
            None if latency is None else _limit(latency, "latency", _LATENCY, "12ms, or 0.5x of FP32's"),
            None if size is None else _limit(size, "file_size", _SIZE, "4MB, or 0.5x of FP32's"),
            None if memory is None else _limit(memory, "memory", _SIZE, "80MB, or 0.5x of FP32's"),
            None if energy is None else _limit(energy, "energy", _ENERGY, "20mJ, or 0.5x of FP32's"),
        )

    @property
    def needs_measuring(self) -> bool:
        """Whether only a measurement says which file keeps it: nothing estimates these amounts."""
        in_ms = self.latency is not None and not self.latency.is_ratio
        return in_ms or self.memory is not None or self.energy is not None

    def __str__(self) -> str:
        named = {"latency": self.latency, "file_size": self.size, "memory": self.memory, "energy": self.energy}
        drop = [] if self.max_drop is None else [f"max_drop {self.max_drop:g}"]
        return ", ".join([*drop, *(f"{name} {limit.text}" for name, limit in named.items() if limit is not None)])

    @property
    def images_needed(self) -> int:
        """How many images it takes to exclude so large a loss if not a single one changes (rule of three)."""
        return 0 if self.max_drop is None else math.floor(100 * 3.0 / self.max_drop) + 1


DEFAULT_DROP = 0.5

UNLIMITED = Budget()


def parse_seconds(text: str) -> float:
    """Returns a time limit such as `30m` in seconds.

    Raises:
        InputError: the unit is unknown, or it is no positive amount.
    """
    return _amount(text, "time", _TIME, "90s, 30m or 2h")[0]


def _limit(text: str, parameter: str, units: Mapping[str, float], example: str) -> Limit:
    value, is_ratio = _amount(text, parameter, {**units, "x": 1.0}, example)
    return Limit(value, is_ratio, text.strip())


def _amount(text: str, parameter: str, units: Mapping[str, float], example: str) -> tuple[float, bool]:
    """Returns an amount in the base unit, and whether it is a multiple."""
    found = _AMOUNT.fullmatch(text)
    if found is None or (unit := found["unit"].lower()) not in units:
        raise InputError(f"`{parameter}` {text!r}: wanted a number with a unit ({', '.join(units)}), such as {example}")
    value = float(found["number"]) * units[unit]
    if not value > 0:
        raise InputError(f"`{parameter}` {text!r}: wanted more than 0, such as {example}")
    return value, unit == "x"
