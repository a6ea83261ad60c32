"""The CPU that is made up: a Haswell, which has AVX2 and neither AVX-512 nor VNNI; edgeq finds it in /proc/cpuinfo."""

from __future__ import annotations

import re
from pathlib import Path

from edgeq.machine import read_machine

CACHE = Path(__file__).parents[2] / ".cache" / "x86"

_MODEL = "Intel Core Processor (Haswell, no TSX), emulated"
_FLAGS = (
    "fpu cx8 cmov mmx fxsr sse sse2 ht syscall nx lm pni pclmulqdq ssse3 fma cx16 sse4_1 sse4_2 movbe popcnt aes xsave "
    "avx f16c rdrand lahf_lm abm fsgsbase bmi1 avx2 bmi2"
)


def is_emulated() -> bool:
    """Returns whether this process runs on that CPU."""
    return read_machine().cpu == _MODEL


def write_cpuinfo(path: Path) -> None:
    """Writes the host's /proc/cpuinfo, as many cores, with that CPU's name and instruction sets."""
    text = re.sub(r"(?m)^(model name\s*:).*$", rf"\1 {_MODEL}", Path("/proc/cpuinfo").read_text())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(re.sub(r"(?m)^(flags\s*:).*$", rf"\1 {_FLAGS}", text))
