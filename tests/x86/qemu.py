"""This virtual environment on another CPU: QEMU's user mode, for the whole of Python, some 20 times slower.

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
from tests import packages
from tests.packages import EmulatorUnavailableError
from tests.x86.cpu import CACHE, write_cpuinfo

_RECIPE = 1
_MIN_QEMU = (7, 2)  # the first with AVX2
# Less what QEMU would warn of, in the output of every process, because user mode has none of it.
_CPU = "Haswell-noTSX,-pcid,-x2apic,-tsc-deadline,-invpcid"


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
    write_cpuinfo(root / "proc/cpuinfo")  # user mode shows the host's, in which edgeq would find VNNI
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
