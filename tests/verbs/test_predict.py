"""`edgeq predict`: pictures and files of what a small detector finds, and what happens if a run is cut."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgeq as package
from edgeq.errors import InputError
from edgeq.evaluation.evaluate import evaluate_artifacts
from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.images import list_images, read_image
from edgeq.tasks.drawing import class_style
from edgeq.tasks.evidence import Box
from edgeq.verbs.predict import PredictOptions, predict
from tests.devices.scene import Scene, draw_scene
from tests.evaluation.test_evaluate import LABELS, save_square_finder

ORT = PredictOptions(runtime="onnxruntime", threads=1)


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Scene:
    return draw_scene(tmp_path_factory.mktemp("scene"), 5, side_px=128)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in list_images(folder)]


def test_every_image_has_a_picture_with_its_boxes(scene, tmp_path):
    out = tmp_path / "out"
    found = package.predict(scene.artifact, scene.images, out, runtime="onnxruntime", threads=1)
    assert names(out) == names(scene.images) == [each.image for each in found]
    truth = json.loads(scene.annotations.read_text())["annotations"]
    for prediction, entry in zip(found, truth, strict=True):
        best = prediction.shown[0]
        assert isinstance(best, Box)
        assert best.label == LABELS[entry["category_id"]]
        assert [best.left, best.top, best.width, best.height] == pytest.approx(entry["bbox"], abs=8)
        picture = read_image(out / prediction.image)
        scale = picture.shape[0] / prediction.height_px
        x, y = round(best.left * scale), round((best.top + best.height / 2) * scale)
        near = picture[y, max(0, x - 1) : x + 4]
        assert (near == class_style(best.class_index).colour).all(axis=1).any()


def test_files_for_other_programs_hold_what_was_found(scene, tmp_path):
    options = PredictOptions(
        runtime="onnxruntime", threads=1, annotations=scene.annotations, formats=("yolo", "coco"), threshold=1.0
    )
    found: dict[int, package.ImagePrediction] = {}
    predict(scene.artifact, [scene.images], tmp_path, options, found.__setitem__)
    assert all(prediction.findings and not prediction.shown for prediction in found.values())
    assert (tmp_path / "classes.txt").read_text().split() == list(LABELS)
    for prediction in found.values():
        lines = (tmp_path / "labels" / prediction.image).with_suffix(".txt").read_text().splitlines()
        assert len(lines) == len(prediction.findings)
        index, x, y, width, height, score = map(float, lines[0].split())
        best = prediction.findings[0]
        assert isinstance(best, Box)
        assert [index, score] == pytest.approx([best.class_index, best.score], abs=1e-5)
        assert [(x - width / 2) * 128, (y - height / 2) * 128] == pytest.approx([best.left, best.top], abs=1e-3)
    (scored,) = evaluate_artifacts([scene.artifact], scene.annotations, scene.images, runtimes=["onnxruntime"])
    assert _ap(scene.annotations, tmp_path / "results.json") == pytest.approx(scored.score.main_value, abs=1e-6)


def _ap(annotations: Path, results: Path) -> float:
    import contextlib
    import io

    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = json.loads(annotations.read_text())
        for entry in truth.dataset["annotations"]:
            entry |= {"id": entry["id"] + 1, "iscrowd": 0}
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes(str(results)), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return float(evaluator.stats[0])


def test_a_file_beside_itself_differs_nowhere(scene, tmp_path):
    options = PredictOptions(runtime="onnxruntime", threads=1, compare=scene.artifact, annotations=scene.annotations)
    found: dict[int, package.ImagePrediction] = {}
    predict(scene.artifact, [scene.images], tmp_path / "out", options, found.__setitem__)
    for prediction in found.values():
        assert prediction.compared is not None
        assert prediction.compared.reference == prediction.compared.other
        assert all(finding.mark == "both" for finding in prediction.compared.reference)
    picture = read_image(tmp_path / "out" / found[0].image)
    assert picture.shape[1] > 3 * picture.shape[0] * 0.8  # three panels: both files and the truth


def test_an_interrupted_run_is_finished_by_the_next(scene, tmp_path, cache):
    out = tmp_path / "out"
    seen = []

    def interrupt(number, prediction):
        seen.append(number)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(scene.artifact, [scene.images], out, ORT, interrupt)
    assert 0 < len(names(out)) < 5
    kept = {name: (out / name).stat().st_mtime_ns for name in names(out)[:2]}
    found: dict[int, package.ImagePrediction] = {}
    result = predict(scene.artifact, [scene.images], out, ORT, found.__setitem__)
    assert result.resumed == 2
    assert result.images == 5 and sorted(found) == [0, 1, 2, 3, 4]
    assert names(out) == names(scene.images)
    assert {name: (out / name).stat().st_mtime_ns for name in kept} == kept
    assert found == dict(enumerate(package.predict(scene.artifact, scene.images, threads=1)))
    assert predict(scene.artifact, [scene.images], out, ORT).resumed == 0
    assert not list(cache.rglob("*.jsonl"))


def test_an_image_that_cannot_be_read_is_left_out_with_a_warning(scene, tmp_path, caplog):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match="none of the images can be read"):
        predict(scene.artifact, [folder], tmp_path / "out", ORT)
    Image.fromarray(np.zeros((128, 128, 3), np.uint8)).save(folder / "b.gif")
    result = predict(scene.artifact, [folder], tmp_path / "out", ORT)
    assert (result.images, result.shown) == (1, 0)
    assert names(tmp_path / "out") == ["b.gif.png"]
    assert "skipped" in caplog.text
    assert "nothing reaches a score of 0.3 in any of the 1 images" in caplog.text


@pytest.mark.parametrize(
    ("sources", "changes", "message"),
    [
        (["/dev/video0"], {}, "is a camera, which edgeq does not read"),
        (["missing.jpg"], {}, "no such image"),
        (["missing"], {}, "no such file or folder"),
        (["IMAGES"], {"every": 2}, "`every` is for the frames of a video"),
        (["IMAGES"], {"formats": ("voc",)}, "'voc': is not a format for detection; wanted yolo or coco"),
        (["IMAGES"], {"formats": ("coco",)}, "give `annotations`"),
        (["IMAGES", "IMAGES"], {}, "two of the images are called"),
    ],
)
def test_what_cannot_be_done_is_said_before_any_work(scene, tmp_path, sources, changes, message):
    paths = [scene.images if each == "IMAGES" else Path(each) for each in sources]
    with pytest.raises(InputError, match=message):
        predict(scene.artifact, paths, tmp_path, PredictOptions(runtime="onnxruntime", **changes))
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_a_task_without_anything_to_show_says_so(scene, tmp_path):
    vector = save_square_finder(tmp_path / "net.onnx", postprocessing=Postprocessing("embedding"))
    with pytest.raises(InputError, match="is for embedding, of which there is nothing to show"):
        predict(vector.path, [scene.images], tmp_path / "out", ORT)


def test_the_command_writes_a_line_of_json_per_image(scene, tmp_path, edgeq):
    lines = tmp_path / "found.jsonl"
    done = edgeq("predict", scene.artifact, scene.images, "--out", tmp_path / "out", "--json", lines, "--threads", 1)
    assert done.code == 0
    found = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [entry["image"] for entry in found] == names(scene.images)
    assert {*found[0]["findings"][0]} == {"label", "class_index", "score", "left", "top", "width", "height"}
    shown = sum(finding["score"] >= 0.3 for entry in found for finding in entry["findings"])
    assert f"5 pictures, {shown} findings shown from a score of 0.3" in done.out


def test_images_are_never_written_over(scene):
    before = [path.read_bytes() for path in list_images(scene.images)]
    with pytest.raises(InputError, match="would write pictures over the images"):
        predict(scene.artifact, [scene.images], scene.images, ORT)
    assert [path.read_bytes() for path in list_images(scene.images)] == before


def test_every_other_frame_of_a_video_is_drawn(scene, tmp_path):
    av = pytest.importorskip("av")
    video = tmp_path / "film.mp4"
    truth = json.loads(scene.annotations.read_text())["annotations"]
    with av.open(str(video), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 128
        stream.bit_rate = 4_000_000
        for path in list_images(scene.images):
            for packet in stream.encode(av.VideoFrame.from_ndarray(read_image(path), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    found: dict[int, package.ImagePrediction] = {}
    options = PredictOptions(runtime="onnxruntime", threads=1, every=2)
    predict(scene.artifact, [video], tmp_path / "out", options, found.__setitem__)
    assert names(tmp_path / "out") == [f"film/frame_{number:06d}.jpg" for number in (0, 2, 4)]
    for number, prediction in found.items():
        entry, best = truth[2 * number], prediction.shown[0]
        assert isinstance(best, Box)
        assert best.label == LABELS[entry["category_id"]]
        assert [best.left, best.top] == pytest.approx(entry["bbox"][:2], abs=8)
    video.write_bytes(video.read_bytes()[:200])
    with pytest.raises(InputError, match="cannot be read as a video"):
        predict(scene.artifact, [video], tmp_path / "out2", options)
