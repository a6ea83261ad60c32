"""What this machine is: CPU model, the instruction sets that decide INT8 speed, cores, memory, emulation."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import platform
import re
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

from edgeq.errors import InputError

# Parameters of glibc's mallopt (malloc.h), and the largest block that it takes for the first one.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_KEPT_BLOCK = 32 << 20

# Instruction sets that INT8, BF16 or FP16 kernels are chosen by, as Linux spells them, weakest first.
_FEATURES = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx_vnni_int8",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_bf16",
    "amx_fp16",
    "amx_int8",
    "asimd",
    "asimdhp",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
    "sve2",
    "sme",
)

# Arm's part numbers (implementer 0x41) of cores found on boards and in clouds; Arm CPUs carry no model name.
_ARM_PARTS = {
    "0xd03": "Cortex-A53",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73",
    "0xd0a": "Cortex-A75",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd40": "Neoverse-V1",
    "0xd41": "Cortex-A78",
    "0xd42": "Cortex-A78AE",
    "0xd44": "Cortex-X1",
    "0xd49": "Neoverse-N2",
    "0xd4b": "Cortex-A78C",
    "0xd4f": "Neoverse-V2",
}


# Where the kernel tells an Arm process what its CPU has (arch/arm64/include/uapi/asm/hwcap.h): entry of the auxiliary
# vector, bit, name in /proc/cpuinfo. Emulators answer here for the CPU they emulate, in /proc/cpuinfo for the host's.
_AT_HWCAP, _AT_HWCAP2 = 16, 26
_ARM_HWCAPS = (
    (_AT_HWCAP, 1, "asimd"),
    (_AT_HWCAP, 10, "asimdhp"),
    (_AT_HWCAP, 20, "asimddp"),
    (_AT_HWCAP, 22, "sve"),
    (_AT_HWCAP2, 1, "sve2"),
    (_AT_HWCAP2, 13, "i8mm"),
    (_AT_HWCAP2, 14, "bf16"),
    (_AT_HWCAP2, 23, "sme"),
)


@dataclass(frozen=True)
class Machine:
    """Facts about a machine that decide speed and, between instruction sets, results.

    Attributes:
        architecture: As `uname -m` says it (`x86_64`, `aarch64`).
        system: Operating system and release.
        python: Version of this interpreter.
        cpu: Model name of the CPU.
        cpu_features: Those instruction sets present that INT8, BF16 or FP16 kernels are chosen by, weakest first.
        physical_cores: Cores, or `None` if the system does not report it.
        usable_cpus: How many threads this process can run at once: its CPU affinity, and a container's quota.
        memory_bytes: Installed memory, or `None` if the system does not report it.
        board: Model name of a single-board computer, or `None`.
        emulated: Whether this is an Arm process that runs on an x86 CPU; its times mean nothing.
    """

    architecture: str
    system: str
    python: str
    cpu: str
    cpu_features: tuple[str, ...]
    physical_cores: int | None
    usable_cpus: int
    memory_bytes: int | None
    board: str | None
    emulated: bool


def read_machine(root: Path = Path("/")) -> Machine:
    """Returns the facts about this machine; what the system does not tell is `None`, empty or `"unknown"`.

    Args:
        root: Folder that holds `proc` and `sys`.
    """
    records = _cpu_records(root)
    return Machine(
        architecture=platform.machine(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        cpu=_cpu_model(records),
        cpu_features=_arm_features(root) or _cpu_features(records),
        physical_cores=_physical_cores(records),
        usable_cpus=_usable_cpus(root),
        memory_bytes=_memory_bytes(root),
        board=_text(root / "sys/firmware/devicetree/base/model").strip("\0\n ") or None,
        emulated=_is_emulated(root, platform.machine()),
    )


def default_threads(machine: Machine) -> int:
    """Returns how many threads suit one inference: the physical cores that this process may use.

    Two hyper-threads of a core share its multiplier units, which is why engines count cores, not logical CPUs.
    """
    return min(machine.usable_cpus, machine.physical_cores or machine.usable_cpus)


def parse_cpus(text: str) -> list[int]:
    """Returns the CPUs that a list like `0,2-3` names, as `taskset --cpu-list` takes it.

    Raises:
        InputError: it is no such list.
    """
    cpus: set[int] = set()
    for part in text.split(","):
        found = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", part.strip())
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if first > last:
            raise InputError(f"`cpus` {text}: wanted numbers and ranges of CPUs with commas, for example 0,2-3")
        cpus |= set(range(first, last + 1))
    return sorted(cpus)


def _cpu_records(root: Path) -> list[dict[str, str]]:
    """Returns the records of /proc/cpuinfo: one a logical CPU, and on some Arm boards one about the board."""
    records = []
    for paragraph in _text(root / "proc/cpuinfo").split("\n\n"):
        pairs = (line.partition(":") for line in paragraph.splitlines() if ":" in line)
        if record := {key.strip(): value.strip() for key, _, value in pairs}:
            records.append(record)
    return records


def _cpu_model(records: list[dict[str, str]]) -> str:
    parts = {
        record["CPU part"] for record in records if record.get("CPU implementer") == "0x41" and "CPU part" in record
    }
    if parts:  # before the name, which some Arm kernels give as no more than "ARMv8 Processor rev 4"
        return " + ".join(_ARM_PARTS.get(part, f"Arm part {part}") for part in sorted(parts))
    for record in records:
        if name := record.get("model name"):
            return name
    return platform.processor() or "unknown"


def _cpu_features(records: list[dict[str, str]]) -> tuple[str, ...]:
    """Returns the features that every core has: on big.LITTLE CPUs a kernel may land on any of them."""
    per_core = [
        set(record.get("flags", record.get("Features", "")).split()) for record in records if "processor" in record
    ]
    common = set.intersection(*per_core) if per_core else set()
    return tuple(name for name in _FEATURES if name in common)


def _arm_features(root: Path) -> tuple[str, ...]:
    """Returns the features of every core of a 64-bit Arm CPU; nothing where this process is none of one."""
    if platform.machine() != "aarch64":
        return ()
    try:
        content = (root / "proc/self/auxv").read_bytes()
    except OSError:
        return ()
    vector = dict(struct.iter_unpack("=QQ", content[: len(content) // 16 * 16]))
    found = {name for entry, bit, name in _ARM_HWCAPS if vector.get(entry, 0) >> bit & 1}
    return tuple(name for name in _FEATURES if name in found)


def _physical_cores(records: list[dict[str, str]]) -> int | None:
    cpus = [record for record in records if "processor" in record]
    cores = {
        (record["physical id"], record["core id"]) for record in cpus if {"physical id", "core id"} <= record.keys()
    }
    # Arm's records name no cores; none of the CPUs listed above has hyper-threads.
    return len(cores) or len(cpus) or None


def _usable_cpus(root: Path) -> int:
    # macOS and Windows have no affinity calls.
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _text(root / "sys/fs/cgroup/cpu.max").strip().partition(" ")
    with contextlib.suppress(ValueError, ZeroDivisionError):  # "max", or no such file
        allowed = min(allowed, math.ceil(int(quota) / int(period)))
    return max(1, allowed)


def _memory_bytes(root: Path) -> int | None:
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return None


def _is_emulated(root: Path, architecture: str) -> bool:
    """Tells a user-mode emulator by its host: sysfs is the host's even where /proc/cpuinfo is made up."""
    modalias = _text(root / "sys/devices/system/cpu/modalias")
    return architecture in ("aarch64", "armv7l") and modalias.startswith("cpu:type:x86")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def keep_freed_memory() -> None:
    """Lets this process keep freed blocks of up to 32 MiB for the next ones, if its C library is glibc.

    By default glibc gives them back to the system (mallopt(3)). Every image then costs hundreds of fresh pages, which
    takes as long as resizing it.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library, or another system
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BLOCK)
        mallopt(_M_TRIM_THRESHOLD, 2 * _LARGEST_KEPT_BLOCK)


def restart_peak_rss() -> int | None:
    """Returns the memory that this process holds, from which `peak_rss_bytes` counts again (proc(5)).

    `None` where the system does not count again.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return peak_rss_bytes()


def peak_rss_bytes(pid: int | None = None) -> int | None:
    """Returns the most memory that a process held at once, or `None` if the system does not report it.

    On Linux this is VmHWM and not `ru_maxrss`: the latter survives exec, so that a child of a large process begins with
    its parent's peak.

    Args:
        pid: Its process id; by default this process.
    """
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{'self' if pid is None else pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if pid is not None:
        return None
    with contextlib.suppress(ImportError):  # Windows has no module resource
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return None
