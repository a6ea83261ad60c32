"""What goes to a device and comes back: nothing is quoted wrongly, and nothing that a device says is more than data."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeq.devices import ssh
from edgeq.devices.config import Device
from edgeq.devices.probe import on_device, parse_facts
from edgeq.devices.ssh import Connection, parse_answer, remote_command
from edgeq.errors import DeviceError, EdgeqError, InputError, MissingDependencyError
from edgeq.evaluation.journal import Entry
from edgeq.evaluation.prediction_codec import pack_prediction, unpack_prediction
from edgeq.packing import pack_array
from edgeq.tasks import all_tasks
from edgeq.tasks.classification.task import ClassificationTask
from edgeq.tasks.detection import Detections
from edgeq.tasks.detection.task import DetectionTask

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
jsons = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
FACTS = {
    "system": "Linux",
    "machine": "aarch64",
    "bits": 64,
    "implementation": "CPython",
    "python": "3.11.2",
    "libc": "glibc",
    "libc_version": "2.36",
    "cache": "/home/pi/.cache/edgeq",
    "free_bytes": 10**9,
    "writable": True,
    "tensorrt": False,
    "venv": True,
}


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(texts, max_size=5))
def test_arguments_arrive_unharmed(arguments):
    command = remote_command(["printf", "%s\\0", *arguments])
    arrived = subprocess.run(["sh", "-c", command], capture_output=True, check=True).stdout
    assert arrived == b"".join(os.fsencode(argument) + b"\0" for argument in arguments or [""])


def test_a_null_character_is_refused():
    with pytest.raises(DeviceError, match="null character"):
        remote_command(["ls", "a\0b"])


@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_one_line(answer):
    try:
        assert isinstance(parse_answer("pi", answer), dict)
    except DeviceError as error:
        assert re.fullmatch(r"pi: [^\n]+", str(error))


@given(jsons)
def test_any_json_is_an_object_or_one_line(document):
    try:
        assert parse_answer("pi", json.dumps(document).encode()) == document
    except DeviceError as error:
        assert len(str(error).splitlines()) == 1


def test_a_deeply_nested_answer_is_one_line():
    with pytest.raises(DeviceError, match="wanted a JSON object"):
        parse_answer("pi", b"[" * 200_000)


def test_what_a_device_complains_of_does_not_drive_the_terminal():
    with pytest.raises(DeviceError) as caught:
        parse_answer("pi", json.dumps({"error": "no\x1b[2Jspace\nleft"}).encode())
    assert str(caught.value) == "pi: no[2Jspace | left"


@given(st.sampled_from(sorted(FACTS)), jsons)
def test_any_fact_is_taken_or_refused_in_one_line(key, value):
    try:
        parse_facts("pi", FACTS | {key: value})
    except EdgeqError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"python": "3.8.10"}, "its Python is 3.8.10, edgeq needs 3.10 or newer"),
        ({"system": "Darwin"}, "wanted CPython on Linux"),
        ({"implementation": "PyPy"}, "wanted CPython on Linux"),
        ({"writable": False}, "cannot keep files in /home/pi/.cache/edgeq"),
        ({"bits": "64"}, "answer.bits is '64', wanted a whole number from 0; expected facts about the device"),
    ],
)
def test_a_device_that_edgeq_does_not_run_on(changed, said):
    with pytest.raises(DeviceError, match=said):
        parse_facts("pi", FACTS | changed)


def test_a_32_bit_system_under_a_64_bit_kernel_gets_32_bit_wheels():
    assert parse_facts("pi", FACTS | {"bits": 32}).machine == "armv7l"
    assert parse_facts("pi", FACTS).machine == "aarch64"
    assert parse_facts("pi", FACTS | {"libc": ""}).glibc == ""


@given(st.integers(0, 30), st.integers(0, 2**32 - 1))
def test_predictions_arrive_bit_for_bit(count, seed):
    rng = np.random.default_rng(seed)
    sent = Detections(
        rng.standard_normal((count, 4)).astype(np.float32),
        rng.random(count).astype(np.float32),
        rng.integers(0, 80, count),
    )
    found = unpack_prediction(DetectionTask, json.loads(json.dumps(pack_prediction(DetectionTask, sent))))
    assert isinstance(found, Detections)
    for name, array in vars(sent).items():
        assert getattr(found, name).tobytes() == array.tobytes()
        assert getattr(found, name).shape == array.shape
    ranked = rng.integers(0, 1000, 5)
    packed = json.loads(json.dumps(pack_prediction(ClassificationTask, ranked)))
    assert np.array_equal(unpack_prediction(ClassificationTask, packed), ranked)


UNPACKERS: list[Callable[[Any], Any]] = [functools.partial(unpack_prediction, task) for task in all_tasks().values()]


@given(jsons)
def test_any_json_is_a_prediction_or_refused(document):
    for parse in (*UNPACKERS, Entry.parse):
        try:
            parse(document)
        except (InputError, ValueError) as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    "harm",
    [
        {"scores": {"dtype": "float32", "shape": [2], "data": "AAAA"}},
        {"scores": {"dtype": "object", "shape": [1], "data": "AAAA"}},
        {"scores": {"dtype": "float32", "shape": [10**12], "data": "AAAA"}},
        {"boxes": pack_array(np.zeros((3, 4), np.float32))},
        {"scores": pack_array(np.full(1, np.nan, np.float32))},
        {"classes": pack_array(np.zeros(1, np.float32))},
        {"more": pack_array(np.zeros(1, np.float32))},
    ],
)
def test_a_harmed_prediction_is_refused(harm):
    sent = Detections(np.zeros((1, 4), np.float32), np.ones(1, np.float32), np.zeros(1, np.int64))
    good = pack_prediction(DetectionTask, sent)
    unpack_prediction(DetectionTask, good)
    with pytest.raises(InputError, match="a prediction that cannot be used"):
        unpack_prediction(DetectionTask, good | harm)


def test_without_an_ssh_client(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda *_: None)
    with pytest.raises(MissingDependencyError, match="openssh-client"), Connection(Device("pi", host="pi")):
        pass


def test_a_failing_command_is_told_in_one_line(loop):
    with Connection(loop.device()) as connection:
        with pytest.raises(DeviceError, match=r"loop: has no nothing-like-it \("):
            connection.run(["nothing-like-it"], timeout_s=20)
        with pytest.raises(DeviceError, match=r"loop: sh failed with exit code 3: one \| two"):
            connection.run(["sh", "-c", "echo one >&2; echo two >&2; exit 3"], timeout_s=20)
        with pytest.raises(DeviceError, match=r"did not answer within 0.3 s"):
            connection.run(["sleep", "60"], timeout_s=0.3)
        with pytest.raises(DeviceError, match=r"more than 4 MiB"):
            connection.run(["head", "-c", "9000000", "/dev/zero"], timeout_s=60)
        assert connection.run(["cat"], lambda stdin: _write(stdin, b"x" * 100_000), timeout_s=20) == b"x" * 100_000
    with pytest.raises(DeviceError, match="the connection is lost"):
        connection.command(["true"])


def test_wrong_hosts_keys_and_users(loop, tmp_path, monkeypatch):
    with pytest.raises(DeviceError, match=r"cannot be reached: .*refused.*; try: ssh -p 1 127\.0\.0\.1"):
        Connection(Device("gone", host="127.0.0.1", port=1)).__enter__()
    with pytest.raises(DeviceError, match=r"cannot be reached: .*no-such-host.invalid"):
        Connection(Device("gone", host="no-such-host.invalid")).__enter__()

    config = (loop.folder / "ssh_config").read_text()
    ssh = (loop.bin / "ssh").read_text()
    (tmp_path / "ssh").write_text(ssh.replace(f"{loop.folder}/ssh_config", f"{tmp_path}/config"))
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (tmp_path / "config").write_text(config.replace("known_hosts", "unknown_hosts"))
    with pytest.raises(DeviceError, match=r"cannot be reached: .*Host key verification failed"):
        Connection(loop.device()).__enter__()
    (tmp_path / "config").write_text(config.replace("user_key", "host_key"))
    with pytest.raises(DeviceError, match=r"cannot be reached: .*Permission denied"):
        Connection(loop.device()).__enter__()


def test_no_socket_and_no_process_is_left(loop, monkeypatch, tmp_path):
    with tempfile.TemporaryDirectory(prefix="s") as short:
        (tmp_path / ("long" * 20)).mkdir()
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / ("long" * 20)))
        monkeypatch.setattr(tempfile, "tempdir", short)
        with Connection(loop.device()) as connection:
            pid = connection.pid
            assert list(Path(short).glob("edgeq-*/m"))
            assert connection.run(["echo", "here"], timeout_s=20) == b"here\n"
        assert list(Path(short).iterdir()) == []
    assert loop.masters() == []
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_device_that_hears_nothing_ends_by_itself(loop, monkeypatch):
    monkeypatch.setattr(ssh, "_BEAT_S", 0.1)
    monkeypatch.setattr(ssh, "_SILENCE_S", 2.0)
    with Connection(loop.device()) as connection:
        connection.keep_watched(on_device("watch"))
        runner = subprocess.Popen(
            # Of a single command, bash as sh would keep no trace but `cat`.
            connection.command(["sh", "-c", "cat; true # $0", str(loop.cache)]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        pid = loop.wait_for("cat; true # $0")
        time.sleep(4)
        assert pid in loop.processes(), "it is heard"
        os.kill(connection.pid, signal.SIGSTOP)  # as if the network were gone
        try:
            loop.assert_empty(timeout_s=30)
        finally:
            os.kill(connection.pid, signal.SIGCONT)
        runner.communicate(timeout=20)
        with pytest.raises(DeviceError, match="the connection is lost"):
            connection.run(["true"], timeout_s=20)


def test_without_its_master_no_command_reaches_the_device(loop, monkeypatch, tmp_path):
    with tempfile.TemporaryDirectory(prefix="s") as short:
        monkeypatch.setenv("XDG_RUNTIME_DIR", short)
        with Connection(loop.device()) as connection:
            assert connection.run(["true"], timeout_s=20) == b""
            # What a master that ends does first; until it has ended, it looks alive.
            next(Path(short).glob("edgeq-*/m")).unlink()
            with pytest.raises(DeviceError, match="the connection is lost"):
                connection.run(["touch", str(tmp_path / "ran")], timeout_s=20)
    assert not (tmp_path / "ran").exists()


def _write(stdin, content):
    stdin.write(content)
