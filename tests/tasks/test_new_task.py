"""A task that is one file and one line goes through every command: the one that CONTRIBUTING.md adds."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import json
import logging
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.json_results import merge
from edgeq.errors import InputError
from edgeq.evaluation.prediction_codec import pack_prediction, unpack_prediction
from edgeq.evaluation.prediction_server import Predictor
from edgeq.exporting.artifact import Artifact, Postprocessing
from edgeq.inputs.images import read_image
from edgeq.inputs.preprocessing import preprocess
from edgeq.packing import pack_array
from edgeq.reporting.build import build_document
from edgeq.reporting.comparison import compare
from edgeq.reporting.runs import Runs
from edgeq.results.table import to_markdown
from edgeq.tasks import TASKS, all_tasks, find_decoder, get_task
from edgeq.tasks.detection.shapes import draw_shapes_dataset
from edgeq.tasks.prediction_records import pack_predictions, unpack_predictions
from edgeq.verbs.gate import FAILED, PASSED, Limits, check_limits
from tests.reporting.made import make_timing
from tests.test_contributing import RECIPES
from tests.test_order import ROOT, find_modules
from tests.workspace import save_counter

(RECIPE,) = [recipe for recipe in RECIPES if "TASKS" in {table for _, table, _ in recipe.lines}]
IMAGES = 12


def write_module(folder: Path) -> str:
    """Writes the recipe's file as a module outside edgeq, and returns what the line would name."""
    (text,) = [text for path, text in RECIPE.files.items() if path.endswith(".py")]
    (folder / "counting_of_the_docs.py").write_text(text)
    return "counting_of_the_docs:CountingTask"


def add_line(reference: str, patch: pytest.MonkeyPatch) -> None:
    patch.setitem(TASKS, "counting", reference)


def add_entry_point(reference: str, patch: pytest.MonkeyPatch) -> None:
    def found(group: str) -> Any:
        return [EntryPoint("counting", reference, group)] if group == "edgeq.tasks" else entry_points(group=group)

    patch.setattr("edgeq.registry.entry_points", found)


@pytest.fixture(params=[add_line, add_entry_point])
def counting(request, tmp_path, monkeypatch) -> Any:
    """The task, registered."""
    monkeypatch.syspath_prepend(tmp_path)
    request.param(write_module(tmp_path), monkeypatch)
    return get_task("counting")


