"""Two machines that run the same edgeq: this one, and an emulated aarch64 one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.arm import emulator as emulation
from tests.arm.agreement import Machine, install_edgeq
from tests.packages import EmulatorUnavailableError


@pytest.fixture(scope="session")
def emulator() -> emulation.Emulator:
    """The emulator, if it has been set up: that fetches packages, which no plain test run does."""
    found = emulation.find()
    if found is None:
        pytest.skip("aarch64 is not emulated here; `make test-arm` sets it up")
    return found


@pytest.fixture(scope="session")
def emulate(emulator, tmp_path_factory) -> Callable[[str], Machine]:
    """Makes a machine with the CPU of QEMU's name, the base install of edgeq and LiteRT."""
    try:
        packages = emulation.assemble_packages(emulator)
    except EmulatorUnavailableError as error:
        pytest.skip(f"no packages for aarch64: {error}")
    folder = tmp_path_factory.mktemp("aarch64")
    ours = install_edgeq(folder)

    def make(cpu: str) -> Machine:
        return Machine(emulator.write_python(folder / cpu, cpu, [ours, packages]))

    return make


@pytest.fixture(scope="session")
def arm(emulate: Callable[[str], Machine]) -> Machine:
    """An emulated Neoverse N1, the nearest that there is to the cores of an Orin."""
    return emulate("neoverse-n1")


@pytest.fixture(scope="session")
def x86() -> Machine:
    """This machine."""
    return Machine(Path(sys.executable))
