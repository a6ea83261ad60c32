"""`--device` and devices.toml."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeq.devices.config import Device, find_devices, read_devices
from edgeq.errors import InputError


def test_addresses_and_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "devices.toml").write_text(
        '[pi5]\nhost = "ssh://pi@raspberrypi.local:2222"\nthreads = 4\ncpus = [0, 1]\nruntimes = ["litert"]\n'
        'python = "/usr/bin/python3.11"\nenv = "venv"\ncache = "/data/edgeq"\n\n[orin]\nhost = "orin"\n'
    )
    found = find_devices(["local", "pi5", "orin", "ssh://me@[fe80::1%eth0]:22", "ssh://box/"])
    assert found == [
        Device("local"),
        Device(
            "pi5", "raspberrypi.local", "pi", 2222, 4, (0, 1), ("litert",), "/usr/bin/python3.11", "venv", "/data/edgeq"
        ),
        Device("orin", "orin"),
        Device("me@[fe80::1%eth0]:22", "fe80::1%eth0", "me", 22),
        Device("box", "box"),
    ]
    assert [device.destination for device in found[1:]] == ["pi@raspberrypi.local", "orin", "me@fe80::1%eth0", "box"]


def test_the_users_file_is_second(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert read_devices() == {}
    (tmp_path / "config" / "edgeq").mkdir(parents=True)
    (tmp_path / "config" / "edgeq" / "devices.toml").write_text('[a]\nhost = "a"\n')
    assert list(read_devices()) == ["a"]
    (tmp_path / "devices.toml").write_text('[b]\nhost = "b"\n')
    assert list(read_devices()) == ["b"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[pi]\nhost = 'pi'\ncolour = 1\n", r"\[pi\] has an unknown key 'colour' \(known: host, threads"),
        ("[pi]\nthreads = 1\n", "has no 'host'; .* with host = "),
        ("[pi]\nhost = '-oProxyCommand=x'\n", "is not the address of a device"),
        ("[pi]\nhost = 'pi'\nthreads = true\n", r"\[pi\]\.threads is True, wanted a whole number from 1"),
        ("[pi]\nhost = 'pi'\ncpus = [-1]\n", r"\[pi\]\.cpus\[0\] is -1, wanted a whole number from 0"),
        ("[pi]\nhost = 'pi'\npython = '-c'\n", "python is '-c', wanted printable text"),
        ("[pi]\nhost = 'pi'\nenv = 'conda'\n", "env is 'conda', wanted one of push, venv"),
        ("[pi]\nhost = 'pi'\ncache = 'a:b'\n", "without a colon"),
        ("[local]\nhost = 'pi'\n", "this name is taken"),
        ("pi = 'pi'\n", "is 'pi', wanted keys with values; expected a table with host"),
        ("[pi\n", "is not valid TOML"),
    ],
)
def test_what_is_wrong_is_told(tmp_path, text, said):
    (tmp_path / "devices.toml").write_text(text)
    with pytest.raises(InputError, match=said):
        read_devices(tmp_path / "devices.toml")


@pytest.mark.parametrize(
    "address",
    [
        "ssh://",
        "ssh://-oProxyCommand=touch",
        "ssh://a@-b",
        "ssh://-a@b",
        "ssh://a b",
        "ssh://a;b",
        "ssh://$(x)",
        "ssh://a:0",
        "ssh://a:65536",
        "ssh://a/b",
        "ssh://a\n",
        "http://a",
    ],
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(InputError, match="is not the address of a device"):
        find_devices([address], {})


@given(st.text(), st.text())
def test_no_address_holds_what_a_shell_or_ssh_would_take_for_more(user, host):
    try:
        (device,) = find_devices([f"ssh://{user}@{host}"], {})
    except InputError:
        return
    assert not device.destination.startswith("-")
    assert not set(device.destination) & set(" \t\n'\"`$;&|<>(){}*?!\\#~")


def test_unknown_and_repeated_names():
    with pytest.raises(InputError, match=r"`device` pi: no such device; wanted local, ssh://.* or a name"):
        find_devices(["pi"], {"orin": Device("orin", "orin")})
    with pytest.raises(InputError, match="`device` local: named twice"):
        find_devices(["local", "local"], {})
