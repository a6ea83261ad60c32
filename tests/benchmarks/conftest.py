"""Small subjects for the benchmarks: models that export in seconds, and a few drawn images."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import before_and_after, centernet_tflite_study, peers
from benchmarks.cases import Case
from edgeq.measurement.timed_file import Sampling
from edgeq.runtimes import child
from edgeq.sources.model import ModelRequest
from edgeq.tasks.detection.shapes import draw_shapes_dataset

BRIEF = Sampling(warmup_runs=1, warmup_s=0, min_runs=2, min_s=0, round_runs=1, round_s=0, idle_s=0)
"""Two runs of each file, which say nothing of its speed."""

HAS_NNCF = importlib.util.find_spec("nncf") is not None


@pytest.fixture(scope="module", autouse=True)
def warm_processes(warm_python) -> Iterator[None]:
    """Runs edgeq, its peers and its runners in forks of a process that has imported what they need.

    No test of a benchmark reads the time and memory of a process.
    """
    with pytest.MonkeyPatch.context() as patch:
        for module in (before_and_after, centernet_tflite_study, peers, child):
            patch.setattr(module, "subprocess", warm_python)
        yield


def require_nncf() -> None:
    """Skips the tests of NNCF's files where NNCF is not installed."""
    if not HAS_NNCF:
        pytest.skip("NNCF is not installed; run: pip install 'edgeq[benchmarks]'")


@pytest.fixture(scope="session")
def subject(tmp_path_factory) -> Case:
    """The shipped detector as an ONNX file, calibrated on four drawn images and scored on two."""
    pytest.importorskip("torch")
    from edgeq.verbs.export import export_model

    folder = tmp_path_factory.mktemp("subject")
    calibration = draw_shapes_dataset(folder / "calibration", images=4, seed=71)
    validation = draw_shapes_dataset(folder / "validation", images=2, seed=72)
    (file,) = export_model(ModelRequest("centernet_shapes"), "x86", ["fp32"], folder).files
    request = ModelRequest(str(file.artifact.path), preset="centernet", labels=str(calibration))
    title = "Shapes on two drawn images"
    return Case("shapes", title, request, calibration, calibration.parent, 4, validation, validation.parent)


def table(result: Path) -> dict[tuple[str, str], list[str]]:
    """Returns the rows of a result's tables by their first two cells, each without heading and rule."""
    lines = re.findall(r"^\| .*", result.read_text(encoding="utf-8"), flags=re.MULTILINE)
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {(row[0], row[1]): row[2:] for row in rows}
