"""Work on many workers: the result of one process, whoever is lost, late, different or interrupted."""

from __future__ import annotations

import copy
import dataclasses
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from edgeq.errors import EngineError, InputError, MismatchError
from edgeq.evaluation.prediction_codec import pack_prediction
from edgeq.exporting.artifact import Artifact
from edgeq.files import sha256_bytes
from edgeq.inputs.items import MemoryItem
from edgeq.runtimes.onnxruntime import OnnxRuntimeSession
from edgeq.tuning import executors, machine_lock
from edgeq.tuning.executors import Executor, Found, WorkerLostError
from edgeq.tuning.lock_holders import Holder
from edgeq.tuning.machine_lock import BusyMachineError, machine_alone, shared_machine, waiting_until
from edgeq.tuning.staged import StagedImages
from edgeq.tuning.work_units import Unit, WorkUnit, split_evenly
from edgeq.tuning.workers import LocalWorker, executing
from edgeq.tuning.workers_server import WorkerFiles, worker_facts
from tests.tuning.cluster_case import RUNTIME, Case, open_case, rows_of


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Case:
    return open_case(tmp_path_factory.mktemp("case"))


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    with executing(workers=2) as found:
        assert found is not None
        yield found


# Real processes -----------------------------------------------------------------------------------------------------


def test_two_processes_find_what_one_finds_and_keep_it_once(case, pool, tmp_path):
    assert case.find(tmp_path / "two.sqlite", pool) == case.alone
    assert rows_of(tmp_path / "two.sqlite") == case.rows


def test_a_killed_process_loses_nothing_and_nothing_is_kept_twice(case, pool, tmp_path, monkeypatch):
    killed: list[int] = []
    original = LocalWorker.predict

    def predict(self: LocalWorker, unit: WorkUnit) -> Found:
        if len(killed) < 3:
            killed.append(self._process.pid)
            os.kill(self._process.pid, signal.SIGKILL)
        return original(self, unit)

    monkeypatch.setattr(LocalWorker, "predict", predict)
    assert case.find(tmp_path / "killed.sqlite", pool) == case.alone
    assert rows_of(tmp_path / "killed.sqlite") == case.rows
    assert len(killed) == 3
    assert pool.workers == 2


def test_an_interruption_leaves_no_process(case):
    with pytest.raises(KeyboardInterrupt), executing(workers=1) as found:
        assert found is not None
        images = StagedImages(case.task, case.stages, RUNTIME, 1, found)
        for _ in images.predict_many([(case.file, stage) for stage in range(len(case.stages))]):
            (worker,) = found._state.workers.values()
            assert isinstance(worker, LocalWorker)
            pid = worker._process.pid
            raise KeyboardInterrupt
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_unreadable_images_are_skipped_and_arrays_in_memory_are_sent(case, pool, tmp_path, caplog):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    items = list(case.task.items)
    items[1] = dataclasses.replace(items[1], path=broken)
    items[2] = dataclasses.replace(items[2], path=tmp_path / "absent.png")
    items[3] = MemoryItem("item 3", items[3].read())
    task = with_items(case.task, items)
    alone, elsewhere = (StagedImages(task, [[0, 1, 2, 3]], RUNTIME, 1, each) for each in (None, pool))
    found = elsewhere.predict(case.file, 0)
    assert list(found) == [0, 3]
    assert "broken.png" in caplog.text
    assert packed(task, found) == packed(task, alone.predict(case.file, 0))


