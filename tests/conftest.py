"""Fixtures that every test may use."""

from __future__ import annotations

import dataclasses
import functools
import gc
import logging
import os
import shutil
import signal
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import typer.main
from hypothesis import settings

from edgeq.cli import app
from edgeq.evaluation import exact_comparison
from edgeq.files import sha256_file, sha256_json, write_bytes
from edgeq.machine import read_machine
from edgeq.measurement.timed_file import Sampling
from edgeq.models.names import is_zoo_name
from edgeq.runtimes import child
from edgeq.runtimes.openvino import OpenVinoSession
from edgeq.sources import tflite
from edgeq.tasks.detection.shapes import draw_shapes_dataset
from tests.kept_exports import keeping_exports
from tests.warm_python import WarmPython

# Tests that time say so; the others only export.
os.environ["EDGEQ_MEASURE"] = "0"
# Which layers are fast depends on the machine; tests of kernel costs bring a table.
os.environ["EDGEQ_PLAN"] = "rules"

# What a shell starts in the background ignores Ctrl-C, and so does every process that it starts in turn; the tests that
# send it would wait for ever.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Whatever fails fails for everybody, and again, however busy the machine; `--hypothesis-profile default` draws other
# examples each time.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


def _share_cores() -> None:
    """Gives engines one thread where a test does not ask for a number.

    Their own default is all cores, and the threads of several workers would spin, waiting for each other.
    """
    import onnxruntime

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch, which is not imported yet
    original = onnxruntime.InferenceSession.__init__

    @functools.wraps(original)
    def open_session(self: Any, model: Any, sess_options: Any = None, *args: Any, **kwargs: Any) -> None:
        options = sess_options or onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.intra_op_num_threads or 1
        original(self, model, options, *args, **kwargs)

    onnxruntime.InferenceSession.__init__ = open_session
    settings = OpenVinoSession._settings

    def settings_of_one_thread(self: Any, compute_precision: str | None) -> dict[str, Any]:
        return {"INFERENCE_NUM_THREADS": 1} | settings(self, compute_precision)

    OpenVinoSession._settings = settings_of_one_thread  # type: ignore[method-assign]


if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1:
    _share_cores()


_WORKER_BYTES = 4 << 30


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Returns the number of workers of `-n auto`: one more than cores, where the memory suffices for it.

    A tenth of the tests' time is waiting: for a device, for the end of a connection, for the rounds of a measurement.
    """
    machine = read_machine()
    return max(machine.usable_cpus, min(machine.usable_cpus + 1, (machine.memory_bytes or 0) // _WORKER_BYTES))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts files with slow tests first, so that no worker is left alone with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow") is not None}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Keeps the garbage collector off the thousands of objects of tests and libraries, which live to the end.

    It took a tenth of the tests' CPU time, most of it to walk over them again and again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 10)


_DATA = Path(os.environ.get("EDGEQ_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images, annotations and weights; tests that use it are skipped where it is absent."""
    if not (_DATA / "MANIFEST.md").is_file():
        pytest.skip(f"real data not found at {_DATA}; set EDGEQ_DATA to its folder")
    return _DATA


