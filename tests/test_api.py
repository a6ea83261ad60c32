"""The Python API: its names, their types and their defaults."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path
from typing import Any

import pytest

import edgeq
from edgeq.calibration.calibrate import DEFAULT_METHOD
from edgeq.cli import board, calibrate, deploy, export, measure, memory_plan, predict, results, score, study, tune
from edgeq.devices.config import LOCAL
from tests.test_order import ROOT

PUBLIC = [
    "Artifact", "BenchResult", "Box", "Bundle", "CaptioningScore", "CheckResult", "CheckpointResult",
    "ClassificationScore", "DeployResult", "DepthScore", "DetectionScore", "EdgeLlmFolder", "EdgeqError",
    "EmbeddingScore", "EvalResult", "ExportResult", "Finding", "GateResult", "Histogram", "ImagePrediction",
    "InstanceScore", "KeypointScore", "LastWordScore", "MemoryPlan", "Model", "OrientedScore", "PresenceScore",
    "Progress", "QuantizedModule", "Ranges", "SaturationResult", "Score", "ScoredAnswers", "SemanticScore",
    "SensitivityResult", "Session", "StudyResult",
    "Target", "TextDetectionScore", "TextRecognitionScore", "TranscriptionScore", "TuningResult", "VqaScore",
    "benchmark", "benchmark_bundles", "calibrate", "check", "deploy", "download_model", "evaluate",
    "evaluate_bundles", "export", "export_bundle", "export_checkpoint", "export_edge_llm", "gate", "get_target",
    "load", "open_session", "plan", "predict",
    "quantize_weights", "report", "score", "sensitivity", "study", "study_bundle", "tune",
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
    "export": export.export, "calibrate": calibrate.calibrate, "benchmark": measure.bench, "evaluate": measure.evaluate,
    "check": board.check, "gate": results.gate, "predict": predict.predict, "report": results.report,
    "deploy": deploy.deploy, "plan": memory_plan.plan, "score": score.score,
    "sensitivity": tune.tune, "study": study.study, "tune": tune.tune,
}  # fmt: skip

RENAMED = {
    "context": None, "formats": "format", "integer_io": "int8_io", "source": "data", "percentile": "options",
    "json_file": None, "earlier": None, "worst": "save_worst", "class_map": "map", "sensitivity": None, "dry_run": None,
}  # fmt: skip
"""Parameter of a command -> that of its function; `None` where a program has another way: a result's own methods."""

OF_BUNDLES = {
    "benchmark": {"prompt_tokens", "new_tokens"},
    "evaluate": {"task", "prompt", "max_tokens", "beams", "batch", "stride", "answers"},
}
"""Function -> options that its command has for models in parts, which have functions of their own."""

OF_ANOTHER = {
    **OF_BUNDLES,
    "export": {"skip", "part", "tokenizer", "download"},
    "sensitivity": {
        *("max_drop", "latency", "file_size", "memory", "energy", "device", "unproved", "time_limit", "mlflow"),
        *("front", "rounding"),
    },
    "study": {"task", "prompt", "max_tokens"},
    "tune": {"matters", "precision"},
}  # fmt: skip
"""Function -> options that its command has for another function."""

OF_THE_MODEL = {"take_scales", "weights", "preset", "size", "labels", "opset", "dynamic_batch"}
"""Options of the commands that take a model, which `edgeq.load` takes from programs."""

OTHERWISE = {
    "calibrate.out": None, "calibrate.method": DEFAULT_METHOD, "calibrate.pick": "even",
    "benchmark.device": LOCAL, "evaluate.device": LOCAL,
    "predict.out": None, "report.out": "report.html",
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
        if parameter is None or option in OF_ANOTHER.get(name, ()) or (takes_a_model and option in OF_THE_MODEL):
            continue
        assert parameter in function, f"edgeq.{name} has no {parameter}"
        wanted = OTHERWISE.get(f"{name}.{parameter}", default)
        if function[parameter] is not inspect.Parameter.empty and _plain(wanted) != _plain(function[parameter]):
            differing[parameter] = (wanted, function[parameter])
    assert differing == {}
    assert _options(edgeq.load).keys() > OF_THE_MODEL


@pytest.mark.parametrize("name", OF_BUNDLES)
def test_a_function_of_bundles_has_the_options_of_its_command_with_their_defaults(name):
    function, command = _options(getattr(edgeq, f"{name}_bundles")), _options(COMMANDS[name])
    assert OF_BUNDLES[name] <= function.keys()
    for option in function.keys() & command.keys() - {"task", "data"}:
        assert _plain(function[option]) == _plain(command[option])


def _plain(default: Any) -> Any:
    """Returns a default without the form that a command or a program writes it in."""
    if isinstance(default, Path):
        return str(default)
    return default or None


def test_the_program_that_is_checked_for_types_uses_every_name():
    tree = ast.parse((ROOT / "tests" / "api_user.py").read_text(encoding="utf-8"))
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert set(edgeq.__all__) <= names
