"""The workers of a Dask cluster, as real processes: the result of one process, whoever comes and goes."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest

pytest.importorskip("distributed")

from edgeq.errors import EngineError, InputError, MissingDependencyError
from edgeq.files import sha256_file
from edgeq.tuning import executors, workers_dask
from edgeq.tuning.staged import StagedImages
from edgeq.tuning.workers import executing
from edgeq.tuning.workers_dask import DaskCluster, DaskWorker
from edgeq.tuning.workers_server import worker_facts
from tests.tuning.cluster_case import RUNTIME, Case, open_case, rows_of


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Case:
    return open_case(tmp_path_factory.mktemp("case"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Any]:
    """A cluster of one worker, a process."""
    from distributed import LocalCluster

    folder = str(tmp_path_factory.mktemp("dask"))
    with LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=None, local_directory=folder, silence_logs=50
    ) as found:
        yield found


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_workers_that_join_and_are_killed_find_what_one_process_finds(case, cluster, tmp_path, monkeypatch):
    with executing(scheduler=cluster.scheduler_address) as executor:
        assert isinstance(executor, DaskCluster)
        assert executor.workers == 1
        assert case.find(tmp_path / "one.sqlite", executor) == case.alone
        sent = [path for path in Path(cluster.workers[0].local_directory).rglob("edgeq/*") if path.is_file()]
        assert sent
        cluster.scale(2)
        until(lambda: executor.workers == 2)
        asked, original = [], DaskWorker.predict

        def predict(self: DaskWorker, unit: Any) -> Any:
            asked.append(self.name)
            if len(asked) in (3, 5):
                os.kill(executor._client.run(os.getpid, workers=[self._address])[self._address], signal.SIGKILL)
            return original(self, unit)

        monkeypatch.setattr(DaskWorker, "predict", predict)
        assert case.find(tmp_path / "killed.sqlite", executor) == case.alone
        assert len(set(asked)) > 2, "the nanny's new workers joined"
    assert rows_of(tmp_path / "one.sqlite") == rows_of(tmp_path / "killed.sqlite") == case.rows


def test_each_file_is_sent_once_and_in_pieces(case, cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(workers_dask, "_PIECE_BYTES", 3000)
    commands: list[dict[str, Any]] = []
    original = DaskWorker._ask_for

    def ask_for(self: DaskWorker, wanted: Any, command: Any, content: bytes = b"") -> Any:
        commands.append(command)
        assert len(content) <= 3000
        return original(self, wanted, command, content)

    monkeypatch.setattr(DaskWorker, "_ask_for", ask_for)
    cluster.scale(1)
    until(lambda: len(cluster.scheduler_info["workers"]) == 1)
    path = tmp_path / "new.onnx"
    model = onnx.load(case.file.path)
    model.doc_string = "a file that no worker has"
    onnx.save(model, path)
    file = dataclasses.replace(case.file, path=path, digest=sha256_file(path))
    with executing(scheduler=cluster.scheduler_address) as executor:
        images = StagedImages(case.task, case.stages, RUNTIME, 1, executor)
        first, again = images.predict(file, 0), images.predict(file, 0)
    assert list(first) == list(again) == case.stages[0]
    pieces = [piece for command in commands if command["command"] == "put" for piece in command["pieces"]]
    sent = [(piece["digest"], piece["offset"]) for piece in pieces]
    assert len(sent) == len(set(sent))
    assert sum(piece["length"] for piece in pieces if piece["digest"] == file.digest) == file.size_bytes > 2 * 3000
    assert [command["command"] for command in commands][-2:] == ["predict", "predict"], (
        "the second time nothing is sent"
    )


def test_a_cluster_with_another_edgeq_is_refused_with_one_line(case, cluster, monkeypatch):
    monkeypatch.setattr(executors, "worker_facts", lambda runtime: worker_facts(runtime) | {"edgeq": "0.0.1"})
    monkeypatch.setattr(workers_dask, "_GRACE_S", 0.1)
    with executing(scheduler=cluster.scheduler_address) as executor:
        images = StagedImages(case.task, case.stages, RUNTIME, 1, executor)
        with pytest.raises(EngineError, match=r"no worker is left \(.*its edgeq is .*, wanted 0\.0\.1 as here"):
            images.predict(case.file, 0)


def test_a_scheduler_that_cannot_be_reached_is_refused(monkeypatch):
    monkeypatch.setattr(workers_dask, "_CONNECT_S", 0.3)
    for address in ("tcp://127.0.0.1:9", "nonsense://x"):
        with pytest.raises(InputError, match="cannot be reached"), executing(scheduler=address):
            pass


def test_without_dask_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingDependencyError, match=r"edgeq\[dask\]"), executing(scheduler="tcp://x:1"):
        pass
