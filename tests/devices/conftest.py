"""Fixtures for tests of devices."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.devices.sshd import Sshd, find_sshd


@pytest.fixture(scope="session")
def sshd(tmp_path_factory) -> Iterator[Sshd]:
    """A running sshd on loopback; tests that use it are skipped where there is none."""
    if find_sshd() is None or shutil.which("ssh") is None or platform.libc_ver()[0] != "glibc":
        pytest.skip("needs Linux with glibc, ssh and sshd; run: apt-get install openssh-client openssh-server")
    server = Sshd(tmp_path_factory.mktemp("sshd"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def wheels(tmp_path_factory) -> Path:
    """The host's cache, so that an environment is assembled once for all tests."""
    folder: Path = tmp_path_factory.mktemp("host-cache")
    return folder


@pytest.fixture
def loop(sshd: Sshd, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> Sshd:
    """The sshd, reached by `ssh` on the `PATH`; nothing of ours runs there before and after the test."""
    monkeypatch.setenv("PATH", str(sshd.bin), prepend=":")
    monkeypatch.setenv("XDG_CACHE_HOME", str(wheels))
    sshd.assert_empty()
    return sshd
