"""`python -m tests.x86` on a machine that cannot make another CPU up."""

from __future__ import annotations

import sys

import pytest

from tests.packages import EmulatorUnavailableError
from tests.x86 import __main__ as command
from tests.x86 import qemu, trap
from tests.x86.absent import REASON


def test_without_compiler_and_qemu_every_test_is_skipped_with_the_reason(monkeypatch, capfd):
    def no_compiler():
        raise EmulatorUnavailableError("cc not found")

    def no_qemu():
        raise EmulatorUnavailableError("apt-get not found")

    monkeypatch.setattr(trap, "set_up", no_compiler)
    monkeypatch.setattr(qemu, "set_up", no_qemu)
    monkeypatch.setenv(REASON, "")
    arguments = ["-q", "-rs", "-p", "no:cacheprovider", "tests/x86/test_emulation.py", "-k", "runtime_is_exact"]
    monkeypatch.setattr(sys, "argv", ["tests.x86", *arguments])
    with pytest.raises(SystemExit) as end:
        command.main()
    assert end.value.code == 0
    said = capfd.readouterr()
    assert "1 skipped" in said.out
    for text in (said.out, said.err):
        assert "AVX2 without VNNI is not emulated here: cc not found; apt-get not found" in text
