"""The benchmark of deployment folders deploys, calls the folders' scripts, and tells what came of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import deploy_folders
from edgeq.calibration.source import CalibrationSource
from edgeq.exporting.artifact import Artifact
from edgeq.sources.model import ModelRequest
from tests.benchmarks.conftest import table
from tests.deploying.written import save_model, write_program

TARGETS = ("x86-ort", "jetson-orin")


@pytest.fixture
def model(tmp_path: Path) -> deploy_folders.Deployed:
    """A model that has been exported before, so that only its folders are made."""
    folder = tmp_path / "work" / "exported" / "small"
    folder.mkdir(parents=True)
    for target in TARGETS:
        for precision in ("fp32", "int8"):
            save_model(folder / f"small.{target}.{precision}.onnx", target=target, precision=precision)
    source = CalibrationSource(tmp_path)
    return deploy_folders.Deployed("small", "Small", ModelRequest("small"), source, tmp_path / "truth", tmp_path)


@pytest.fixture
def programs(model: deploy_folders.Deployed, tmp_path: Path) -> Path:
    """A folder with an `edgeq` that answers with results of the model, and finds no TensorRT."""
    canned, folder = tmp_path / "canned", tmp_path / "bin"
    canned.mkdir()
    folder.mkdir()
    files = [Artifact.load(path) for path in sorted((tmp_path / "work").rglob("small.x86-ort.*.onnx"))]
    common = [
        {"artifact": file.name, "digest": file.digest, "precision": file.precision, "runtime": "onnxruntime"}
        for file in files
    ]
    scored = [{**each, "task": "classification", "top1": 0.75, "top5": 1.0, "images": 4} for each in common]
    timed = [{**each, "latency_ms": {"p50": 1.5, "mad": 0.1, "runs": 100}, "size_bytes": 1} for each in common]
    gate = {
        "verdicts": [
            {"limit": "max-drop", "verdict": "passed", "figure": 0.25, "low": -0.5, "high": 0.75},
            {"limit": "latency-ratio", "verdict": "failed", "figure": 1.5, "low": None, "high": None},
        ]
    }
    for name, document in (("eval_onnxruntime", scored), ("bench_onnxruntime", timed), ("gate", gate)):
        (canned / f"{name}.json").write_text(json.dumps(document))
    write_program(
        folder / "edgeq",
        f"""[ "$1" != build ] || {{ echo 'error: no TensorRT' >&2; exit 1; }}
command=$1
while [ "$1" != --json ]; do shift; done
cp {canned}/"${{2##*/}}" "$2"
[ "$command" != gate ] || {{ echo 'gate: failed'; exit 1; }}
""",
    )
    return folder


def test_what_scripts_say_stands_in_the_table(model, programs, tmp_path):
    result = deploy_folders.run([model], TARGETS, tmp_path / "work", tmp_path, lambda _target, _work: programs)
    text = result.read_text(encoding="utf-8")
    assert table(result)["Small", "x86-ort"] == [
        "13 files, intact, the same twice", "`run.sh`", "1",
        "fp32 top-1 0.7500; int8 top-1 0.7500; gate: max-drop 0.25 (-0.50 to 0.75) passed, "
        "latency-ratio 1.50 (? to ?) failed; README: 2",
    ]  # fmt: skip
    lines = [line for line in text.splitlines() if line.startswith("| Small | jetson-orin")]
    assert "| 1 | error: trtexec is missing" in lines[0]
    assert "| 1 | error: no TensorRT |" in lines[1]
    assert "gate: failed" in (tmp_path / "work/ran/small.x86-ort/run.sh.log").read_text()
