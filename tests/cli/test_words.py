"""Parameters in messages, shown as options."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import Any

import pytest
import typer.main
from hypothesis import given
from hypothesis import strategies as st

from edgeq.cli import app
from edgeq.cli.console import print_failures
from edgeq.cli.export_console import describe_layers
from edgeq.cli.words import as_options
from edgeq.errors import InputError
from edgeq.exporting.quantization_facts import QuantizationFacts
from edgeq.machine import parse_cpus
from tests.reporting.made import make_detections, make_ground_truth, make_score

OPTIONS = [
    (command, option)
    for command, declared in typer.main.get_group(app.app).commands.items()
    for parameter in declared.params
    if parameter.param_type_name == "option"
    for option in parameter.opts
]
PARAMETERS = {option.removeprefix("--").replace("-", "_") for _, option in OPTIONS}


@pytest.mark.parametrize(("command", "option"), OPTIONS)
def test_every_option_of_every_command_is_named_by_its_parameter(command, option):
    name = option.removeprefix("--").replace("-", "_")
    assert as_options(f"`{name}` 'x': wanted y; omit `{name}`") == f"{option} 'x': wanted y; omit {option}"


@given(st.text(st.characters(exclude_characters="`")), st.from_regex(r"[a-z_][a-z0-9_]*", fullmatch=True))
def test_words_that_are_no_parameters_are_untouched(text, word):
    if word not in PARAMETERS:
        assert as_options(f"{text} `{word}`; {text}") == f"{text} `{word}`; {text}"


@pytest.mark.parametrize(
    "text",
    [
        "run `edgeq calibrate MODEL IMAGES --method best`",
        "name another `python` in devices.toml",
        "other `runtimes` in devices.toml",
        "wanted `path,class`",
        "keep and `Keep`",
        "`keep",
    ],
)
def test_a_message_without_parameters_is_as_it_was(text):
    assert as_options(text) == text


def test_a_warning_from_any_thread_names_options(edgeq, monkeypatch):
    def warn(**_: Any) -> None:
        log = logging.getLogger("edgeq.test").warning
        thread = threading.Thread(target=log, args=("%s: try `vit_plan` safe; see `edgeq check`", "net"))
        thread.start()
        thread.join()
        raise SystemExit

    monkeypatch.setattr("edgeq.verbs.doctor.examine", warn)
    assert edgeq("doctor").err == "warning: net: try --vit-plan safe; see `edgeq check`\n"


def test_an_error_names_the_option_only_on_the_command_line(edgeq):
    assert edgeq("bench", "net.onnx", "--cpus", "one").error.startswith("--cpus one: wanted numbers")
    with pytest.raises(InputError, match=r"^`cpus` one: wanted numbers"):
        parse_cpus("one")


def test_why_a_layer_is_in_float_names_the_option():
    facts = QuantizationFacts(int8_nodes=1, float_nodes={"/attention": "a product, which `vit_plan` fast quantizes"})
    assert describe_layers(facts)[1] == "1 in float, a product, which --vit-plan fast quantizes: /attention"


def test_why_a_device_failed_names_the_option(capsys):
    print_failures({"pi": "pi: cannot run on these CPUs; omit `cpus`"})
    assert capsys.readouterr().out == "pi  failed: cannot run on these CPUs; omit --cpus\n"


def test_a_key_that_a_file_lacks_is_no_option(edgeq, tmp_path):
    (tmp_path / "coco.json").write_text("{}")
    error = edgeq("calibrate", "net.onnx", tmp_path / "coco.json", "--images", tmp_path).error
    assert "coco.json: has no 'images'; expected a COCO annotation file" in error


def test_an_error_cannot_control_the_terminal(edgeq, tmp_path):
    error = edgeq("inspect", "a\x1b]0;title\x07\x1b[31m\u202ered.onnx").error
    assert error.startswith(r"a\x1b]0;title\x07\x1b[31m\u202ered.onnx: no such file")


def test_a_name_too_long_for_a_file_is_a_short_line(edgeq):
    names = ",".join(f"class {number}" for number in range(500))
    for arguments in (["inspect", names], ["export", names], ["calibrate", "net.onnx", names], ["report", names]):
        outcome = edgeq(*arguments)
        assert outcome.code == 1
        assert "unexpected" not in outcome.error
        assert len(outcome.error) < 2100


def test_what_files_say_does_not_control_the_terminal(edgeq, tmp_path):
    truth = make_ground_truth(4, seed=5)
    results = [make_score(truth, make_detections(truth, 1, 1.0), precision) for precision in ("fp32", "int8")]
    for each in results:
        each["artifact"] = f"\x1b]0;title\x07\x1b[31mnet.x86.{each['precision']}.onnx"
    (tmp_path / "eval.json").write_text(json.dumps(results))
    for outcome in (edgeq("gate", tmp_path / "eval.json", "--max-drop", 1), edgeq("report", tmp_path / "eval.json")):
        assert "\x1b" not in outcome.out + outcome.err
        assert r"\x1b]0;title\x07\x1b[31mnet.x86.int8.onnx" in outcome.out


def test_everything_is_printed_in_one_place():
    """Help alone is typer's own."""
    files = Path(app.__file__).parent.glob("*.py")
    printing = {each.name: each.read_text().count("typer.echo(") for each in files}
    assert {name: count for name, count in printing.items() if count} == {"app.py": 1, "printing.py": 1}
