"""A real sshd on loopback, run by this user with keys, a port and a configuration of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from edgeq.devices.config import Device

_UP_S = 60.0
_POLL_S = 0.1  # a look at all processes takes milliseconds


class Sshd:
    """The server, and what reaches it; `start` and `stop` it.

    Attributes:
        folder: Holds keys, configuration and log.
        port: Its port.
        bin: Put first on `PATH`, its `ssh` uses the right key and knows the server's.
        cache: Where the device keeps what it is sent; its path marks every process of a runner.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.cache = folder / "device cache's $HOME"
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        for name in ("host_key", "user_key"):
            _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
        shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {(folder / 'host_key.pub').read_text()}")
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nPidFile none\n"
            f"AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
            "KbdInteractiveAuthentication no\nPermitRootLogin yes\nMaxStartups 100\nPrintMotd no\n"
        )
        (folder / "ssh_config").write_text(
            f"Host *\nIdentityFile {folder}/user_key\nIdentitiesOnly yes\nIdentityAgent none\n"
            f"UserKnownHostsFile {folder}/known_hosts\nGlobalKnownHostsFile /dev/null\nStrictHostKeyChecking yes\n"
        )
        self.bin.mkdir()
        (self.bin / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/ssh_config "$@"\n')
        (self.bin / "ssh").chmod(0o755)

    @property
    def address(self) -> str:
        """As `--device` takes it."""
        return f"ssh://127.0.0.1:{self.port}"

    def device(self, name: str = "loop", **options: object) -> Device:
        """Returns it as a device, with an interpreter that has no packages."""
        fields = {"python": plain_python(), "cache": str(self.cache), "threads": 1} | options
        return Device(name, host="127.0.0.1", port=self.port, **fields)  # type: ignore[arg-type]

    def toml(self, name: str = "loop") -> str:
        """Returns its table of a devices.toml."""
        return f'[{name}]\nhost = "{self.address}"\npython = "{plain_python()}"\ncache = "{self.cache}"\nthreads = 1\n'

    def start(self) -> None:
        """Starts it and waits until it takes connections."""
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # where a root's sshd wants to be
        with (self.folder / "log").open("wb") as log:
            command = [str(find_sshd()), "-D", "-e", "-f", str(self.folder / "sshd_config")]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log)
        deadline = time.monotonic() + _UP_S
        while time.monotonic() < deadline and self._process.poll() is None:
            if b"Server listening" in (self.folder / "log").read_bytes():
                return
            time.sleep(0.05)
        self.stop()
        raise AssertionError(f"sshd does not come up: {(self.folder / 'log').read_text()}")

    def stop(self) -> None:
        """Stops it, and with it all sessions."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def processes(self) -> dict[int, str]:
        """Returns pid -> command line of what runs on the device for edgeq, ssh's own processes left out."""
        found = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    environment = (folder / "environ").read_bytes()
                except OSError:
                    continue
                ours = str(self.cache).encode() in environment or str(self.cache) in line
                if ours and line and " -F " not in line:
                    found[int(folder.name)] = line
        return found

    def wait_for(self, text: str, timeout_s: float = 240.0) -> int:
        """Returns the pid of the first process on the device whose command line holds a text."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for pid, line in self.processes().items():
                if text in line:
                    return pid
            time.sleep(_POLL_S)
        raise AssertionError(f"nothing with {text!r} on the device: {self.processes()}")

    def assert_empty(self, timeout_s: float = 240.0) -> None:
        """Waits until nothing of ours runs on the device.

        A runner ends in a second or two; on a busy machine one that is still loading its engine takes longer.
        """
        deadline = time.monotonic() + timeout_s
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        assert not left, f"still on the device after {timeout_s:g} s: {left}"

    def masters(self) -> list[int]:
        """Returns the pids of the ssh clients that connect to it."""
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    line = (folder / "cmdline").read_bytes().decode(errors="replace")
                except OSError:
                    continue
                if f"-F\0{self.folder}/ssh_config" in line and "ControlMaster=yes" in line:
                    found.append(int(folder.name))
        return found

    def cut(self) -> None:
        """Kills the connections' masters, as if the network were gone."""
        for pid in self.masters():
            os.kill(pid, signal.SIGKILL)


def find_sshd() -> Path | None:
    """Returns the server's program, if there is one."""
    found = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    return Path(found) if found else None


def plain_python() -> str:
    """Returns the interpreter that this one's virtual environment was made from: it has none of our packages."""
    return str(Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
