"""Where the files of a search are timed: this machine, and devices that share the work; no device is connected to."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sys
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from edgeq.devices.config import LOCAL, Device
from edgeq.errors import DeviceError, EngineError, InputError, MismatchError
from edgeq.measurement.timed_file import Job
from edgeq.results.environment import Environment
from edgeq.results.measurement import BenchResult
from edgeq.runtimes.answers import Power
from edgeq.runtimes.child import RunnerProcess
from edgeq.targets import get_target
from edgeq.tuning.search_latency import SAMPLING
from edgeq.tuning.timing_devices import Devices, Facts, alone, find_timing_devices, require_target
from edgeq.tuning.timing_site import no_energy

PI = Environment(engine="onnxruntime 1.20.0", cpu="Cortex-A76", board="Raspberry Pi 5", architecture="aarch64")


def named(name: str) -> Any:
    return SimpleNamespace(name=name, path=name)


def facts(threads: int = 4, environment: Environment = PI) -> Facts:
    return Facts("onnxruntime", threads, environment, Power())


class Boards:
    """Boards that answer what they are told to: `lost` are the numbers of the calls in which one dies."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, names: Sequence[str], lost: set[int]) -> None:
        self.calls: list[list[str]] = []
        self.ended: list[str] = []
        self._lost = lost
        self.site = Devices([Device(name, host=name) for name in names], get_target("arm"), "onnxruntime")
        monkeypatch.setattr("edgeq.tuning.timing_devices.bench_jobs", self._bench)
        monkeypatch.setattr("edgeq.tuning.timing_devices.alone", lambda _: contextlib.nullcontext())
        monkeypatch.setattr(Devices, "send", lambda *given: [(named(name), "there") for name in given[-1]])
        monkeypatch.setattr(Devices, "ready", self._ready)

    @contextlib.contextmanager
    def _ready(self, device: Device, _file: Any) -> Iterator[Any]:
        remote = SimpleNamespace(python=lambda *_: [device.name], close=lambda: self.ended.append(device.name))
        yield remote, facts()

    def _bench(self, jobs: Sequence[Job], *, runner: Sequence[str], **_: Any) -> list[BenchResult]:
        self.calls.append([job.artifact.name for job in jobs])
        if len(self.calls) - 1 in self._lost:
            raise EngineError(f"{runner[0]}: its process ended")
        return [BenchResult(artifact=job.artifact.name, runtime="onnxruntime", precision="int8") for job in jobs]


BATCHES: Any = [["fp32", name] for name in "abcde"]


@pytest.mark.parametrize(("names", "lost"), [("a", set()), ("ab", set()), ("ab", {1}), ("abc", {0, 2})])
def test_each_file_is_timed_once_whichever_board_dies(monkeypatch, names, lost):
    boards = Boards(monkeypatch, list(names), lost)
    found = dict(boards.site.bench(BATCHES, SAMPLING))
    assert {index: [each.artifact for each in results] for index, results in found.items()} == dict(enumerate(BATCHES))
    assert len(boards.calls) == len(BATCHES) + len(lost)


def test_when_all_boards_are_lost_one_line_says_so_and_what_was_done_has_arrived(monkeypatch):
    boards, found = Boards(monkeypatch, ["one"], {2}), list[int]()
    with pytest.raises(DeviceError, match="one: its process ended; what was measured before is in the store") as no:
        found.extend(index for index, _ in boards.site.bench(BATCHES, SAMPLING))
    assert "\n" not in str(no.value)
    assert found == [0, 1]


def test_who_stops_listening_ends_the_connections(monkeypatch):
    boards = Boards(monkeypatch, ["one"], set())
    results = boards.site.bench(BATCHES, SAMPLING)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert boards.ended == ["one"]


def test_only_boards_of_one_kind_share_timings(monkeypatch):
    site = Devices([Device("one", host="one"), Device("two", host="two")], get_target("arm"), "onnxruntime")
    site._facts.update(one=facts(), two=facts())
    assert site.survey(named("net.onnx")).machine == "Raspberry Pi 5, Cortex-A76"
    site._facts["two"] = facts(threads=2)
    with pytest.raises(MismatchError, match=r"two is .* 2 threads, one is .* 4 threads: only devices of one kind"):
        site.survey(named("net.onnx"))


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (PI, ""),
        (dataclasses.replace(PI, architecture="x86_64"), "is x86_64, whose times are not those of arm"),
        (dataclasses.replace(PI, emulated=True), "is an emulated CPU, whose times are not those of arm"),
    ],
)
def test_a_device_is_one_that_the_target_is_for(environment, said):
    device = Device("pi", host="pi")
    site = Devices([device], get_target("arm"), "onnxruntime")
    refused = pytest.raises(MismatchError, match=said) if said else contextlib.nullcontext()
    with refused:
        site._check(device, facts(environment=environment))


def test_what_cannot_be_timed_by_devices_is_refused_before_any_work():
    assert find_timing_devices(["local"]) == find_timing_devices([]) == []
    with pytest.raises(InputError, match="name local alone"):
        find_timing_devices([LOCAL, "ssh://pi"])
    for name in ("arm", "jetson-orin", "x86-ort"):
        require_target(get_target(name), [Device("board")])
    with pytest.raises(InputError, match="`device` pc: no engine of tensorrt-rtx is built on a device"):
        require_target(get_target("rtx"), [Device("pc")])


@pytest.mark.parametrize(
    ("power", "runtime", "is_locked", "said"),
    [
        (Power(kind="rails"), "onnxruntime", False, ""),
        (Power(kind="rapl"), "openvino", False, ""),
        (Power(gpu_source="NVML"), "tensorrt", False, ""),
        (Power(gpu_source="NVML"), "onnxruntime", False, "pi has no sensor .*; RAPL of an x86 CPU, the INA3221 of a"),
        (Power(), "onnxruntime", True, "may read the RAPL counters of pi; run: sudo chmod a.r /sys/class/powercap"),
    ],
)
def test_energy_needs_a_sensor_of_what_computes(power, runtime, is_locked, said):
    found = no_energy("pi", power, runtime, is_locked=is_locked)
    assert re.search(said, found)
    assert bool(found) == bool(said)


def test_a_machine_is_held_until_the_connection_ends(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    command = (sys.executable, "-m", "edgeq.tuning.machine_lock")
    with RunnerProcess("second", command) as second:
        with RunnerProcess("first", command) as first:
            assert first.ask(60, "hold", seconds=60)["held"]
            assert not second.ask(60, "hold", seconds=0)["held"]
        assert second.ask(60, "hold", seconds=60)["held"]


def test_who_measures_on_a_device_is_told_for_whom_it_waits_there(monkeypatch, caplog):
    busy = {"ok": True, "held": False, "waits_for": ["waiting for process 7"]}
    answers = [busy, busy, {"ok": True, "held": True, "waits_for": []}, busy]
    code = f"import json, sys\nfor each in {answers!r}: sys.stdin.readline(); print(json.dumps(each), flush=True)"
    remote: Any = SimpleNamespace(device=Device("pi"), python=lambda *_: [sys.executable, "-S", "-E", "-c", code])
    with alone(remote):
        assert [record.getMessage() for record in caplog.records] == ["pi: waiting for process 7"]
    monkeypatch.setattr("edgeq.tuning.timing_devices._WAIT_S", 0.0)
    with pytest.raises(EngineError, match="pi: waiting for process 7"), alone(remote):
        pass
