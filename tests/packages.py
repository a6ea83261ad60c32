"""A Debian-like distribution's packages, fetched from the machine's own sources into folders of ours, without root."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

# Up to Debian 12 the first holds programs without dependencies, since then links to those of the second.
QEMU = ("qemu-user-static", "qemu-user")


class EmulatorUnavailableError(Exception):
    """This machine cannot emulate another; the message says why."""


def require_apt() -> None:
    """Returns if packages for x86 can be fetched and unpacked.

    Raises:
        EmulatorUnavailableError: this machine is no x86 one with apt.
    """
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise EmulatorUnavailableError(f"wanted Linux on x86_64, this is {platform.system()} on {platform.machine()}")
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise EmulatorUnavailableError(f"{tool} not found; wanted Debian, or a distribution made from it")


def release() -> str:
    """Returns what identifies this release of the distribution."""
    path = Path("/etc/os-release")
    return path.read_text() if path.is_file() else ""


def fetch(folder: Path, emulator: Sequence[str], system: Sequence[str] = (), architecture: str = "amd64") -> Path:
    """Returns the folder of the fetched packages; apt takes sources and keys from the machine, all else from us.

    Args:
        folder: A new folder for apt's own files.
        emulator: Packages for x86, fetched without what they depend on.
        system: Packages fetched with all that they depend on.
        architecture: Debian's name of the architecture of `system`.
    """
    for name in ("lists/partial", "archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()  # nothing is installed, so that everything needed is fetched
    settings = folder / "apt.conf"
    architectures = " ".join(f'"{name}";' for name in dict.fromkeys((architecture, "amd64")))
    settings.write_text(
        # Hooks of other packages would refresh their own caches.
        "#clear APT::Update::Pre-Invoke;\n#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n"
        "#clear APT::Architectures;\n"
        f'APT::Architecture "{architecture}";\nAPT::Architectures {{{architectures}}};\n'
        'APT::Install-Recommends "false";\nAPT::Sandbox::User "root";\nAcquire::Languages "none";\n'
        f'Dir::State "{folder}";\nDir::State::status "{folder}/status";\n'
        f'Dir::Cache "{folder}";\nDir::Cache::archives "archives";\n'
    )
    apt = ["apt-get", "-qq", "-c", str(settings)]
    run([*apt, "update"])
    if system:
        run([*apt, "install", "--yes", "--download-only", *system])
    run([*apt, "download", *(f"{name}:amd64" for name in emulator)], folder / "archives")
    return folder / "archives"


def unpack(package: Path, folder: Path) -> None:
    """Unpacks the files of a package into a folder."""
    run(["dpkg-deb", "--extract", package, folder])


def run(command: Sequence[str | Path], folder: Path | None = None) -> str:
    """Returns what a command printed.

    Raises:
        EmulatorUnavailableError: it failed.
    """
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        words = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise EmulatorUnavailableError(f"{command[0]} failed: {words[-1]}")
    return done.stdout
