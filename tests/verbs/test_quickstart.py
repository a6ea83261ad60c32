"""`edgeq quickstart`: the commands for what lies in a folder; nothing runs without a yes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from edgeq.verbs import quickstart as verb
from tests.datasets.written import CLASSES, draw, yolo


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """A folder with a model, a data set with labels, one without, and a file that edgeq has exported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(verb, "is_installed", lambda name: name in ("onnxruntime", "openvino"))
    monkeypatch.setattr("edgeq.verbs.quickstart.platform.machine", lambda: "x86_64")
    Path("models").mkdir()
    for name in ("models/net.onnx", "done.onnx", "done.onnx.json"):
        Path(name).touch()
    yolo(draw(tmp_path / "aaa"), tmp_path / "traffic", CLASSES)
    return tmp_path


def test_the_commands_are_filled_in(folder):
    found = verb.look_around()
    assert [each.path.name for each in found.surroundings.data] == ["traffic", "aaa"]
    files = "artifacts/net.x86.*.onnx"
    assert found.commands == (
        ("export", "models/net.onnx", "--data", "traffic", "--target", "x86", "--precision", "fp32,int8",
         "--out", "artifacts"),
        ("bench", files, "--json", "bench.json"),
        ("eval", files, "--data", "traffic", "--json", "eval.json"),
    )  # fmt: skip
    lines = list(found.surroundings.lines)
    assert lines[:3] == [
        "models: models/net.onnx", "data: traffic (YOLO) and 1 more", "engines: onnxruntime, openvino",
    ]  # fmt: skip


def test_a_project_says_what_is_meant(folder):
    Path("edgeq.toml").write_text("data = 'aaa'\nmodel = 'zoo:net'\ntargets = ['x86-ort', 'jetson-orin']\n")
    Path("devices.toml").write_text("[orin]\nhost = 'ssh://nano'\n")
    found = verb.look_around()
    assert [words[0] for words in found.commands] == ["export", "bench", "predict", "export", "deploy"]
    assert found.commands[0][1:5] == ("zoo:net", "--data", "aaa", "--target")
    assert found.commands[1][-1] == "bench.x86-ort.json"
    assert "devices: orin; bench and eval take them as `device`" in list(found.surroundings.lines)


@pytest.mark.parametrize(
    ("machine", "engines", "target"),
    [("aarch64", ("litert",), "arm"), ("x86_64", ("onnxruntime",), "x86-ort"), ("AMD64", ("openvino",), "x86")],
)
def test_the_target_is_this_machine(folder, monkeypatch, machine, engines, target):
    monkeypatch.setattr("edgeq.verbs.quickstart.platform.machine", lambda: machine)
    monkeypatch.setattr(verb, "is_installed", lambda name: name in engines)
    assert f"artifacts/net.{target}.*." in verb.look_around().commands[1][1]


def test_what_is_missing_is_said(edgeq, folder):
    for name in ("traffic", "aaa"):
        Path(name).rename(f".{name}")
    assert "INT8 needs images" in edgeq("quickstart").error
    Path("models/net.onnx").unlink()
    assert "found no model here; `edgeq demo`" in edgeq("quickstart").error
    assert edgeq().code == 2


def test_nothing_runs_unless_someone_agrees(edgeq, folder, monkeypatch):
    ran = []

    def run(words, check):
        ran.append(words[3:])
        return subprocess.CompletedProcess(words, 3 if words[3] == "bench" else 0)

    monkeypatch.setattr("edgeq.cli.quickstart.subprocess.run", run)
    asked = edgeq()
    assert (asked.code, ran) == (0, [])
    assert "edgeq bench artifacts/net.x86.*.onnx --json bench.json" in asked.out.splitlines()
    assert edgeq("quickstart", "--yes").code == 3
    assert [words[0] for words in ran] == ["export", "bench"]


def test_doctor_shows_the_project(folder):
    from edgeq.verbs.doctor import _check_project

    assert list(_check_project()) == []
    Path("edgeq.toml").write_text("[limits]\nmax_drop = 0.5\n")
    (check,) = _check_project()
    assert (check.state, check.found) == ("ok", "max_drop 0.5")
    Path("edgeq.toml").write_text("mdl = 1\n")
    (check,) = _check_project()
    assert (check.state, "unknown key 'mdl'" in check.found) == ("broken", True)
