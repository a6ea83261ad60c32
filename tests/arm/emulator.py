"""An aarch64 Linux with Python on an x86 machine: QEMU's user mode over a file system of the distribution's packages.

Needs apt-get and dpkg-deb, but no root: packages are fetched from the machine's own sources into folders of ours, and
unpacked, never installed. `python -m tests.arm.emulator` sets it up, once; later calls find it.
"""

from __future__ import annotations

import importlib.metadata
import json
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeq.devices.environment import assemble, requirements
from edgeq.errors import EdgeqError
from edgeq.files import sha256_json
from tests import packages
from tests.packages import EmulatorUnavailableError

CACHE = Path(__file__).parents[2] / ".cache" / "arm"

_RECIPE = 2
_PACKAGES = ("python3-minimal", "libpython3-stdlib", "libstdc++6", "libgomp1", "libatomic1")
# The engines decide the numbers, so that both machines take the same versions; the tests run there, too.
_ENGINES = ("onnxruntime", "ai-edge-litert")
_TESTING = ("pytest", "hypothesis")
_BASE_FEATURES = "fp asimd evtstrm aes pmull sha1 sha2 crc32"
_NEW_FEATURES = f"{_BASE_FEATURES} atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
_CPUINFO = """\
processor\t: 0
BogoMIPS\t: 50.00
Features\t: {features}
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: {part}
CPU revision\t: 3

"""
# Part number and features by QEMU's name. QEMU before 8.2 shows the host's /proc/cpuinfo, which engines stumble over:
# they choose kernels by the part number, and crash where it belongs to a newer CPU than the emulated one, or to none.
_CPUS = {
    "neoverse-n1": ("0xd0c", _NEW_FEATURES),
    "cortex-a76": ("0xd0b", _NEW_FEATURES),
    "cortex-a72": ("0xd08", f"{_BASE_FEATURES} cpuid"),
    "cortex-a53": ("0xd03", f"{_BASE_FEATURES} cpuid"),
}


@dataclass(frozen=True)
class Emulator:
    """A folder with the emulator, and one root file system for each CPU.

    Attributes:
        folder: Named by the digest of the recipe.
    """

    folder: Path

    @property
    def qemu(self) -> Path:
        """The emulator's program."""
        return self.folder / "qemu-aarch64"

    def write_python(self, script: Path, cpu: str, site: Sequence[Path] = ()) -> Path:
        """Writes an executable that is Python on an emulated CPU, and returns it.

        Its `sys.executable` is the script itself, so that what it starts by that name is emulated, too; without
        binfmt_misc the kernel runs no aarch64 programs.

        Args:
            script: Where to write it; bytecode is kept beside it.
            cpu: QEMU's name of the CPU.
            site: Folders of packages for its path.
        """
        root = self.folder / cpu
        # What is missing below the root is looked for on the host: bytecode would be written there, and without -S the
        # packages of the host's Python would be found.
        environment = {"PYTHONPATH": ":".join(map(str, site)), "PYTHONPYCACHEPREFIX": script.parent / "bytecode"}
        settings = [word for name, value in environment.items() for word in ("-E", f"{name}={value}")]
        command = [self.qemu, "-cpu", cpu, "-L", root, "-0", script, *settings, root / "usr/bin/python3", "-S"]
        script.write_text(f'#!/bin/sh\nexec {shlex.join(map(str, command))} "$@"\n')
        script.chmod(0o755)
        return script

    def facts(self) -> dict[str, Any]:
        """Returns the versions of `qemu`, and of `python` and `glibc` in it."""
        with tempfile.TemporaryDirectory() as folder:
            script = self.write_python(Path(folder) / "python", next(iter(_CPUS)))
            program = "import json, os, platform as p; print(json.dumps([p.python_version(), *p.libc_ver()]))"
            python, _, glibc = json.loads(packages.run([script, "-c", program]))
        return {"qemu": packages.run([self.qemu, "--version"]).split()[2], "python": python, "glibc": glibc}


def assemble_packages(emulator: Emulator) -> Path:
    """Returns a folder with what edgeq requires, without edgeq, as aarch64 wheels; cached beside the emulator.

    Raises:
        EmulatorUnavailableError: they cannot be fetched.
    """
    facts = emulator.facts()
    base = [line for line in importlib.metadata.requires("edgeq") or [] if "extra ==" not in line]
    wanted = [line for line in base if not line.startswith(_ENGINES)] + requirements(_ENGINES) + list(_TESTING)
    try:
        return assemble("aarch64", facts["python"], facts["glibc"], wanted, CACHE).site
    except EdgeqError as error:
        raise EmulatorUnavailableError(str(error)) from error


def find() -> Emulator | None:
    """Returns the emulator that was set up here before."""
    folder = _folder()
    return Emulator(folder) if folder.is_dir() else None


def set_up() -> Emulator:
    """Returns the emulator, fetched and unpacked where it is not here yet.

    Raises:
        EmulatorUnavailableError: this machine is no x86 one with apt, or its sources have no aarch64 packages.
    """
    if found := find():
        return found
    packages.require_apt()
    CACHE.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".emulator-", dir=CACHE))
    try:
        _unpack(packages.fetch(temporary / "apt", packages.QEMU, _PACKAGES, "arm64"), temporary)
        shutil.rmtree(temporary / "apt")
        for cpu, (part, features) in _CPUS.items():
            _make_root(temporary / "system", temporary / cpu, _CPUINFO.format(part=part, features=features))
        temporary.chmod(0o755)
        if find() is None:  # otherwise another process was first
            temporary.replace(_folder())
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Emulator(_folder())


def _folder() -> Path:
    """Returns the folder of this recipe on this release of the distribution, whose packages it consists of."""
    wanted = [*packages.QEMU, *_PACKAGES]
    digest = sha256_json({"recipe": _RECIPE, "packages": wanted, "cpus": _CPUS, "release": packages.release()})
    return CACHE / f"emulator-{digest[:16]}"


def _unpack(archives: Path, folder: Path) -> None:
    """Unpacks the aarch64 packages into `system`, and of those for x86 the emulator's program."""
    for package in sorted(archives.glob("*.deb")):
        tree = "x86" if package.name.endswith("_amd64.deb") else "system"
        packages.unpack(package, folder / tree)
    shutil.copy2(folder / "x86/usr/bin/qemu-aarch64-static", folder / "qemu-aarch64")
    shutil.rmtree(folder / "x86")
    if not (folder / "system/lib").exists():  # Debian since 13: a link that no package brings
        (folder / "system/lib").symlink_to("usr/lib")


def _make_root(system: Path, root: Path, cpuinfo: str) -> None:
    """Makes a root file system of links into `system`, with a /proc/cpuinfo of its own."""
    (root / "proc").mkdir(parents=True)
    (root / "proc/cpuinfo").write_text(cpuinfo)
    for path in system.iterdir():
        (root / path.name).symlink_to(Path("..") / system.name / path.name)


def main() -> None:
    """Sets the emulator up and says what it is; exit code 1 where that is not possible."""
    begun = time.monotonic()
    try:
        emulator = set_up()
        assemble_packages(emulator)
        facts = ", ".join(f"{name} {version}" for name, version in emulator.facts().items())
    except EmulatorUnavailableError as error:
        sys.exit(f"aarch64 cannot be emulated here: {error}")
    print(f"aarch64 by {facts}, ready after {time.monotonic() - begun:.1f} s")


if __name__ == "__main__":
    main()