def test_a_file_that_no_engine_opens_is_one_error(case, pool, tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no model")
    broken = dataclasses.replace(case.file, path=path, digest=sha256_bytes(b"no model"))
    images = StagedImages(case.task, case.stages, RUNTIME, 1, pool)
    with pytest.raises(EngineError, match=r"broken\.onnx"):
        images.predict(broken, 0)
    # The workers live on, and share the images of a single file.
    alone = StagedImages(case.task, case.stages, RUNTIME, 1).predict(case.file, 0)
    assert packed(case.task, images.predict(case.file, 0)) == packed(case.task, alone)


# Workers in this process --------------------------------------------------------------------------------------------


class Fake:
    """A worker whose answers are the names of the files it is asked about."""

    def __init__(
        self, behave: Callable[[Unit], object] = lambda _unit: None, facts: Mapping[str, str] | None = None
    ) -> None:
        self._behave = behave
        self._facts = dict(facts or {})
        self.ended = threading.Event()
        self.seen: list[str] = []
        self.is_lost = False

    def facts(self, runtime: str) -> Mapping[str, str]:
        return worker_facts(runtime) | self._facts

    def predict(self, unit: Unit) -> Found:
        self.seen.append(unit.artifact.name)
        self._behave(unit)
        return [{"name": unit.artifact.name}]

    def close(self) -> None:
        self.ended.set()

    def opened(self) -> Fake:
        return self


def working(*fakes: Fake, **options: Any) -> Executor:
    executor = Executor("fakes", **options)
    for number, fake in enumerate(fakes):
        executor.add(f"fake {number}", fake.opened)
    return executor


def units(file: Artifact, count: int) -> Iterator[WorkUnit]:
    for number in range(count):
        artifact = dataclasses.replace(file, path=Path(f"{number}.onnx"))
        yield WorkUnit(artifact, RUNTIME, 1, None, [])


def lose(unit: Unit) -> None:
    raise WorkerLostError(f"lost with {unit.artifact.name}")


def test_what_a_lost_worker_had_goes_to_another_one(case):
    with working(Fake(lose), Fake()) as executor:
        found = dict(executor.map(units(case.file, 20)))
    assert found == {number: [{"name": f"{number}.onnx"}] for number in range(20)}


def test_a_unit_that_ends_every_worker_is_blamed(case):
    with working(Fake(lose), restarts=True) as executor, pytest.raises(EngineError, match=r"0\.onnx: 5 workers ended"):
        list(executor.map(units(case.file, 3)))


def test_workers_that_go_while_they_have_nothing_to_do_are_not_asked(case, monkeypatch):
    monkeypatch.setattr(executors, "_TICK_S", 0.02)
    idle = [Fake() for _ in range(8)]
    for fake in idle:
        fake.is_lost = True
    with working(*idle, Fake()) as executor:
        assert len(dict(executor.map(units(case.file, 5)))) == 5
        assert all(fake.seen == [] for fake in idle)
        assert all(fake.ended.wait(10) for fake in idle)


def test_without_workers_the_run_ends_with_their_last_words(case):
    with working(Fake(lose)) as executor, pytest.raises(EngineError, match=r"no worker is left \(lost with 0\.onnx\)"):
        list(executor.map(units(case.file, 3)))


def test_who_waits_for_workers_that_wait_for_a_measurement_is_told_and_ends_in_time(case, monkeypatch, caplog):
    monkeypatch.setattr(executors, "_TICK_S", 0.02)
    monkeypatch.setattr(machine_lock, "_PATIENCE_S", 0.0)
    other = Holder(os.getppid(), "edgeq tune other.onnx", 0.0, alone=True, is_stopped=True)
    monkeypatch.setattr(machine_lock, "_blockers", lambda _: [other])
    free = threading.Event()
    with working(Fake(lambda _: free.wait(60))) as executor:
        with waiting_until(time.monotonic() + 0.2), pytest.raises(BusyMachineError, match="edgeq tune other"):
            list(executor.map(units(case.file, 1)))
        free.set()
    assert [record.getMessage() for record in caplog.records] == [str(other)]


def test_what_a_worker_is_late_with_another_one_does_and_each_counts_once(case, monkeypatch):
    monkeypatch.setattr(executors, "_LATE_S", 0.05)
    monkeypatch.setattr(executors, "_LATE_FACTOR", 0.0)
    monkeypatch.setattr(executors, "_TICK_S", 0.02)
    slow = Fake(lambda _unit: slow.ended.wait())
    quick = Fake(lambda _unit: time.sleep(0.01))
    with working(slow, quick) as executor:
        found = list(executor.map(units(case.file, 8)))
        assert sorted(number for number, _ in found) == list(range(8))
        assert slow.seen[0] in quick.seen
        assert sorted(number for number, _ in executor.map(units(case.file, 4))) == list(range(4))


@pytest.mark.parametrize("fact", ["edgeq", "onnxruntime", "CPU"])
def test_a_worker_with_another_version_is_left_out_with_one_line(case, fact, caplog):
    other = Fake(facts={fact: "0.0.1"})
    with working(other, Fake()) as executor:
        assert len(dict(executor.map(units(case.file, 6)))) == 6
        deadline = time.monotonic() + 10
        while executor.workers > 1 and time.monotonic() < deadline:
            list(executor.map(units(case.file, 2)))
    assert other.seen == []
    (line,) = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert f"its {fact} is 0.0.1, wanted {worker_facts(RUNTIME)[fact]}" in line
    with (
        working(Fake(facts={"edgeq": "0.0.1"})) as executor,
        pytest.raises(EngineError, match=r"no worker is left.*0\.0\.1"),
    ):
        list(executor.map(units(case.file, 1)))


def test_a_worker_takes_the_files_that_it_has_and_then_those_that_nobody_has(case):
    state = executors._State(workers={0: None, 1: None}, owners={"own": 0, "other's": 1, "lost": 7})
    for number, digest in enumerate(["other's", "own", "new", "lost", "own"]):
        file = dataclasses.replace(case.file, digest=digest)
        state.waiting.append(executors._Task(number, WorkUnit(file, RUNTIME, 1, None, []), queue.SimpleQueue()))
    assert [state.take_waiting(0).number for _ in range(5)] == [1, 4, 2, 3, 0]


def test_files_are_taken_shortly_before_they_are_needed(case):
    taken: list[int] = []
    gate = threading.Event()

    def counted() -> Iterator[WorkUnit]:
        for unit in units(case.file, 50):
            taken.append(len(taken))
            yield unit

    with working(Fake(lambda _unit: gate.wait())) as executor:
        results = executor.map(counted())
        opening = threading.Timer(0.2, gate.set)
        opening.start()
        next(results)
        assert len(taken) <= 3
        results.close()  # type: ignore[attr-defined]
        assert len(dict(executor.map(units(case.file, 2)))) == 2, "what was left is forgotten"


# Parts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "pieces", "workers", "parts"),
    [(64, 4, 2, [64]), (64, 1, 2, [32, 32]), (64, 2, 512, [16] * 4), (10, 1, 8, [10]), (600, 9, 1, [200] * 3)],
)
def test_stages_are_split_only_if_workers_would_wait(images, pieces, workers, parts):
    found = split_evenly(range(images), pieces, workers)
    assert [len(part) for part in found] == parts
    assert [number for part in found for number in part] == list(range(images))