@pytest.fixture
def module(counting) -> Any:
    """The recipe's module."""
    return importlib.import_module(counting.__module__)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images, their counts, a preset, and a float model."""
    draw_shapes_dataset(tmp_path / "images", images=IMAGES, seed=3).unlink()
    (tmp_path / "counts.json").write_text(json.dumps(counts(tmp_path / "images")))
    (tmp_path / "counting.toml").write_text(RECIPE.files["counting.toml"])
    save_counter(tmp_path / "counter.onnx")
    return tmp_path


def counts(images: Path) -> dict[str, int]:
    return {path.name: number % 4 for number, path in enumerate(sorted(images.iterdir()))}


def test_it_goes_through_every_command(counting, module, folder, edgeq):
    preset = ("--preset", folder / "counting.toml")
    images = folder / "images"
    done = edgeq(
        "export", folder / "counter.onnx", *preset, "--precision", "fp32,int8", "--calib", images, "--num", 4,
        "--out", folder / "out",
    )  # fmt: skip
    assert done.code == 0, done
    files = sorted((folder / "out").glob("*.onnx"))

    scored = folder / "scored.json"
    data = ("--annotations", folder / "counts.json", "--images", images)
    done = edgeq("eval", *files, *data, "--runtime", "onnxruntime", "--json", scored)
    assert done.code == 0, done
    assert done.out.split()[:4] == ["artifact", "runtime", "MAE", "exact"]
    assert f"Errors of counts over {IMAGES} images of counts.json: measured with" in done.out
    results = json.loads(scored.read_text())
    assert [(each["task"], each["images"]) for each in results] == [("counting", IMAGES)] * 2
    truth = np.array(list(counts(images).values()))
    for path, result in zip(files, results, strict=True):
        records = unpack_predictions(result["predictions"], module.CountingPredictions)
        assert result["mae"] == pytest.approx(np.abs(records.counts - truth).mean())
        assert result["exact"] == np.mean(np.rint(records.counts) == truth)
        if result["precision"] == "fp32":
            np.testing.assert_allclose(records.counts, count_directly(Artifact.load(path), images), rtol=1e-4)

    for suffix in ("html", "md", "csv", "json"):
        done = edgeq("report", scored, "--out", folder / f"report.{suffix}", "--images", images)
        assert done.code == 0, done
    before, after = (each["mae"] for each in results)
    page = (folder / "report.html").read_text()
    assert f"{after:.4f}" in page
    assert ">MAE<" in page
    (loss,) = json.loads((folder / "report.json").read_text())["losses"]
    (drop,) = loss["areas"]
    assert (drop["name"], drop["reference"], drop["value"], drop["lower_is_better"]) == ("mae", before, after, True)

    lost = 100 * (after - before)
    for allowed, code in ((lost + 0.01, 0), (lost - 0.01, 1)):
        assert edgeq("gate", scored, "--max-drop", allowed, "--json", folder / "gate.json").code == code
        # Counts have neither classes nor small boxes: limits on those do not apply.
        assert edgeq("gate", scored, "--max-drop", allowed, "--per-class", 0, "--small", 0).code == code
    (verdict,) = json.loads((folder / "gate.json").read_text())["verdicts"]
    assert verdict["figure"] == pytest.approx(lost)


def count_directly(artifact: Artifact, images: Path) -> list[float]:
    import onnxruntime

    session = onnxruntime.InferenceSession(artifact.path, providers=["CPUExecutionProvider"])
    assert artifact.preprocessing is not None
    arrays = [preprocess(read_image(path), artifact.preprocessing)[0] for path in sorted(images.iterdir())]
    return [float(session.run(None, {artifact.inputs[0].name: array})[0].item()) for array in arrays]


def test_a_device_sends_its_predictions(counting, folder, edgeq):
    assert edgeq(
        "export", folder / "counter.onnx", "--preset", folder / "counting.toml", "--precision", "fp32", "--out", folder
    ).code == 0  # fmt: skip
    (path,) = folder.glob("*.fp32.onnx")
    artifact, server = Artifact.load(path), Predictor()
    paths = sorted((folder / "images").iterdir())
    runtime = {"runtime": "onnxruntime", "threads": 1, "compute_precision": None}
    found: list[dict[str, Any]] = []
    for command in (
        {"command": "open", "artifact": str(path), "manifest": artifact.to_json(), **runtime},
        {"command": "images", "paths": list(map(str, paths))},
    ):
        assert server.answer(json.dumps(command).encode())["ok"]
    while len(found) < len(paths):
        answer = json.loads(json.dumps(server.answer(b'{"command": "next"}')))
        assert answer["ok"], answer
        found += answer["found"]
    received = [unpack_prediction(counting, each["prediction"]).item() for each in found]
    np.testing.assert_allclose(received, count_directly(artifact, folder / "images"), rtol=1e-4)


def test_what_is_no_count_is_refused(counting):
    sent = np.array([3.5], np.float32)
    assert unpack_prediction(counting, pack_prediction(counting, sent)) == sent
    for wrong in (np.zeros(1, np.float64), np.zeros((1, 1), np.float32), np.full(1, np.nan, np.float32)):
        with pytest.raises(InputError, match="a prediction that cannot be used for counting"):
            unpack_prediction(counting, {"array": pack_array(wrong)})
    with pytest.raises(InputError, match="a prediction that cannot be used for counting"):
        unpack_prediction(counting, {"boxes": pack_array(sent)})
    assert not counting.are_alike(sent, np.zeros(2, np.float32))


def made(module: Any, precision: str, errors: np.ndarray, **changes: Any) -> dict[str, Any]:
    """A result of `edgeq eval`: counts of 5 objects that are too high by `errors`."""
    truth = np.full(len(errors), 5, np.int32)
    records = module.CountingPredictions(
        tuple(map(str, range(len(errors)))), (truth + errors).astype(np.float32), truth
    )  # fmt: skip
    entry = {key: value for key, value in make_timing(precision, 4.0).items() if key != "latency_ms"}
    numbers = {"task": "counting", "mae": float(records.errors.mean()), "images": len(errors)}
    return {**entry, **numbers, "predictions": pack_predictions(records), **changes}


def test_an_error_that_grows_is_a_loss(module):
    rng = np.random.default_rng(0)
    before = rng.uniform(0.5, 1.5, 40)
    results = [made(module, "fp32", before), made(module, "int8", before + 0.5), made(module, "fp16", before - 0.25)]
    rows = merge([*results, make_timing("fp32", 8.0), make_timing("int8", 4.0), make_timing("fp16", 9.0)])
    _, worse, better = [each.main for each in compare(rows)]
    assert worse is not None and better is not None
    # Each image is off by the same: every draw of the images proves it.
    assert [worse.points, worse.low, worse.high] == pytest.approx([50, 50, 50], abs=1e-3)
    assert [better.points, better.low, better.high] == pytest.approx([-25, -25, -25], abs=1e-3)
    verdicts = check_limits(rows, Limits(max_drop=30)).verdicts
    assert [(each.artifact, each.verdict) for each in verdicts] == [
        ("net.x86.int8.onnx", FAILED), ("net.x86.fp16.onnx", PASSED),
    ]  # fmt: skip
    document = build_document(Runs(tuple(rows), (), ()), examples=4)
    # FP16 is slower than FP32 and better, INT8 faster: nothing is beaten in both.
    assert [entry.on_front for entry in document.entries] == [True, True, True]
    assert "| MAE |" in to_markdown(rows)


def test_a_page_says_on_which_side_an_error_is(module):
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    from edgeq.reporting.page import render

    errors = np.linspace(0.5, 1.5, 40)
    results = [made(module, "fp32", errors), made(module, "int8", errors + 0.5)]
    rows = merge([*results, make_timing("fp32", 8.0), make_timing("int8", 4.0)])
    page = render(build_document(Runs(tuple(rows), (), ()), examples=4))
    assert "MAE 1.5000 is 50.00 points above FP32 (95% interval: 50.00 points above to 50.00 points above)" in page


def test_a_result_of_a_task_that_is_not_installed_says_so(module, monkeypatch):
    entry = made(module, "fp32", np.ones(3))
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"\$\[0\] is of the task 'counting', and this edgeq knows detection, class"):
        merge([entry])


@pytest.mark.parametrize(
    ("decoder", "said"),
    [
        ("yolo", "unknown decoder 'yolo'; did you mean yolo"),
        ("Classification", "did you mean classification?"),
        ("sdd", "unknown decoder 'sdd'; did you mean ssd"),
        ("", "unknown decoder ''; known: "),
    ],
)
def test_an_unknown_decoder_is_no_detector(decoder, said):
    with pytest.raises(InputError) as caught:
        find_decoder(Postprocessing(decoder))
    assert said in str(caught.value)


def test_each_decoder_belongs_to_one_task():
    names = [name for task in all_tasks().values() for name in task.decoder_names()]
    assert len(names) == len(set(names))
    for name, task in all_tasks().items():
        assert [find_decoder(Postprocessing(each)).task for each in task.decoder_names()] == [task] * len(
            task.decoder_names()
        )
        assert (task.name, task.score_type.task, task.records_type.task) == (name, name, name)
        assert task.score_type.main in {column.name for column in task.score_type.columns}


def test_a_task_that_cannot_be_loaded_harms_no_other(monkeypatch, caplog):
    add_entry_point("no_such_module:Task", monkeypatch)
    with caplog.at_level(logging.WARNING):
        assert list(all_tasks()) == list(TASKS)
    assert "task counting is left out: it cannot be loaded (No module named 'no_such_module')" in caplog.text


@pytest.mark.parametrize(
    ("reference", "said"),
    [("tests.workspace:prepare", "wanted a subclass of"), (TASKS["embedding"], "its class calls itself 'embedding'")],
)
def test_only_a_task_of_that_name_is_one(monkeypatch, reference, said):
    monkeypatch.setitem(TASKS, "counting", reference)
    with pytest.raises(InputError, match=f"task 'counting': .*{said}"):
        get_task("counting")


def name_of(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def branches_on_a_task(tree: ast.AST) -> list[int]:
    """Returns the lines that ask which of our tasks something is: by its type, or by a task's name."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and name_of(node.func) in ("isinstance", "issubclass"):
            asked = [name_of(each) for each in ast.walk(node.args[1]) if isinstance(each, ast.expr)]
            if any(each.lower().startswith(tuple(TASKS)) for each in asked):
                lines.append(node.lineno)
        elif isinstance(node, ast.Compare | ast.MatchValue) and any(
            isinstance(each, ast.Constant) and each.value in TASKS for each in ast.walk(node)
        ):
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize(
    "source",
    [
        "isinstance(task, DetectionTask)",
        "isinstance(x, (int, records.EmbeddingPredictions))",
        "row.task == 'detection'",
        "task in (None, 'classification')",
        "match task:\n    case 'embedding': pass",
    ],
)
def test_a_branch_on_a_task_is_seen(source):
    assert branches_on_a_task(ast.parse(source))


def test_a_number_of_a_score_is_no_key_of_every_result(module, monkeypatch):
    wrong = dataclasses.make_dataclass(
        "Wrong", [("precision", float)], bases=(module.CountingScore,), frozen=True, kw_only=True
    )
    monkeypatch.setattr(module.CountingTask, "score_type", wrong)
    with pytest.raises(InputError, match="its score calls a number 'precision', a key that every result has"):
        get_task("counting")


def test_nothing_outside_the_tasks_asks_which_task_it_is():
    found = {
        f"{path.relative_to(ROOT)}:{line}"
        for module, path in find_modules(ROOT).items()
        if module.startswith("edgeq.") and not module.startswith("edgeq.tasks.")
        for line in branches_on_a_task(ast.parse(path.read_bytes()))
    }
    assert found == set()
