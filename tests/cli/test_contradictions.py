"""Options that would change nothing are refused in one line, before any work; notes are said once in a run."""

from __future__ import annotations

import logging

import pytest

from edgeq.bundles import edge_llm, manifest
from edgeq.cli.log import configure_logging

ELSEWHERE = [
    ("bench bundle --layers", "--layers: is for models in one file, not for bundles; omit it"),
    ("bench bundle --device local", "--device: is for models in one file"),
    ("bench bundle --attach", "--attach: is for models in one file"),
    ("bench net.onnx --new-tokens 8", "--new-tokens: is for bundles, and none is named; omit it"),
    ("eval bundle --task vqa --data q.jsonl --preset yolox", "--preset: is for models in one file"),
    ("eval bundle --task vqa --data q.jsonl --map a=b", "--map: is for models in one file"),
    ("eval bundle --task vqa --data q.jsonl --save-worst 3", "--save-worst: is for models in one file"),
    ("eval net.onnx --data d --beams 2", "--beams: is for bundles, and none is named; omit it"),
    ("eval net.onnx --data d --worst-dir w", "--worst-dir: is for the pictures of --save-worst"),
    ("check bundle --target jetson-orin", "--target: is for single files, and bundle is a folder"),
    ("check jetson --compile", "--compile: is for single files, and jetson is a folder"),
    ("deploy bundle --max-drop 2", "--max-drop: is for files that `edgeq gate` judges"),
    ("export folder --opset 17", "--opset: is not for a Hugging Face folder, whose precisions are set by --part and"),
    ("export folder --split train", "--split: is not for a Hugging Face folder"),
    ("export folder --vit-plan safe", "--vit-plan: is not for a Hugging Face folder"),
    ("export folder --no-measure", "--no-measure: is not for a Hugging Face folder"),
    ("quantize folder", "folder: a Hugging Face folder has a precision per part, and int8 names none; give --preset"),
    (
        "export folder --format gptq --no-measure",
        "--no-measure: is for files that engines run, and gptq is a checkpoint",
    ),
    ("export net.onnx --part vision=int8", "--part: is for a Hugging Face folder with a config.json"),
    ("export net.onnx --target jetson-orin --plan rules", "--plan: is for x86 targets, whose engines edgeq times"),
    ("export net.onnx --target arm --no-measure", "--no-measure: is for x86 targets"),
    ("calibrate --from r.json --num 9", "--num: says how a model is run on images, and r.json needs none; omit it"),
    ("build net.onnx --num 9", "--num: says how --calib is read, which is not given; omit it"),
    ("doctor --kernels --device-test", "--kernels and --device-test: answer different questions; give one of them"),
    ("doctor --json folder", "folder: is a folder; wanted the name of a file"),
    ("report --index d --examples 2", "--examples: is for the page of RUNS"),
    ("gate r.json --max-drop 1 --few 3", "--few: says which classes --per-class judges, which is not given; omit it"),
    ("tune net.onnx --data d --matters 1", "--matters: is for --sensitivity, which is not given; omit it"),
    ("tune net.onnx --data d --latency 0.5x --unproved", "--unproved: is for --max-drop, and no loss is limited; give"),
    ("study net.onnx --data d --template detector-edge --seed 1", "--seed: is not for detector-edge"),
    ("study net.onnx --data d --template detector-edge --no-measure", "--no-measure: is not for detector-edge"),
    ("study net.onnx --data d --axis bits=2 --max-tokens 3", "--max-tokens: is not for a model in one file"),
    (
        "study bundle --data q.jsonl --allow-outside",
        "--allow-outside: is not for a bundle, which answers the questions",
    ),
    ("runs trials.sqlite --compare 1 2 --sort ms", "--sort: chooses trials to list or to write, and --compare names"),
    ("runs trials.sqlite --salvage new.sqlite --csv t.csv", "--csv: is for a store that is whole; salvage it first"),
]


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A working folder with the names, and nothing else, of what commands are given."""
    monkeypatch.chdir(tmp_path)
    names = {"bundle": manifest.MANIFEST_NAME, "jetson": edge_llm.MANIFEST_NAME, "folder": "config.json"}
    for folder, name in names.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text("{}")
    return tmp_path


@pytest.mark.parametrize(("line", "message"), ELSEWHERE, ids=[line for line, _ in ELSEWHERE])
def test_an_option_that_would_change_nothing_is_refused(edgeq, work, line, message):
    before = sorted(work.rglob("*"))
    assert edgeq(*line.split()).error.startswith(message)
    assert sorted(work.rglob("*")) == before


def test_a_default_of_the_project_is_no_option(edgeq, work):
    (work / "edgeq.toml").write_text('targets = ["jetson-orin"]\nprecisions = ["int8"]\n[limits]\nmax_drop = 2\n')
    assert "--target" not in edgeq("export", "folder", "--format", "gptq").error
    assert "--max-drop" not in edgeq("deploy", "bundle").error


def test_what_was_said_in_a_run_is_not_said_again(capsys, monkeypatch):
    monkeypatch.delenv("EDGEQ_DEBUG", raising=False)
    logger = logging.getLogger("edgeq")
    monkeypatch.setattr(logger, "handlers", [])
    for _run in range(2):
        configure_logging()
        for where in ("edgeq.tasks", "edgeq.verbs", "edgeq.tasks"):
            logging.getLogger(where).warning("the model has no class names")
            logging.getLogger(where).info("data: %s", where)
        assert capsys.readouterr().err.splitlines() == [
            "warning: the model has no class names", "INFO: data: edgeq.tasks", "INFO: data: edgeq.verbs",
        ]  # fmt: skip