def test_sent_files_are_checked_and_old_models_removed(tmp_path):
    files = WorkerFiles(tmp_path)
    contents = [os.urandom(50) for _ in range(6)]
    digests = [sha256_bytes(content) for content in contents]
    for digest, content in zip(digests, contents, strict=True):
        files.put(digest, ".onnx", 0, content[:20], is_last=False)
        assert files.missing([digest]) == [digest]
        files.put(digest, ".onnx", 20, content[20:], is_last=True)
        assert files.path(digest).read_bytes() == content
        files.drop_old_models(digest)
    assert files.missing(digests) == digests[:2]
    assert len(list(tmp_path.iterdir())) == 4
    with pytest.raises(MismatchError, match="has changed"):
        files.put(digests[0], ".onnx", 0, b"other", is_last=True)
    for digest, suffix in (("../x", ".onnx"), (digests[0], "/../x")):
        with pytest.raises(InputError, match="wanted a SHA-256"):
            files.put(digest, suffix, 0, b"", is_last=True)


def test_timing_waits_for_predictions_and_predictions_for_timing(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    order: list[str] = []
    holding, waiting = threading.Event(), threading.Event()

    def time_it() -> None:
        waiting.set()
        with machine_alone():
            order.append("timed")

    def predict() -> None:
        with shared_machine():
            order.append("predicted")

    with shared_machine():
        with shared_machine():
            holding.set()
        timer = threading.Thread(target=time_it)
        timer.start()
        waiting.wait()
        time.sleep(0.1)
        late = threading.Thread(target=predict)
        late.start()
        time.sleep(0.1)
        assert order == [], "nobody begins while a measurement waits"
        order.append("released")
    timer.join()
    late.join()
    assert order == ["released", "timed", "predicted"]


def test_a_measurement_waits_for_one_image_and_not_for_a_stage(case, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    computed, original = queue.Queue[int](), OnnxRuntimeSession.run

    def run(self: OnnxRuntimeSession, inputs: Any) -> Any:
        computed.put(1)
        time.sleep(0.01)
        return original(self, inputs)

    monkeypatch.setattr(OnnxRuntimeSession, "run", run)
    images = StagedImages(case.task, case.stages, RUNTIME, 1)
    search = threading.Thread(target=images.predict, args=(case.file, 0))
    search.start()
    computed.get(timeout=60)
    with machine_alone():
        before = computed.qsize()
        time.sleep(0.1)
        assert computed.qsize() == before < len(case.stages[0]) - 1, "nobody computes, and the stage is not done"
    search.join()
    assert computed.qsize() == len(case.stages[0]) - 1


def test_workers_out_of_range_are_refused():
    for given in ({"workers": 0}, {"workers": 5000}, {"workers": 2, "scheduler": "tcp://localhost:1"}):
        with pytest.raises(InputError, match="workers"), executing(**given):
            pass


def with_items(task: Any, items: list[Any]) -> Any:
    """Returns the task with other images."""
    paths = [Path(item.name) for item in items]
    changed = {"items": property(lambda _self: items), "paths": property(lambda _self: paths)}
    other = copy.copy(task)
    other.__class__ = type("ChangedTask", (type(task),), changed)
    return other


def packed(task: Any, found: dict[int, Any]) -> dict[int, Any]:
    return {number: pack_prediction(type(task), each) for number, each in found.items()}
