"""Environments for other machines, out of real wheels."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from edgeq.devices.environment import Environment, assemble, platform_tags
from edgeq.errors import InputError


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("environments")


@pytest.fixture(scope="module")
def small(cache) -> Environment:
    return assemble("aarch64", "3.11.2", "2.36", ["packaging"], cache)


def test_wheels_for_another_machine(cache):
    environment = assemble("aarch64", "3.11", "2.36", ["numpy"], cache)
    (core,) = environment.site.glob("numpy/_core/_multiarray_umath.*.so")
    assert "aarch64" in core.name
    machine = core.read_bytes()[18:20]
    assert int.from_bytes(machine, "little") == 183  # EM_AARCH64 in the ELF header
    assert environment.versions["numpy"].count(".") == 2


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs a Linux with glibc")
def test_what_is_assembled_for_this_machine_runs_here(cache):
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    environment = assemble(platform.machine(), python, platform.libc_ver()[1], ["numpy"], cache)
    script = "import numpy; print(numpy.__version__, numpy.arange(4).sum())"
    command = [
        sys.executable,
        "-I",
        "-c",
        f"import sys; sys.path.insert(0, sys.argv[1]); {script}",
        str(environment.site),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [environment.versions["numpy"], "6"]


def test_what_is_there_is_found_without_pip(cache, small, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was called"))
    assert assemble("aarch64", "3.11.9", "2.36", ["packaging"], cache) == small


def test_other_machines_have_other_folders(cache, small):
    others = [
        assemble("x86_64", "3.11.2", "2.36", ["packaging"], cache),
        assemble("aarch64", "3.12.2", "2.36", ["packaging"], cache),
        assemble("aarch64", "3.11.2", "2.31", ["packaging"], cache),
    ]
    assert len({each.folder for each in [small, *others]}) == 4


def test_a_failed_assembly_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match=r"no wheels of numpy==0\.0\.1 for aarch64, Python 3\.11, glibc 2\.36"):
        assemble("aarch64", "3.11", "2.36", ["numpy==0.0.1"], tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("python", "glibc", "said"),
    [
        ("3.8.10", "2.31", "Python 3.8.10 on the device is too old: edgeq needs 3.10"),
        ("three", "2.31", "'three' is not a version of Python"),
        ("3.11", "", "'' is not a version of glibc"),
        ("3.11", "1.2", "glibc 1.2 on the device"),
    ],
)
def test_what_cannot_be_is_told(tmp_path, python, glibc, said):
    with pytest.raises(InputError, match=said):
        assemble("aarch64", python, glibc, ["numpy"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_every_older_glibc_is_named():
    tags = platform_tags("aarch64", (2, 18))
    assert tags[:3] == ["manylinux_2_18_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64"]
    assert "manylinux_2_19_aarch64" not in platform_tags("aarch64", (2, 18))
    assert "manylinux1_aarch64" in tags
    assert tags[-1] == "linux_aarch64"
