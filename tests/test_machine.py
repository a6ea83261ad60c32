"""Machine facts from made-up /proc and /sys trees."""

from __future__ import annotations

import os
import platform
import resource
import struct

import numpy as np
import pytest

from edgeq.errors import InputError
from edgeq.machine import default_threads, keep_freed_memory, parse_cpus, read_machine

XEON = """processor\t: {cpu}
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8480+
physical id\t: 0
core id\t\t: {core}
flags\t\t: fpu sse2 avx2 avx512f {vnni} amx_int8 amx_bf16 amx_tile

"""
PI5 = """processor\t: {cpu}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: {part}
CPU revision\t: 1

"""


def write(root, path, content):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)


def test_x86_features_are_those_of_every_core_in_order_of_strength(tmp_path):
    records = [XEON.format(cpu=0, core=0, vnni="avx512_vnni"), XEON.format(cpu=1, core=0, vnni="")]
    write(tmp_path, "proc/cpuinfo", "".join(records))
    machine = read_machine(tmp_path)
    assert machine.cpu == "Intel(R) Xeon(R) Platinum 8480+"
    assert machine.cpu_features == ("avx2", "avx512f", "amx_tile", "amx_bf16", "amx_int8")


def test_hyper_threads_are_one_core(tmp_path, monkeypatch):
    write(tmp_path, "proc/cpuinfo", "".join(XEON.format(cpu=cpu, core=cpu // 2, vnni="") for cpu in range(8)))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)), raising=False)
    machine = read_machine(tmp_path)
    assert (machine.physical_cores, machine.usable_cpus) == (4, 8)
    assert default_threads(machine) == 4


def test_arm_boards_are_named_by_part_number_and_device_tree(tmp_path):
    cores = [PI5.format(cpu=cpu, part="0xd0b") for cpu in range(4)]
    write(tmp_path, "proc/cpuinfo", "".join(cores) + "Revision\t: c04170\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0\n")
    write(tmp_path, "proc/meminfo", "MemTotal:        8245904 kB\nMemFree:  1 kB\n")
    write(tmp_path, "sys/firmware/devicetree/base/model", "Raspberry Pi 5 Model B Rev 1.0\0")
    machine = read_machine(tmp_path)
    assert machine.cpu == "Cortex-A76"
    assert machine.cpu_features == ("asimd", "asimdhp", "asimddp")
    assert machine.physical_cores == 4
    assert machine.board == "Raspberry Pi 5 Model B Rev 1.0"
    assert machine.memory_bytes == 8245904 * 1024


def test_big_little_names_both_and_unknown_parts_by_number(tmp_path):
    write(tmp_path, "proc/cpuinfo", PI5.format(cpu=0, part="0xd05") + PI5.format(cpu=1, part="0xfff"))
    assert read_machine(tmp_path).cpu == "Cortex-A55 + Arm part 0xfff"


@pytest.mark.parametrize(
    ("architecture", "modalias", "emulated"),
    [
        ("aarch64", "cpu:type:x86,ven0000fam0006mod008F:feature:,0000", True),
        ("aarch64", "cpu:type:aarch64:feature:,0000", False),
        ("aarch64", None, False),
        ("x86_64", "cpu:type:x86,ven0000fam0006mod008F:feature:,0000", False),
    ],
)
def test_an_arm_process_on_an_x86_cpu_is_emulated(tmp_path, monkeypatch, architecture, modalias, emulated):
    monkeypatch.setattr(platform, "machine", lambda: architecture)
    if modalias:
        write(tmp_path, "sys/devices/system/cpu/modalias", modalias)
    assert read_machine(tmp_path).emulated is emulated


@pytest.mark.parametrize(("quota", "usable"), [("150000 100000", 2), ("max 100000", 8), ("50000 100000", 1), ("", 8)])
def test_a_containers_quota_bounds_the_usable_cpus(tmp_path, monkeypatch, quota, usable):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)), raising=False)
    write(tmp_path, "sys/fs/cgroup/cpu.max", quota + "\n")
    assert read_machine(tmp_path).usable_cpus == usable


