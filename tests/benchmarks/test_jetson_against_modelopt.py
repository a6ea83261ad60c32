"""The table of edgeq's Jetson files against Model Optimizer's, without Model Optimizer and without a compiler."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks import jetson_against_modelopt
from benchmarks.any_graph import Subject
from benchmarks.cases import code_state, commit_of
from benchmarks.scored_models import ScoredModel
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.graphs.graph import save_onnx
from edgeq.results.compilation import Compilation, NodePrecision
from tests.exporting import nets

# It hands the FP32 file back, and leaves its marks where that lies and in the working directory.
HANDS_BACK = """while [ "$#" -gt 1 ]; do case "$1" in
--onnx_path) from=$2;; --output_path) to=$2;; esac; shift; done
cp $from $to; echo changed > $from; echo > $from.extra; echo > here"""
LAYER = NodePrecision("conv", "Conv", "int8", "int8", "int8", agrees=True)


def tool(path: Path, body: str) -> Path:
    """Returns a program in the place of the Python that has Model Optimizer."""
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def compiled(path: Path) -> Compilation:
    if path.name == "modelopt.max.onnx":
        return Compilation("TensorRT for RTX 1", "SM86", "builder", reason="no kernel")
    kernels = 9 if path.name.startswith("modelopt") else 7
    return Compilation("TensorRT for RTX 1", "SM86", "built", kernels=kernels, plan_bytes=1_500_000, nodes=(LAYER,) * 3)


def test_both_tools_quantize_one_file_on_the_same_inputs(small_onnx, drawn, tmp_path, monkeypatch):
    data, work = tmp_path / "data", tmp_path / "work"
    (data / "coco").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        (data / "coco" / split).symlink_to(drawn.folder)
    (data / "coco/instances_val.json").symlink_to(drawn.annotations)
    monkeypatch.setattr(
        jetson_against_modelopt, "SUBJECTS", {"small": ScoredModel(Subject("Small", str(small_onnx), "centernet"))}
    )
    python = tool(tmp_path / "python", f'echo "$@" >> {tmp_path}/calls; {HANDS_BACK}')
    path = jetson_against_modelopt.run(["small"], tmp_path, python, data=data, images=2, work=work, compiled=compiled)
    rows = [line.split(" | ") for line in path.read_text().splitlines() if line.startswith(("| Small", "|  |"))]
    commit = commit_of(code_state())
    assert re.fullmatch(r"\| Small \| FP32 [ |]+ AP \d\.\d{4}, \d+ images \|  \| .*", " | ".join(rows.pop(0)))
    assert [(row[1], row[2], row[3], row[6]) for row in rows[:2]] == [
        ("edgeq INT8, lp", "7", "3", "1.5"), ("Model Optimizer INT8, entropy", "9", "3", "1.5")
    ]  # fmt: skip
    assert rows[2][1:3] == ["Model Optimizer INT8, max", "no kernel"]
    fp32 = next(work.glob("small/*/*.fp32.onnx"))
    assert float(rows[1][5]) == pytest.approx(fp32.stat().st_size / 1e6, abs=0.05)
    # FP32 against itself: no noise, no loss.
    assert float(rows[1][7]) > 100 > float(rows[0][7]) > 10
    assert rows[1][10:] == ["+0.0000 [+0.0000, +0.0000]", f"{commit} |"]
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [f"--calibration_method {method}" in call for method, call in zip(("entropy", "max"), calls, strict=True)]
    inputs = np.load(work / "small/inputs.npy")
    assert inputs.dtype == np.float32 and len(inputs) == 2
    assert all("small/inputs.npy" in call and "jetson-orin-trt11.fp32.onnx" in call for call in calls)
    monkeypatch.setattr(jetson_against_modelopt, "judge", None)  # what is there is not computed again
    assert (
        jetson_against_modelopt.run(["small"], tmp_path, python, data=data, images=2, work=work, compiled=compiled)
        == path
    )
    assert len((tmp_path / "calls").read_text().splitlines()) == 2


def test_a_tool_that_fails_is_quoted(tmp_path, small_onnx):
    fp32 = Artifact(small_onnx, "onnx", "fp32", "x86", (), (), None)
    python = tool(tmp_path / "python", "echo 'No module named modelopt' >&2; exit 1")
    with pytest.raises(SystemExit, match="No module named modelopt"):
        jetson_against_modelopt.quantize(python, fp32, tmp_path / "inputs.npy", "max", tmp_path)


@pytest.mark.parametrize(("method", "excluded"), [("awq_clip", " --nodes_to_exclude product"), ("rtn_dq", "")])
def test_int4_excludes_what_would_not_be_parsed(method, excluded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the tool is named from here, and runs elsewhere
    weights = {"w": np.ones((4, 4), np.float32), "b": np.zeros(4, np.float32)}
    graph = nets.graph("g (float[1,4] x) => (float[1,4] y) { m = MatMul(x, w) y = Gemm(m, w, b) }", weights)
    for node in graph.graph:
        node.name = {"Gemm": "product", "MatMul": "other"}[node.op_type]
    save_onnx(graph, tmp_path / "model.onnx")
    fp32 = Artifact(tmp_path / "model.onnx", "onnx", "fp32", "jetson-orin-trt11", (), (), None)
    python = tool(
        tmp_path / "python",
        f'echo "$@" > {tmp_path}/call; {HANDS_BACK}',
    )
    found = jetson_against_modelopt.quantize(Path(python.name), fp32, Path("inputs.npy"), method, Path())
    call = (tmp_path / "call").read_text().rstrip()
    assert "--quantize_mode int4" in call and f"--calibration_method {method}" in call
    assert ("--nodes_to_exclude" in call) == bool(excluded) and call.endswith(excluded)
    assert found.precision == "w4" and found.path.name == f"modelopt.{method}.onnx"
    assert {path.name for path in tmp_path.glob("*model*")} == {
        "model.onnx",
        found.path.name,
        f"{found.path.name}.json",
    }
    assert not Path("here").exists() and f" {tmp_path}/inputs.npy " in call
    assert (tmp_path / "model.onnx").read_bytes() == found.path.read_bytes()  # the input is as it was


def test_files_with_weights_of_4_bits_are_rows_of_their_own():
    row = {
        "title": "edgeq INT4", "built": True, "reason": "", "kernels": 62, "int8": 0, "int4": 25, "attention": {},
        "plan_bytes": 3_510_000, "file_bytes": 520_000, "db": [26.4, 26.0], "compiler": "TensorRT for RTX 1, SM86",
    }  # fmt: skip
    earlier = {"YuNet": ["| YuNet | edgeq INT8, lp | 123 | abc |", "|  | Model Optimizer INT8, max | 123 | abc |"]}
    result = {"rows": [row], "scores": None, "state": "edgeq 1, commit def of 2026-11-30"}
    text = jetson_against_modelopt.to_markdown({"vit_b_16": result}, 40, earlier)
    assert "| edgeq INT4 | 62 | 25 |  | 0.5 | 3.5 | 26.4 | 26.0 |  |  | def of 2026-11-30 |" in text
    assert "\n".join(earlier["YuNet"]) in text  # was not measured again
    assert "Not run: UltraFace RFB-320, " in text and "YuNet, " not in text
    assert "40 images (ViT-B/16: 8)" in text and "INT4: weights alone" in text
