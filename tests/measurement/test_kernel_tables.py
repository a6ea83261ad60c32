"""Kernel costs: timed in a real engine, kept in the cache folder, or shipped."""

from __future__ import annotations

import dataclasses
import json

import pytest

from edgeq.cli.kernels import print_kernels
from edgeq.cli.machine import doctor
from edgeq.errors import EngineError
from edgeq.exporting.costs.kernel import Kernel
from edgeq.exporting.costs.table import KernelCost
from edgeq.machine import read_machine
from edgeq.measurement import kernel_tables, kernel_timing
from edgeq.measurement.kernel_tables import costs_here, known_tables, measured
from edgeq.measurement.kernel_timing import Engine, time_kernels
from edgeq.runtimes import is_installed
from edgeq.runtimes.kernel_timer import KernelTimer

KERNELS = [Kernel.parse(f"Conv {channels}>8 8x8 k1x1 s1x1 d1 g1 Relu") for channels in range(8, 40)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "edgeq" / "kernels"


@pytest.fixture
def timed(monkeypatch):
    """Counts what is timed; a kernel takes as many microseconds as it has input channels."""
    asked = []

    def time_some(engine, kernels, advance, _place):
        asked.append((engine.runtime, engine.threads, list(kernels)))
        advance(len(kernels))
        return {kernel: KernelCost(float(kernel.inputs), 1.0) for kernel in kernels}

    monkeypatch.setattr(kernel_tables, "time_kernels", time_some)
    return asked


@pytest.fixture
def machine():
    return dataclasses.replace(read_machine(), cpu="a CPU", cpu_features=("avx2", "avx512_vnni"), emulated=False)


def test_a_kernel_is_timed_once(timed, machine):
    first = measured("onnxruntime", KERNELS[:3], machine, 1)
    assert first.is_measured and first.rows == {kernel: KernelCost(float(kernel.inputs), 1.0) for kernel in KERNELS[:3]}
    again = measured("onnxruntime", KERNELS[1:5], machine, 1)
    assert set(again.rows) == set(KERNELS[:5])
    assert [kernels for *_, kernels in timed] == [KERNELS[:3], KERNELS[3:5]]


def test_another_cpu_version_or_number_of_threads_has_a_table_of_its_own(timed, machine, monkeypatch):
    measured("onnxruntime", KERNELS[:1], machine, 1)
    measured("onnxruntime", KERNELS[:1], machine, 2)
    measured("onnxruntime", KERNELS[:1], dataclasses.replace(machine, cpu="another"), 1)
    measured("onnxruntime", KERNELS[:1], dataclasses.replace(machine, cpu_features=("avx2",)), 1)
    monkeypatch.setattr("importlib.metadata.version", lambda _: "99")
    assert measured("onnxruntime", KERNELS[:1], machine, 1).version == "99"
    assert len(timed) == 5


def test_an_interruption_loses_one_batch(monkeypatch, timed, machine):
    works = vars(kernel_tables)["time_kernels"]

    def fails_at_last(engine, kernels, advance, place):
        if KERNELS[-1] in kernels:
            raise KeyboardInterrupt
        return works(engine, kernels, advance, place)

    monkeypatch.setattr(kernel_tables, "time_kernels", fails_at_last)
    with pytest.raises(KeyboardInterrupt):
        measured("onnxruntime", KERNELS, machine, 1)
    monkeypatch.setattr(kernel_tables, "time_kernels", works)
    assert set(measured("onnxruntime", KERNELS, machine, 1).rows) == set(KERNELS)
    assert len(timed[0][2]) + len(timed[1][2]) == len(KERNELS)


@pytest.mark.parametrize("damage", [b"\xff\x00 no JSON\n", b'{"job": "another", "part": {"kernel": "x"}}\n'])
def test_lines_of_others_in_the_cache_do_not_count(timed, machine, cache, damage):
    measured("onnxruntime", KERNELS[:2], machine, 1)
    (path,) = cache.iterdir()
    with path.open("ab") as stream:
        stream.write(damage)
    assert set(measured("onnxruntime", KERNELS[:2], machine, 1).rows) == set(KERNELS[:2])
    assert len(timed) == 1


@pytest.mark.parametrize("cost", [{"f32_us": -1.0, "int8_us": 1.0}, {"f32_us": "fast", "int8_us": 1.0}, {}])
def test_a_spoilt_cache_is_said_and_the_shipped_table_serves(timed, machine, cache, monkeypatch, caplog, cost):
    monkeypatch.setattr(kernel_tables, "read_machine", lambda: machine)
    measured("onnxruntime", KERNELS[:1], machine, 1)
    (path,) = cache.iterdir()
    line = json.loads(path.read_text())
    line["part"]["cost"] = cost
    path.write_text(json.dumps(line) + "\n")
    table = costs_here("onnxruntime", KERNELS[:1], threads=1)
    assert table is not None and not table.is_measured
    assert "shipped, of" in caplog.text and str(path) in caplog.text


def test_a_busy_machine_takes_the_shipped_table_as_a_whole(monkeypatch, timed, machine, caplog):
    monkeypatch.setattr(kernel_tables, "read_machine", lambda: machine)
    assert costs_here("onnxruntime", KERNELS[:1], threads=1).is_measured  # type: ignore[union-attr]

    def busy(*_):
        raise EngineError("this machine is too busy to time kernels")

    monkeypatch.setattr(kernel_tables, "time_kernels", busy)
    table = costs_here("onnxruntime", KERNELS[:2], threads=1)
    assert table is not None and not table.is_measured and KERNELS[0] not in table.rows
    (record,) = caplog.records
    assert record.message.startswith("this machine is too busy to time kernels; kernel costs are shipped, of ")


def test_without_an_engine_or_with_an_emulated_cpu_nothing_is_timed(monkeypatch, timed, machine, caplog):
    monkeypatch.setattr(kernel_tables, "read_machine", lambda: dataclasses.replace(machine, emulated=True))
    table = costs_here("onnxruntime", KERNELS[:1])
    assert table is not None and not table.is_measured
    monkeypatch.setattr(kernel_tables, "is_installed", lambda _: False)
    assert costs_here("openvino", KERNELS[:1]) is not None
    assert timed == [] and "emulated" in caplog.text and "openvino is not installed here" in caplog.text


def test_where_nothing_may_be_measured_the_shipped_table_serves_in_silence(monkeypatch, timed, machine, caplog):
    monkeypatch.setattr(kernel_tables, "read_machine", lambda: machine)
    table = costs_here("openvino", KERNELS[:1], measure=False)
    assert table is not None and not table.is_measured
    monkeypatch.setattr(kernel_tables, "read_machine", lambda: dataclasses.replace(machine, cpu_features=("asimd",)))
    assert costs_here("openvino", KERNELS[:1], measure=False) is None
    assert timed == [] and not caplog.records


def test_the_doctor_shows_measured_tables_before_shipped_ones(timed, machine, capsys):
    if not is_installed("openvino"):
        pytest.skip("openvino is not installed")
    assert [table.is_measured for table in known_tables(machine)] == [False, False]
    measured("onnxruntime", KERNELS[:1], machine, 1)
    tables = known_tables(machine)
    assert [(table.engine, table.is_measured) for table in tables] == [("openvino", False), ("onnxruntime", True)]
    print_kernels(tables)
    printed = capsys.readouterr().out
    assert "onnxruntime: measured on this machine" in printed
    assert "openvino: nothing was measured here yet" in printed
    assert "Conv 8>8 8x8 k1x1 s1x1 d1 g1 Relu  1x1   8.0     -   1.0        1.0      0.12           0.12" in printed
    document = json.loads(json.dumps([table.to_json() for table in tables]))
    assert document[1]["rows"] == [
        {"kernel": str(KERNELS[0]), "kind": "1x1", **dataclasses.asdict(KernelCost(8.0, 1.0))}
    ]


def test_a_real_engine_times_every_kernel_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(kernel_timing, "_MOST_DOUBTFUL", 1.0)  # the machine that tests run on may be busy
    monkeypatch.setattr(kernel_timing, "_ROUNDS", 1)
    texts = ("Conv 64>64 20x20 k3x3 s1x1 d1 g1 Relu", "MaxPool 64>64 20x20 k2x2 s2x2 d1 g1")
    kernels, told = list(map(Kernel.parse, texts)), list[int]()
    found = time_kernels(Engine("onnxruntime", 1, has_bf16=False), kernels, told.append)
    assert sum(told) == 2 and list(found) == kernels
    assert found[kernels[0]].f32_us > 0 and found[kernels[0]].bf16_us is None


def test_the_command_writes_the_tables(tmp_path, capsys):
    doctor(kernels=True, json_file=tmp_path / "kernels.json")
    tables = json.loads((tmp_path / "kernels.json").read_text())["kernels"]
    assert all(table["obtained"] == "shipped" and table["rows"] for table in tables)
    assert all(f"{table['engine']}: shipped, of" in capsys.readouterr().out for table in tables[:1])


def test_a_machine_whose_times_do_not_repeat_is_too_busy(monkeypatch):
    timer = kernel_timing._Timer.__new__(kernel_timing._Timer)
    timer._nets, timer._samples, timer._warm_s = (None,) * 20, [[] for _ in range(20)], 0.0  # type: ignore[assignment]

    class Answers:
        count = 0

        def ask_for(self, _wanted, _timeout, _command, *, count, **_):
            Answers.count += 1
            return kernel_timing._Timed([100.0 / 1.2**Answers.count] * count)

    timer._process = Answers()  # type: ignore[assignment]
    with pytest.raises(EngineError, match="too busy to time kernels"):
        kernel_timing._time_all([timer], 3, lambda _: None)


def test_a_network_that_an_engine_cannot_run_is_named(tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no network")
    timer = KernelTimer()
    assert timer.answer(b'{"command": "open", "files": []}')["error"] == "InputError"
    start = {"command": "start", "runtime": "litert", "threads": 1, "compute_precision": "f32"}
    assert "openvino" in timer.answer(json.dumps(start).encode())["message"]
    assert timer.answer(json.dumps({**start, "runtime": "onnxruntime"}).encode())["ok"]
    answer = timer.answer(json.dumps({"command": "open", "files": [str(broken)]}).encode())
    assert answer["error"] == "EngineError" and str(broken) in answer["message"]