def test_an_arm_cpu_goes_by_its_part_not_by_a_general_name(tmp_path):
    general = "processor\t: 0\nmodel name\t: ARMv8 Processor rev 4 (v8l)\nCPU implementer\t: 0x41\nCPU part\t: 0xd03\n"
    write(tmp_path, "proc/cpuinfo", general)
    assert read_machine(tmp_path).cpu == "Cortex-A53"


def test_a_system_that_tells_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(platform, "processor", lambda: "")
    machine = read_machine(tmp_path)
    assert (machine.cpu, machine.cpu_features) == ("unknown", ())
    assert (machine.physical_cores, machine.memory_bytes, machine.board) == (None, None, None)
    assert default_threads(machine) == machine.usable_cpus >= 1


def test_this_machine_agrees_with_the_standard_library():
    machine = read_machine()
    assert machine.architecture == platform.machine()
    assert machine.python == platform.python_version()
    assert 1 <= machine.usable_cpus <= (os.cpu_count() or 1)


def auxv(hwcap: int, hwcap2: int) -> bytes:
    """The auxiliary vector of a 64-bit process: AT_PAGESZ, AT_HWCAP, AT_HWCAP2, AT_NULL."""
    return struct.pack("=8Q", 6, 4096, 16, hwcap, 26, hwcap2, 0, 0)


@pytest.mark.parametrize(
    ("hwcap", "hwcap2", "features"),
    [
        (0x8FF, 0x0, ("asimd",)),  # Cortex-A72
        (0x119FFF, 0x0, ("asimd", "asimdhp", "asimddp")),  # Cortex-A76
        (
            1 << 1 | 1 << 10 | 1 << 20 | 1 << 22,
            1 << 1 | 1 << 13 | 1 << 14,
            ("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2"),
        ),
    ],
)
def test_an_arm_process_asks_the_kernel_what_its_cpu_has(tmp_path, monkeypatch, hwcap, hwcap2, features):
    """An emulated one finds the host's features in /proc/cpuinfo."""
    write(tmp_path, "proc/cpuinfo", XEON.format(cpu=0, core=0, vnni="avx512_vnni"))
    (tmp_path / "proc/self").mkdir()
    (tmp_path / "proc/self/auxv").write_bytes(auxv(hwcap, hwcap2))
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert read_machine(tmp_path).cpu_features == features


def test_the_auxiliary_vector_of_another_cpu_says_nothing(tmp_path, monkeypatch):
    write(tmp_path, "proc/cpuinfo", XEON.format(cpu=0, core=0, vnni="avx512_vnni"))
    (tmp_path / "proc/self").mkdir()
    (tmp_path / "proc/self/auxv").write_bytes(auxv(0xFFFFFFFF, 0xFFFFFFFF)[:-5])
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert "asimd" not in read_machine(tmp_path).cpu_features


@pytest.mark.parametrize(
    ("text", "cpus"), [("0", [0]), ("0,1", [0, 1]), ("2-4, 0", [0, 2, 3, 4]), ("3-3", [3]), ("1,1", [1])]
)
def test_lists_of_cpus(text, cpus):
    assert parse_cpus(text) == cpus


@pytest.mark.parametrize("text", ["", "a", "1,", "3-1", "-1", "1-", "0x1", "1.5", "99999", "0;1"])
def test_lists_of_cpus_that_are_none(text):
    with pytest.raises(InputError, match="wanted numbers and ranges of CPUs"):
        parse_cpus(text)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator of another C library")
def test_freed_memory_is_used_again_without_fresh_pages():
    def fill() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for array in [np.empty(2 << 20, np.uint8) for _ in range(8)]:
            array.fill(1)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    keep_freed_memory()
    fill()
    assert min(fill() for _ in range(3)) < 400  # without it some 4,000: what is freed last is given back each time
