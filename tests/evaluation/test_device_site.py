"""What a device may say of images, and what is kept of it. The device is a process that lies as it is told to."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.devices.transfer import SentFile
from edgeq.errors import EdgeqError
from edgeq.evaluation.device_site import DeviceRun
from edgeq.evaluation.inference import Job
from edgeq.evaluation.journal import Entry, Journal
from edgeq.evaluation.prediction_codec import pack_prediction
from edgeq.exporting.artifact import Artifact
from edgeq.tasks.classification.task import ClassificationTask
from edgeq.tasks.detection import Detections
from edgeq.tasks.detection.task import DetectionTask
from tests.devices.scene import Scene, draw_scene

_ANSWERING = """
import json, sys
answers = json.loads(sys.argv[1])
for line in sys.stdin:
    command = json.loads(line)["command"]
    answer = (answers.pop(0) if len(answers) > 1 else answers[0]) if command == "next" else {}
    print(json.dumps({"ok": True, **answer}), flush=True)
"""
_BOX = pack_prediction(
    DetectionTask, Detections(np.array([[1, 2, 30, 40]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int64))
)
_RANKED = pack_prediction(ClassificationTask, np.zeros(3, np.int64))
_ENVIRONMENT = {"engine": "made up 1.0", "emulated": False, "compute_precision": "f32"}


class _Liar:
    """In place of a `RemoteDevice`."""

    def __init__(self, answers: list[dict[str, Any]]) -> None:
        self._answers = answers

    def python(self, *_: str) -> list[str]:
        return [sys.executable, "-c", _ANSWERING, json.dumps(self._answers)]

    def path_of(self, file: SentFile) -> str:
        return f"/there/{file.name}"


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Scene:
    return draw_scene(tmp_path_factory.mktemp("scene"), 2, side_px=128)


@pytest.fixture
def journal(tmp_path, monkeypatch) -> Journal:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return Journal({"key": 1})


def _make_run(scene: Scene, journal: Journal) -> DeviceRun:
    task = DetectionTask.from_files(scene.annotations, scene.images, "pycocotools")
    artifact = Artifact.load(scene.artifact)
    assert artifact.preprocessing and artifact.postprocessing
    job = Job(artifact, artifact.preprocessing, artifact.postprocessing, "onnxruntime", None)
    return DeviceRun(job, task, journal, {number: SentFile.of(path) for number, path in enumerate(task.paths)}, {})


def _image(position: Any, **changes: Any) -> dict[str, Any]:
    said = {"position": position, "size_px": [128, 128], "inference_s": 0.1, "elapsed_s": 0.2, "prediction": _BOX}
    return said | changes


def _answer(*found: Any, done: bool = False) -> dict[str, Any]:
    return {"found": list(found), "environment": _ENVIRONMENT, "done": done}


def test_what_comes_is_kept_and_not_asked_for_again(scene, journal):
    run = _make_run(scene, journal)
    assert run.rest == [0, 1]
    answers = [_answer(_image(1)), _answer(_image(0), done=True)]
    run.go_on(_Liar(answers), "/there/net.onnx", None)  # type: ignore[arg-type]
    run.finish()
    assert list(run.job.predictions) == [0, 1]
    assert [run.job.inference_s, run.job.total_s] == pytest.approx([0.2, 0.4])

    again = _make_run(scene, journal)
    assert again.rest == []
    again.finish()
    assert again.job.environment == _ENVIRONMENT
    assert again.job.inference_s == pytest.approx(0.2)
    assert [each.boxes.tolist() for each in again.job.predictions.values()] == [[[1, 2, 30, 40]]] * 2


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (_answer(_image(2)), "returned an image '2' that was not asked for"),
        (_answer(_image(True)), "returned an image 'True' that was not asked for"),
        (_answer(_image(0), _image(0)), "returned an image '0' that was not asked for"),
        (_answer(_image(0), done=True), "ended with 1 images left"),
        (_answer(), "returned no image but did not finish"),
        (_answer("x"), "wanted a list of images"),
        ({"found": [], "environment": 3}, "reports the environment '3'"),
        (_answer(_image(0, size_px=[0, 128])), "the device returned a size of"),
        (_answer(_image(0, size_px=[64, 128])), "has 64x128 pixels, its annotations were made on 128x128"),
        (_answer(_image(0, inference_s=-1)), "the device returned times of"),
        (_answer(_image(0, inference_s=float("nan"))), "wanted a JSON object"),
        (_answer(_image(0, prediction=None)), "neither a prediction nor why there is none"),
        (
            _answer(_image(0, prediction=_RANKED)),
            "cannot be used for detection",
        ),
        (_answer(_image(0, prediction={"boxes": []})), "a prediction that cannot be used"),
        (_answer({"position": 0, "unreadable": "\u001b[2J"}), "1 of 2 images cannot be read"),
    ],
)
def test_lies_are_told_in_one_line_and_not_kept(scene, journal, answer, said):
    run = _make_run(scene, journal)
    with pytest.raises(EdgeqError) as caught:
        run.go_on(_Liar([answer]), "/there/net.onnx", None)  # type: ignore[arg-type]
    assert said in str(caught.value)
    assert "\u001b" not in str(caught.value)
    assert len(_make_run(scene, journal).rest) >= 1


def test_a_cut_or_foreign_line_is_left_out(journal, tmp_path):
    entry = Entry.parse(_image(0))
    journal.add_environment(_ENVIRONMENT)
    journal.add("a", entry)
    (path,) = (tmp_path / "edgeq" / "eval").iterdir()
    path.write_bytes(path.read_bytes() + b"[1]\n" + b'{"image": "b", "size_px": [1, 1], "infer')
    assert journal.read() == ({"a": entry}, _ENVIRONMENT)
    assert Journal({"key": 2}).read() == ({}, {})
    journal.remove()
    assert journal.read() == ({}, {})


def test_an_entry_that_cannot_be_kept_is_told(journal, tmp_path):
    (tmp_path / "edgeq").write_text("a file where the folder should be")
    with pytest.raises(EdgeqError, match="cannot be written"):
        journal.add("a", Entry.parse(_image(0)))


def test_a_path_of_the_device_is_told_as_ours(scene, journal, caplog):
    run = _make_run(scene, journal)
    there = _Liar([]).path_of(SentFile.of(sorted(scene.images.iterdir())[0]))
    answer = _answer({"position": 0, "unreadable": f"{there}: is not an image"})
    with pytest.raises(EdgeqError) as caught:
        run.go_on(_Liar([answer]), "/there/net.onnx", None)  # type: ignore[arg-type]
    assert "/there/" not in str(caught.value)
    assert str(Path(scene.images)) in str(caught.value)
