"""This virtual environment on another CPU: QEMU's user mode as a Haswell, with AVX2 and neither AVX-512 nor VNNI.

Without VNNI ONNX Runtime and OpenVINO add INT8 products in pairs in saturating 16-bit sums, so that tests of kernels
may fail there that pass on a newer CPU. Engines choose their kernels by CPUID; docs/cpus.md says what else was tried.

Needs apt-get and dpkg-deb, but no root. Native programs that an emulated process starts run natively; those that it
starts as `sys.executable` are emulated.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

from edgeq.files import sha256_json
from edgeq.machine import read_machine
from tests import packages
from tests.packages import EmulatorUnavailableError

CACHE = Path(__file__).parents[2] / ".cache" / "x86"

_RECIPE = 1
_MIN_QEMU = (7, 2)  # the first with AVX2
# Less what QEMU would warn of, in the output of every process, because user mode has none of it.
_CPU = "Haswell-noTSX,-pcid,-x2apic,-tsc-deadline,-invpcid"
# User mode shows the host's /proc/cpuinfo, in which edgeq and engines would find VNNI.
_MODEL = "Intel Core Processor (Haswell, no TSX), emulated"
_FLAGS = (
    "fpu cx8 cmov mmx fxsr sse sse2 ht syscall nx lm pni pclmulqdq ssse3 fma cx16 sse4_1 sse4_2 movbe popcnt aes xsave "
    "avx f16c rdrand lahf_lm abm fsgsbase bmi1 avx2 bmi2"
)


def set_up() -> Path:
    """Returns the Python of an emulated copy of this virtual environment; QEMU is fetched where it is not here yet.

    Raises:
        EmulatorUnavailableError: this machine is no x86 one with apt, or its QEMU has no AVX2.
    """
    qemu = _qemu()
    if not qemu.is_file():
        packages.require_apt()
        _fetch(qemu)
    found = packages.run([qemu, "--version"]).split()[2]
    if tuple(int(number) for number in re.findall(r"\d+", found)[:2]) < _MIN_QEMU:
        raise EmulatorUnavailableError(f"QEMU {found} has no AVX2; wanted {'.'.join(map(str, _MIN_QEMU))} or newer")
    return _write_environment(qemu)


def is_emulated() -> bool:
    """Returns whether this process runs on the emulated CPU."""
    return read_machine().cpu == _MODEL


def _qemu() -> Path:
    """Returns where the emulator's program is, or will be, for this release of the distribution."""
    digest = sha256_json({"recipe": _RECIPE, "packages": packages.QEMU, "release": packages.release()})
    return CACHE / f"qemu-x86_64-{digest[:16]}"


def _fetch(qemu: Path) -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetched-", dir=CACHE) as name:
        folder = Path(name)
        for package in packages.fetch(folder / "apt", packages.QEMU).glob("*.deb"):
            packages.unpack(package, folder / "tree")
        shutil.copy2(folder / "tree/usr/bin/qemu-x86_64-static", folder / "qemu")
        (folder / "qemu").replace(qemu)


def _write_environment(qemu: Path) -> Path:
    """Writes a virtual environment with the packages of this one, whose Python is emulated, and returns that."""
    home = Path(sys.prefix)
    if not (home / "pyvenv.cfg").is_file():
        raise EmulatorUnavailableError(f"{sys.executable} is in no virtual environment; run `make test-avx2`")
    root, environment = CACHE / "root", CACHE / "venv"
    (root / "proc").mkdir(parents=True, exist_ok=True)
    (root / "proc/cpuinfo").write_text(_cpuinfo(Path("/proc/cpuinfo").read_text()))
    (environment / "bin").mkdir(parents=True, exist_ok=True)
    shutil.copy2(home / "pyvenv.cfg", environment)
    for name in ("lib", "lib64"):
        (environment / name).unlink(missing_ok=True)
        if (home / name).exists():
            (environment / name).symlink_to((home / name).resolve())
    script = environment / "bin" / "python"
    # Python finds its environment beside its own name, which is that of the script.
    command = [qemu, "-cpu", _CPU, "-L", root, "-0", script, Path(sys.executable).resolve()]
    script.write_text(f'#!/bin/sh\nexec {shlex.join(map(str, command))} "$@"\n')
    script.chmod(0o755)
    return script


def _cpuinfo(text: str) -> str:
    """Returns the host's /proc/cpuinfo, as many cores, with the emulated CPU's name and instruction sets."""
    text = re.sub(r"(?m)^(model name\s*:).*$", rf"\1 {_MODEL}", text)
    return re.sub(r"(?m)^(flags\s*:).*$", rf"\1 {_FLAGS}", text)
