"""The Python API: its names, their types and their defaults."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import edgeq
from edgeq.calibration.calibrate import DEFAULT_METHOD
from edgeq.cli import app, board, measure, results
from edgeq.devices.config import LOCAL
from tests.test_order import ROOT

PUBLIC = [
    "Artifact", "BenchResult", "CheckResult", "ClassificationScore", "DepthScore", "DetectionScore", "EdgeqError",
    "EmbeddingScore", "EvalResult", "ExportResult", "GateResult", "Histogram", "InstanceScore", "KeypointScore",
    "Model", "OrientedScore", "Progress", "Ranges", "Score", "SemanticScore", "Session", "Target",
    "TextDetectionScore", "TextRecognitionScore", "benchmark", "calibrate", "check", "evaluate", "export", "gate",
    "get_target", "load", "open_session", "report",
]  # fmt: skip
"""What programs may rely on. Taking a name away breaks them; a new one is entered here."""


def test_the_public_names_are_these():
    assert edgeq.__all__ == PUBLIC


@pytest.mark.parametrize("name", edgeq.__all__)
def test_name_is_what_its_module_defines(name):
    assert getattr(edgeq, name) is getattr(importlib.import_module(edgeq._HOME[name]), name)
    assert name in dir(edgeq)


def test_table_all_and_type_checkers_agree():
    source = ast.parse(Path(edgeq.__file__).read_text(encoding="utf-8"))
    block = next(node for node in source.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    seen_by_type_checkers = {alias.name: node.module for node in imports for alias in node.names}
    assert seen_by_type_checkers == edgeq._HOME
    assert edgeq.__all__ == sorted(edgeq._HOME)


def test_no_name_hides_a_module():
    # Importing edgeq.exporting.artifact sets edgeq.exporting to the package: a function of that name would be lost.
    assert {module.name for module in pkgutil.iter_modules(edgeq.__path__)}.isdisjoint(edgeq.__all__)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'edgeq' has no attribute 'Artefact'"):
        _ = edgeq.Artefact


# -- Options: a command and its function have the same ones

COMMANDS = {
    "export": app.export, "calibrate": app.calibrate, "benchmark": measure.bench, "evaluate": measure.evaluate,
    "check": board.check, "gate": results.gate, "report": results.report,
}  # fmt: skip

RENAMED = {
    "formats": "format", "integer_io": "int8_io", "source": "data", "percentile": "options", "json_file": None,
    "earlier": None,
}  # fmt: skip
"""Parameter of a command -> that of its function; `None` where a program has another way: a result's own methods."""

OF_THE_MODEL = {"take_scales", "weights", "preset", "size", "labels", "opset", "dynamic_batch"}
"""Options of the commands that take a model, which `edgeq.load` takes from programs."""

OTHERWISE = {
    "calibrate.out": None, "calibrate.method": DEFAULT_METHOD, "benchmark.device": LOCAL, "evaluate.device": LOCAL,
    "report.out": "report.html",
}  # fmt: skip
"""Defaults of programs: no file where the result is returned, and the name of what a command takes if none is given."""


def _options(function: Any) -> dict[str, Any]:
    return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_function_has_the_options_of_its_command_with_their_defaults(name):
    function = _options(getattr(edgeq, name))
    takes_a_model = "model" in function
    differing = {}
    for option, default in _options(COMMANDS[name]).items():
        parameter = RENAMED.get(option, option)
        if parameter is None or (takes_a_model and option in OF_THE_MODEL):
            continue
        assert parameter in function, f"edgeq.{name} has no {parameter}"
        wanted = OTHERWISE.get(f"{name}.{parameter}", default)
        if function[parameter] is not inspect.Parameter.empty and _plain(wanted) != _plain(function[parameter]):
            differing[parameter] = (wanted, function[parameter])
    assert differing == {}
    assert _options(edgeq.load).keys() > OF_THE_MODEL


def _plain(default: Any) -> Any:
    """Returns a default without the form that a command or a program writes it in."""
    if isinstance(default, Path):
        return str(default)
    return default or None


# -- Types

USER = """
import torch
import numpy as np

import edgeq
from edgeq import (
    Artifact, BenchResult, CheckResult, ClassificationScore, DetectionScore, EdgeqError, EmbeddingScore, EvalResult,
    ExportResult, GateResult, Histogram, Model, Progress, Ranges, Score, Session, Target,
)


class Bar:
    def start(self, total: int | None, label: str, unit: str) -> None: ...
    def advance(self, count: int) -> None: ...
    def end(self) -> None: ...


def listen() -> Progress:
    return Bar()


def images() -> list[np.ndarray]:
    return [np.zeros((32, 32, 3), np.uint8)]


def run(module: torch.nn.Module) -> bool:
    model: Model = edgeq.load(module, torch.zeros(1, 3, 32, 32), preset="imagenet", labels=["a", "b"])
    same: Model = edgeq.load("net.onnx", preset="yolox", size=(320, 320))
    ranges: Ranges = edgeq.calibrate(model, images(), method="mse", progress=Bar)
    again: Ranges = edgeq.calibrate(same, "images", out="ranges.json", progress=listen)
    histogram: Histogram = ranges.histograms["image"]
    target: Target = edgeq.get_target("x86")
    files: ExportResult = edgeq.export(model, target.name, ("fp32", "int8"), calib=ranges, keep="Softmax")
    timed: list[BenchResult] = edgeq.benchmark(files.paths, runtime="openvino", cpus=[0, 1])
    scored: list[EvalResult[Score]] = edgeq.evaluate(files.paths, "images", "val.json")
    for result in scored:
        if isinstance(result.score, DetectionScore):
            print(result.score.AP_small)
        elif isinstance(result.score, ClassificationScore):
            print(result.score.top5)
        elif isinstance(result.score, EmbeddingScore):
            print(result.score.cosine_p1)
    edgeq.export(model, keep=5)  # wrong
    checked: CheckResult = edgeq.check(files.paths[0])
    gated: GateResult = edgeq.gate([*timed, *scored, "earlier.json"], max_drop=0.5)
    edgeq.report([*timed, *scored], "report.html", images="images")
    artifact: Artifact = files.files[0].artifact
    try:
        with edgeq.open_session(artifact, "openvino") as session:
            opened: Session = session
    except EdgeqError as error:
        print(error, histogram, again, checked, opened)
    return gated.passed
"""


def test_a_strictly_checked_program_may_use_every_name(tmp_path):
    words = set(USER.replace("(", " ").replace(".", " ").replace(",", " ").replace("[", " ").replace(":", " ").split())
    assert set(edgeq.__all__) <= words
    program = tmp_path / "program.py"
    program.write_text(USER)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--cache-dir", str(tmp_path / "cache")]
    command += ["--config-file", str(ROOT / "pyproject.toml"), str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    complaints = [line for line in done.stdout.splitlines() if str(program) in line and ": error: " in line]
    (complaint,) = complaints or [done.stderr]
    assert 'Argument "keep" to "export" has incompatible type "int"' in complaint
