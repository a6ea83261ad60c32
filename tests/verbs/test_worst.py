"""`edgeq eval --save-worst`: the pictures of what differs from FP32, and the kinds of error that changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import edgeq as package
from edgeq.errors import InputError
from edgeq.inputs.images import list_images, read_image
from tests.devices.scene import Scene, draw_scene
from tests.evaluation.test_evaluate import save_square_finder

MODEL = {"source_digest": "0" * 64}


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Scene:
    """Six images, two of each colour."""
    return draw_scene(tmp_path_factory.mktemp("scene"), 6, side_px=128)


def test_the_images_that_differ_are_drawn_and_say_why(scene, tmp_path):
    good = save_square_finder(tmp_path / "net.x86.fp32.onnx", **MODEL)
    # Takes red for green and green for red, as a file does whose classes were mixed up.
    bad = save_square_finder(tmp_path / "net.x86.int8.onnx", **MODEL, precision="int8", labels=("green", "red", "blue"))
    before, after = package.evaluate(
        [good.path, bad.path], scene.images, scene.annotations, runtime="onnxruntime", threads=1,
        save_worst=10, worst_dir=tmp_path / "worst",
    )  # fmt: skip
    pictures = list_images(tmp_path / "worst")
    assert len(pictures) == 4  # of six images, the blue ones do not differ
    assert {path.parent.name for path in pictures} == {"net.x86.int8.onnx.onnxruntime"}
    height, width, _ = read_image(pictures[0]).shape
    assert width > 2.5 * height  # three panels
    assert before.diagnosis is not None and after.diagnosis is not None
    diagnoses = (before.diagnosis, after.diagnosis)
    costs = [{each["kind"]: each["cost"] for each in diagnosis["errors"]} for diagnosis in diagnoses]
    assert costs[1]["classification"] > costs[0]["classification"] + 0.3
    confused = {(each["truth"], each["found"]): each["count"] for each in after.diagnosis["confusions"]}
    assert confused["red", "green"] == confused["green", "red"] == confused["blue", "blue"] == 2


def test_a_file_alone_has_nothing_to_be_compared_with(scene, tmp_path):
    with pytest.raises(InputError, match="name the fp32 file of the same model too"):
        package.evaluate(scene.artifact, scene.images, scene.annotations, save_worst=1, worst_dir=tmp_path)
    other = save_square_finder(Path(tmp_path / "other.onnx"), source_digest="1" * 64, precision="int8")
    with pytest.raises(InputError, match="found no fp32 file of the same model"):
        package.evaluate(
            [scene.artifact, other.path], scene.images, scene.annotations, runtime="onnxruntime", save_worst=1,
            worst_dir=tmp_path,
        )  # fmt: skip


def test_the_command_prints_each_kind_before_and_after(scene, tmp_path, edgeq):
    files = [
        save_square_finder(tmp_path / f"net.x86.{precision}.onnx", **MODEL, precision=precision, labels=labels).path
        for precision, labels in (("fp32", ("red", "green", "blue")), ("int8", ("green", "red", "blue")))
    ]
    done = edgeq(
        "eval", *files, "--images", scene.images, "--annotations", scene.annotations, "--runtime", "onnxruntime",
        "--save-worst", 2, "--worst-dir", tmp_path / "worst", "--json", tmp_path / "eval.json",
    )  # fmt: skip
    assert done.code == 0
    lines = {line.split()[0]: line.split()[1:] for line in done.out.splitlines() if line}
    before, now, change = (int(figure) for figure in lines["classification"][:3])
    assert now - before == change >= 4
    assert f"{tmp_path / 'worst' / 'net.x86.int8.onnx.onnxruntime'}: 2 pictures, the worst first" in done.out
    assert all("diagnosis" in result for result in json.loads((tmp_path / "eval.json").read_text()))
