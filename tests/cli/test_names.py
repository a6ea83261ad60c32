"""Names as people type them: other tools' words, capitals, near misses, quoted patterns, and what a shell completes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from hypothesis import given
from hypothesis import strategies as st

from edgeq.cli import names
from edgeq.cli.app import app
from edgeq.targets import TARGETS
from edgeq.wording import did_you_mean


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["export", "x.onnx", "--target", "jetson"], "error: x.onnx: no such file"),
        (["export", "x.onnx", "--target", "RPi5"], "error: x.onnx: no such file"),
        (["export", "x.onnx", "--target", "X86-ORT"], "error: x.onnx: no such file"),
        (["export", "x.onnx", "--target", "jetson-nano"], "did you mean jetson-orin"),
        (["export", "x.onnx", "--precision", "FP32,Half"], "error: x.onnx: no such file"),
        (["export", "x.onnx", "--precision", "fp23"], "did you mean fp32"),
        (["bench", "x.onnx", "--runtime", "ort"], "error: x.onnx: no such file"),
        (["quantize", "x.onnx"], "int8 needs ranges"),
        (["quantise", "x.onnx"], "int8 needs ranges"),
        (["quantize", "x.onnx", "--precision", "fp32"], "error: x.onnx: no such file"),
        (["benchmark", "x.onnx"], "error: x.onnx: no such file"),
        (["exprt", "x.onnx"], "Did you mean"),
        (["export", "yolov8"], "yolov8 is a family of models; give a file"),
        (["export", "yolov8n.pt"], "export it to ONNX with the tool that trained it"),
        (["export", "resnet_18"], "did you mean resnet18"),
        (["eval", "none*.onnx", "--data", "x"], "none*.onnx: matches no file"),
    ],
)  # fmt: skip
def test_a_name_is_taken_or_the_close_one_is_said(edgeq, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    outcome = edgeq(*words)
    assert outcome.code in (1, 2)
    assert said in outcome.err


def test_a_registered_name_goes_before_what_others_call_so(monkeypatch):
    as_target = names.TARGET["callback"]
    assert as_target("Jetson") == "jetson-orin"
    assert names.RUNTIME["callback"](["ort", "TFLite"]) == ["onnxruntime", "litert"]
    monkeypatch.setitem(TARGETS, "jetson", TARGETS["arm"])
    assert as_target("jetson") == "jetson"


def test_every_other_word_for_a_command_leads_to_one():
    commands = typer.main.get_group(app).commands
    assert set(names.COMMANDS.values()) <= commands.keys()
    assert names.COMMANDS.keys().isdisjoint(commands)


def test_a_quoted_pattern_is_its_files_without_their_manifests(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.onnx", "b.onnx.json", "a.onnx", "[c].onnx", "run.json"):
        Path(name).touch()
    given_paths = [Path("[c].onnx"), Path("*.onnx*"), tmp_path / "r*.json", Path("plain.onnx")]
    assert names.with_patterns(given_paths) == [
        Path("[c].onnx"), Path("[c].onnx"), Path("a.onnx"), Path("b.onnx"), tmp_path / "run.json", Path("plain.onnx"),
    ]  # fmt: skip
    assert names.with_patterns(None) is None


@given(st.sampled_from(sorted(TARGETS)), st.booleans())
def test_a_known_name_in_any_case_is_the_only_one_meant(name, capital):
    assert did_you_mean(name.upper() if capital else name, TARGETS) == f"did you mean {name}? "


@pytest.mark.parametrize("name", ["", "  ", "zzzzzz"])
def test_nothing_close_is_nothing_said(name):
    assert did_you_mean(name, TARGETS) == ""


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("edgeq export --target jetson-orin-", ["jetson-orin-trt11"]),
        ("edgeq export --precision fp32,in", ["fp32,int8", "fp32,int16x8"]),
        ("edgeq eval --preset yolov1", ["yolov10", "yolov12"]),
        ("edgeq export centernet_s", ["centernet_shapes"]),
    ],
)
def test_a_shell_completes_names(line, offered):
    words = line.split()
    asked = {"_EDGEQ_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run(
        [sys.executable, "-m", "edgeq"], env={**os.environ, **asked}, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == offered, done.stderr
