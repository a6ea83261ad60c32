"""What a device's Python needs to run files, assembled here from wheels for that device.

pip picks wheels by their tags (PEP 425, PEP 600); told the device's architecture, Python and glibc, it picks those of
another machine as well as its own. The device needs neither pip nor an index.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgeq.boundary import read_json
from edgeq.errors import EngineError, InputError, MissingDependencyError
from edgeq.files import sha256_json, write_json

MIN_PYTHON = (3, 10)
"""The oldest Python that edgeq runs on."""

_RECIPE = 1
_OLDEST_GLIBC_MINOR = 5
# Names that tags of before PEP 600 have; pip does not take the new names for them.
_LEGACY_TAGS = {5: "manylinux1", 12: "manylinux2010", 17: "manylinux2014"}
_LOCK = "environment.json"
_SITE = "site"
_ASSEMBLING = threading.Lock()


class _Lock(msgspec.Struct):
    versions: dict[str, str]


@dataclass(frozen=True)
class Environment:
    """A folder of installed packages, as they lie in a device's site-packages.

    Attributes:
        folder: Named by the digest of what was asked for; holds `site` and what pip made of the request.
        versions: Package -> version, of everything that was installed.
    """

    folder: Path
    versions: dict[str, str]

    @property
    def site(self) -> Path:
        """What goes on the device's `PYTHONPATH`."""
        return self.folder / _SITE


def assemble(machine: str, python: str, glibc: str, packages: Sequence[str], cache: Path) -> Environment:
    """Returns an environment for a Linux machine; one that was assembled before is found again, without a network.

    Args:
        machine: Architecture as `uname -m` says it (`aarch64`).
        python: Version of CPython there (`3.11`, or `3.11.2`).
        glibc: Version of its C library (`2.36`).
        packages: Requirements, as pip takes them (`numpy>=1.24`).
        cache: Folder that environments are kept in.

    Raises:
        InputError: edgeq does not run on that Python or C library, or a package has no wheel for the machine.
        MissingDependencyError: this Python has no pip.
        EngineError: pip failed otherwise.
    """
    wanted = _Wanted(machine, python_version(python), glibc_version(glibc), tuple(sorted(packages)))
    if wanted.python < MIN_PYTHON:
        raise InputError(
            f"Python {python} on the device is too old: edgeq needs {'.'.join(map(str, MIN_PYTHON))} or newer; "
            "name another interpreter with `python` in devices.toml"
        )
    folder = cache / f"env-{sha256_json(dataclasses.asdict(wanted) | {'recipe': _RECIPE})[:16]}"
    with _ASSEMBLING:  # two devices of a kind want the same folder
        if (folder / _LOCK).is_file():
            os.utime(folder)  # where this machine is a device, too, it removes what is not used: on_device/store.py
        else:
            _install(wanted, folder)
    lock = read_json(folder / _LOCK, _Lock, kind="an assembled environment", advice=f"remove {folder}")
    return Environment(folder, lock.versions)


def python_version(text: str) -> tuple[int, int]:
    """Returns major and minor version of a Python; raises `InputError` where the text is no version."""
    return _two_numbers(text, "a version of Python")


def glibc_version(text: str) -> tuple[int, int]:
    """Returns major and minor version of a glibc; raises `InputError` where wheels are built for no such."""
    version = _two_numbers(text, "a version of glibc")
    if version[0] != 2:
        raise InputError(f"glibc {text} on the device: wheels for Linux are built for glibc 2")
    return version


def platform_tags(machine: str, glibc: tuple[int, int]) -> list[str]:
    """Returns the platform tags of the wheels that a Linux machine runs, the newest first.

    A wheel is tagged with the oldest glibc it runs on, and pip takes no tag for another: all of them are named.
    """
    tags = []
    for minor in range(glibc[1], _OLDEST_GLIBC_MINOR - 1, -1):
        tags.append(f"manylinux_2_{minor}_{machine}")
        if minor in _LEGACY_TAGS:
            tags.append(f"{_LEGACY_TAGS[minor]}_{machine}")
    return [*tags, f"linux_{machine}"]


def requirements(packages: Sequence[str]) -> list[str]:
    """Returns `name==version` of packages as they are installed here, and the bare name of those that are not.

    The same versions on host and device, so that both compute the same numbers.
    """
    found = []
    for name in packages:
        try:
            found.append(f"{name}=={importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(name)
    return found


@dataclass(frozen=True)
class _Wanted:
    """What decides which wheels are taken."""

    machine: str
    python: tuple[int, int]
    glibc: tuple[int, int]
    packages: tuple[str, ...]

    def __str__(self) -> str:
        python, glibc = (".".join(map(str, version)) for version in (self.python, self.glibc))
        return f"{', '.join(self.packages)} for {self.machine}, Python {python}, glibc {glibc}"


def _install(wanted: _Wanted, folder: Path) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise InputError(f"{folder.parent}: environments cannot be kept there ({error.strerror})") from error
    try:
        site = temporary / _SITE
        _run_pip(wanted, site)
        shutil.rmtree(site / "bin", ignore_errors=True)  # scripts name this machine's interpreter
        versions = {each.name: each.version for each in importlib.metadata.distributions(path=[str(site)])}
        write_json(
            temporary / _LOCK, {"wanted": dataclasses.asdict(wanted), "versions": dict(sorted(versions.items()))}
        )
        temporary.chmod(0o755)
        temporary.replace(folder)
    except OSError as error:
        if not (folder / _LOCK).is_file():  # otherwise another process was first
            raise InputError(f"{folder}: cannot be written ({error.strerror}); free space") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _run_pip(wanted: _Wanted, site: Path) -> None:
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check",
        "--target", str(site), "--only-binary=:all:", "--no-compile", "--implementation", "cp",
        "--python-version", ".".join(map(str, wanted.python)),
        *(f"--platform={tag}" for tag in platform_tags(wanted.machine, wanted.glibc)),
        "--", *wanted.packages,
    ]  # fmt: skip
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        env=os.environ | {"PYTHONSAFEPATH": "1"},
    )
    if done.returncode == 0:
        return
    if "No module named pip" in done.stderr:
        raise MissingDependencyError("pip", None, "Assembling an environment for a device")
    if "No matching distribution" in done.stderr or "ResolutionImpossible" in done.stderr:
        raise InputError(
            f"no wheels of {wanted}: {_last_error(done.stderr)}; name another `python`, other `runtimes`, or "
            'env = "venv" in devices.toml'
        )
    raise EngineError(f"pip could not fetch {wanted}: {_last_error(done.stderr)}")


def _last_error(stderr: str) -> str:
    """Returns the last line that pip marked as an error, without its list of all versions there are."""
    lines = [line.removeprefix("ERROR: ") for line in stderr.splitlines() if line.startswith("ERROR: ")]
    said = (lines or stderr.split("\n")[-2:-1] or ["it said nothing"])[-1]
    return re.sub(r" \(from versions: [^)]*\)", "", said)


def _two_numbers(text: str, kind: str) -> tuple[int, int]:
    found = re.match(r"(\d{1,4})\.(\d{1,4})(?!\d)", text)
    if not found:
        raise InputError(f"{text[:40]!r} is not {kind}; wanted two numbers with a point")
    return int(found[1]), int(found[2])
