"""`edgeq.toml`: a project's defaults reach the commands, the command line goes first, unknown keys are refused."""

from __future__ import annotations

import typing
from pathlib import Path

import msgspec
import pytest
import typer.main
from hypothesis import given
from hypothesis import strategies as st

from edgeq.cli import defaults
from edgeq.cli.app import app
from edgeq.cli.defaults import project_defaults
from edgeq.errors import InputError
from edgeq.project import Project, read_project

WHOLE = """
model = "net.onnx"
data = "dataset/"
targets = ["arm", "x86"]
precisions = ["fp32", "int8"]

[limits]
max_drop = 0.5
latency_ratio = 0.8
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("edgeq.toml").write_text(WHOLE)
    return tmp_path


@pytest.mark.usefixtures("project")
def test_commands_take_what_the_command_line_leaves_open():
    export = {"model": "net.onnx", "data": "dataset/", "target": "arm", "precision": "fp32,int8"}
    assert project_defaults("export", ()) == export
    assert project_defaults("export", ("calib", "precision")) == {"model": "net.onnx", "target": "arm"}
    assert project_defaults("eval", ("images", "annotations")) == {}
    assert project_defaults("calibrate", ("earlier",)) == {}
    assert project_defaults("gate", ("max_drop",)) == {"latency_ratio": 0.8}
    assert project_defaults("doctor", ()) == {}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["export"], "--data dataset: no such file or folder"),
        (["export", "--precision", "fp32", "--calib", "none/"], "net.onnx: no such file"),
        (["export", "other.onnx", "--calib", "none/", "--precision", "fp32"], "other.onnx: no such file"),
        (["eval", "x.onnx", "--data", "mine/"], "--data mine: no such file or folder"),
        (["calibrate", "--from", "none.json"], "none.json: no such file"),
    ],
)
@pytest.mark.usefixtures("project")
def test_a_command_starts_from_them(edgeq, words, said):
    assert said in edgeq(*words).error


@pytest.mark.usefixtures("project")
def test_a_gate_judges_by_them(edgeq):
    Path("run.json").write_text("[]")
    assert "no limit" not in edgeq("gate", "run.json").err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("modle = 'x'", "edgeq.toml: unknown key 'modle'; did you mean model? known: model, data, targets"),
        ("[limits]\nmax_drops = 1", "edgeq.toml: [limits]: unknown key 'max_drops'; did you mean max_drop?"),
        ("model = 1", "$.model is 1, wanted text"),
        ("targets = 'x86'", "$.targets"),
        ("[limits]\nsmall = nan", "edgeq.toml"),
        ("[limits]\nsmall = -1", "$.limits.small is -1"),
        ("model = ", "edgeq.toml"),
    ],
)
def test_what_is_no_project_is_refused(tmp_path, text, said):
    (tmp_path / "edgeq.toml").write_text(text)
    with pytest.raises(InputError) as refused:
        read_project(tmp_path / "edgeq.toml")
    assert said in str(refused.value)


def test_no_file_is_no_default(tmp_path):
    assert read_project(tmp_path / "edgeq.toml") == Project()


@given(
    st.builds(
        Project, model=st.none() | st.just("a.onnx"), targets=st.lists(st.sampled_from(["x86", "arm"])).map(tuple)
    )
)
def test_a_description_names_all_that_is_stated(project):
    stated = {name: value for name, value in msgspec.to_builtins(project).items() if value and name != "limits"}
    assert [part.split(" ")[0] for part in filter(None, project.described.split("; "))] == list(stated)


def test_the_tables_name_parameters_of_commands():
    commands = typer.main.get_group(app).commands
    for command, taken in defaults._TAKEN.items():
        names = {each.name for each in commands[command].params}
        assert {*taken} <= names
    everywhere = {each.name for command in commands.values() for each in command.params}
    assert {name for names in defaults._INSTEAD.values() for name in names} <= everywhere
    assert {*typing.cast("dict[str, object]", defaults._VALUES)} >= {
        name for taken in defaults._TAKEN.values() for name in taken
    }
