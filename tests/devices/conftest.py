"""Fixtures for tests of devices."""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeq.devices.remote import RemoteDevice
from tests.conftest import folder_of_the_run
from tests.devices.sshd import Sshd, find_sshd

_IMPORTS = "import onnxruntime, PIL.Image, edgeq.evaluation.prediction_server, edgeq.runtimes.runner"


@pytest.fixture(scope="session")
def sshd(tmp_path_factory) -> Iterator[Sshd]:
    """A running sshd on loopback; tests that use it are skipped where there is none."""
    if find_sshd() is None or shutil.which("ssh") is None or platform.libc_ver()[0] != "glibc":
        pytest.skip("needs Linux with glibc, ssh and sshd; run: apt-get install openssh-client openssh-server")
    server = _start(tmp_path_factory)
    yield server
    server.stop()


def _start(tmp_path_factory: pytest.TempPathFactory) -> Sshd:
    server = Sshd(tmp_path_factory.mktemp("sshd"))
    try:
        server.start()
    except AssertionError:  # the port that was free is another's by now
        server = Sshd(tmp_path_factory.mktemp("sshd"))
        server.start()
    return server


@pytest.fixture(scope="session")
def wheels(sshd: Sshd, tmp_path_factory) -> Path:
    """The host's cache, with an environment for the device, which has it as well.

    One worker of a run assembles and sends it; the others take theirs from it by hard links.
    """
    host: Path = tmp_path_factory.mktemp("host-cache")
    kept = folder_of_the_run(tmp_path_factory) / "device"
    kept.mkdir(exist_ok=True)
    with (kept / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (kept / "host").is_dir():
            _prepare(sshd, host)
            _link(sshd.cache, kept / "cache")
            _link(host, kept / "host")
        else:
            _link(kept / "cache", sshd.cache)
            _link(kept / "host", host)
    return host


def _prepare(sshd: Sshd, host: Path) -> None:
    """Has the device get edgeq and ONNX Runtime as for the first time, and compile them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(sshd.bin), prepend=":")
        patch.setenv("XDG_CACHE_HOME", str(host))
        with RemoteDevice(sshd.device()) as remote:
            remote.prepare(["onnxruntime"])
            subprocess.run(remote.python("-c", _IMPORTS), stdin=subprocess.DEVNULL, check=True)


def _link(source: Path, target: Path) -> None:
    shutil.copytree(source, target, copy_function=os.link, dirs_exist_ok=True)


@pytest.fixture
def loop(sshd: Sshd, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> Sshd:
    """The sshd, reached by `ssh` on the `PATH`; nothing of ours runs there before and after the test."""
    monkeypatch.setenv("PATH", str(sshd.bin), prepend=":")
    monkeypatch.setenv("XDG_CACHE_HOME", str(wheels))
    sshd.assert_empty()
    return sshd
