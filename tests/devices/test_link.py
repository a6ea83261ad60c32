"""A link to a device that cuts, delays, doubles or changes bytes, and the folder of its socket."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeq.devices.config import Device
from edgeq.devices.ssh import Connection
from edgeq.errors import DeviceError
from tests.devices.sshd import Sshd, plain_python

_SAID = "0123456789" * 2000


class Link:
    """A TCP proxy before a port of this machine with a fault at a byte of what the server sends."""

    def __init__(self, port: int, fault: str, offset: int) -> None:
        self._target, self._fault, self._offset = port, fault, offset
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Takes no connection any more."""
        self._server.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                threading.Thread(target=self._pump, args=(client, server, ""), daemon=True).start()
                threading.Thread(target=self._pump, args=(server, client, self._fault), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, fault: str) -> None:
        sent = 0
        with contextlib.suppress(OSError):
            while block := source.recv(1 << 14):
                at = self._offset - sent
                sent += len(block)
                if fault and 0 <= at < len(block):
                    if fault == "cut":
                        target.sendall(block[:at])
                        break
                    if fault == "delayed":
                        target.sendall(block[:at])
                        time.sleep(0.3)
                        block = block[at:]
                    elif fault == "doubled":
                        block = block[:at] + block[at : at + 40] + block[at:]
                    else:
                        block = block[:at] + bytes([block[at] ^ 1]) + block[at + 1 :]
                target.sendall(block)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def _through(sshd: Sshd, fault: str, offset: int) -> Iterator[Device]:
    link = Link(sshd.port, fault, offset)
    with (sshd.folder / "known_hosts").open("a") as hosts:
        hosts.write(f"[127.0.0.1]:{link.port} {(sshd.folder / 'host_key.pub').read_text()}")
    try:
        yield Device("loop", host="127.0.0.1", port=link.port, python=plain_python(), cache=str(sshd.cache))
    finally:
        link.close()


def _ask(device: Device) -> bytes:
    with Connection(device) as connection:
        return connection.run(["printf", "%s", _SAID], timeout_s=60)


@pytest.mark.parametrize("offset", [900, 9000], ids=["handshake", "answer"])
@pytest.mark.parametrize("fault", ["cut", "corrupted", "doubled", "delayed"])
def test_a_bad_link_is_an_error_and_never_another_answer(
    sshd: Sshd, monkeypatch: pytest.MonkeyPatch, fault: str, offset: int
) -> None:
    monkeypatch.setenv("PATH", str(sshd.bin), prepend=":")
    with _through(sshd, fault, offset) as device:
        if fault == "delayed":
            assert _ask(device).decode() == _SAID
        else:
            with pytest.raises(DeviceError, match=r"^loop: [^\n]+$"):
                _ask(device)


def test_a_temporary_folder_may_have_any_name(sshd: Sshd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    odd = tmp_path / '50%h it\'s "here"'
    odd.mkdir()
    monkeypatch.setenv("PATH", str(sshd.bin), prepend=":")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(odd))
    assert _ask(sshd.device()).decode() == _SAID
    assert not list(odd.iterdir())