def folder_of_the_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder that all workers of one run look into."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session", autouse=True)
def one_command_line() -> Iterator[None]:
    """Builds the parser of the command line once, not at every call."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", functools.cache(typer.main.get_command))
        yield


@pytest.fixture(scope="session", autouse=True)
def protocols_are_listed_once() -> Iterator[None]:
    """Keeps the members of a protocol, which Python before 3.12 lists at each `isinstance`: onnx-ir asks thousands."""
    with pytest.MonkeyPatch.context() as patch:
        if sys.version_info < (3, 12):
            patch.setattr(typing, "_get_protocol_attrs", functools.cache(typing._get_protocol_attrs))  # type: ignore[attr-defined]
        yield


@pytest.fixture(scope="session", autouse=True)
def nothing_is_synced() -> Iterator[None]:
    """Lets the system write files to the disk when it likes: no test cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _file: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def brief_comparisons() -> Iterator[None]:
    """Has an export compare its file with the model on three images; its own tests take eight, as users do.

    Graphs run without the engine's optimisations for it, the slowest part of most exports.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact_comparison, "_CALIBRATION_IMAGES", 3)
        yield


@pytest.fixture(scope="session", autouse=True)
def brief_measurements() -> Iterator[None]:
    """Has benchmarks in this process run a file a few times where a test does not say how often.

    Warmed up and measured as users want it, a file takes a core for 0.7 s and more, and no test reads its figures.
    """
    given = Sampling(warmup_runs=1, warmup_s=0.0, min_runs=12, round_s=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sampling.__init__, "__defaults__", dataclasses.astuple(given))
        yield


@pytest.fixture(scope="session", autouse=True)
def one_export_per_model(tmp_path_factory) -> Iterator[None]:
    """See `tests.kept_exports`."""
    with keeping_exports(folder_of_the_run(tmp_path_factory) / "exports"):
        yield


@pytest.fixture(scope="session")
def warm_python(tmp_path_factory) -> WarmPython:
    """See `tests.warm_python`."""
    return WarmPython(folder_of_the_run(tmp_path_factory) / "warm")


@pytest.fixture
def warm_runners(warm_python, monkeypatch) -> None:
    """Measures in forks of a process that has imported the engines, for tests that ask no process what it cost."""
    monkeypatch.setattr(child, "subprocess", warm_python)


@pytest.fixture(scope="session", autouse=True)
def one_conversion_per_model(tmp_path_factory, warm_python) -> Iterator[None]:
    """Converts a model to TFLite once per run: the converter takes seconds, and repeats itself exactly.

    This holds for models of the zoo, of files and of the tests themselves; a model that a test writes may change.
    """
    folder = folder_of_the_run(tmp_path_factory) / "conversions"
    original = tflite._run

    def convert(job: tflite.Conversion) -> None:
        if not (job.onnx or is_zoo_name(job.reference) or job.reference.startswith("tests.")):
            original(job)
            return
        files = {name: sha256_file(Path(path)) for name in ("onnx", "weights") if (path := getattr(job, name))}
        kept, out = folder / f"{sha256_json(msgspec.structs.asdict(job) | files | {'out': ''})}.tflite", Path(job.out)
        if kept.is_file():
            shutil.copyfile(kept, out)
        else:
            original(job)
            write_bytes(kept, out.read_bytes())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tflite, "subprocess", warm_python)
        patch.setattr(tflite, "_run", convert)
        yield


@pytest.fixture(scope="module")
def new_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """Makes folders for large files that the tests of a module share; they are removed behind the last test."""
    made = []

    def make(name: str) -> Path:
        made.append(tmp_path_factory.mktemp(name))
        return made[-1]

    yield make
    for folder in made:
        shutil.rmtree(folder)


class Drawn(NamedTuple):
    """Forty drawn images with their annotations."""

    annotations: Path
    folder: Path


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Drawn:
    """Drawn images; nothing may be added to their folder."""
    folder = tmp_path_factory.mktemp("drawn") / "images"
    return Drawn(draw_shapes_dataset(folder, images=40, seed=7), folder)


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory) -> Path:
    """Weights of a CenterNet of six classes that exports in seconds; its BatchNorms have seen images."""
    pytest.importorskip("torch")
    from tests.small import save_small_centernet

    return save_small_centernet(tmp_path_factory.mktemp("weights") / "small.safetensors", seed=0)


@pytest.fixture(scope="session")
def small_onnx(tmp_path_factory, small_weights) -> Path:
    """The same model as an ONNX file of anybody's: its input is 64x96, its preset `centernet`."""
    from edgeq.sources.model import ModelRequest
    from edgeq.verbs.export import export_model

    folder = tmp_path_factory.mktemp("onnx")
    request = ModelRequest("centernet_resnet18", weights=small_weights, size=(64, 96))
    written = export_model(request, "x86", ["fp32"], folder).files[0].artifact.path
    return written.rename(folder / "small.onnx")


@pytest.fixture
def exact_runtime(monkeypatch) -> str:
    """A runtime for ONNX files whose INT8 sums are exact on any CPU."""
    from edgeq.runtimes import RUNTIMES

    monkeypatch.setitem(RUNTIMES, "onnxruntime-exact", "tests.exact:ExactSession")
    return "onnxruntime-exact"


class Outcome(NamedTuple):
    """What a command left behind: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that a refusal may print."""
        assert self.code == 1, self
        (line,) = [line for line in self.err.splitlines() if not line.startswith("warning: ")]
        assert line.startswith("error: "), self
        assert "Traceback" not in self.err
        return line.removeprefix("error: ")


@pytest.fixture
def edgeq(monkeypatch, capsys) -> Callable[..., Outcome]:
    """Runs the command line in this process: `edgeq("calibrate", model, images)`."""
    monkeypatch.delenv("EDGEQ_DEBUG", raising=False)
    monkeypatch.setattr(logging.getLogger("edgeq"), "handlers", [])

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["edgeq", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            app.main()
        except SystemExit as end:
            code = int(end.code or 0)
        return Outcome(code, *capsys.readouterr())

    return run
