"""Depth: numbers by their definitions, relative depth fitted to the truth, maps of several kinds of file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.json_results import evaluate_artifacts, merge
from edgeq.errors import InputError, ModelError
from edgeq.evaluation.prediction_codec import pack_prediction, unpack_prediction
from edgeq.exporting.artifact import Artifact, Postprocessing, Preprocessing
from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.inputs.preprocessing import Placement
from edgeq.packing import pack_array
from edgeq.reporting.comparison import compare
from edgeq.tasks.depth import DepthMap, DepthPredictions, DepthTask, decode
from edgeq.tasks.prediction_records import pack_predictions, unpack_predictions

SIZE = (12, 8)
PLACE = Placement(12, 8, 12, 8, 1, 1, 0, 0)


def artifact(**options: float) -> Artifact:
    return Artifact(
        Path("net.onnx"), "onnx", "fp32", "x86", (), (), None, Postprocessing("depth", options=options)
    )  # fmt: skip


@pytest.fixture
def depths(tmp_path) -> np.ndarray:
    """True depths of three images in metres, with unknown pixels; as PNG in millimetres, and the last as an array."""
    found = np.random.default_rng(0).uniform(0.5, 8, (3, SIZE[1], SIZE[0])).round(3)
    found[:, 0, :3] = 0
    (tmp_path / "maps").mkdir()
    for number, depth in enumerate(found):
        Image.new("RGB", SIZE).save(tmp_path / f"{number}.jpg")
        Image.fromarray(np.rint(depth * 1000).astype(np.uint16)).save(tmp_path / "maps" / f"{number}.png")
    (tmp_path / "maps" / "2.png").unlink()
    np.save(tmp_path / "maps" / "2.npy", found[2])
    return found


def test_numbers_are_those_of_their_definitions(tmp_path, depths):
    task = DepthTask.from_files(tmp_path / "maps", tmp_path, "pycocotools")
    said = (depths * np.random.default_rng(1).uniform(0.7, 1.5, depths.shape)).astype(np.float32)
    score = task.score(artifact(), {number: DepthMap(each, PLACE) for number, each in enumerate(said)}, {})
    abs_rel, rmse, delta1 = [], [], []
    for wanted, found in zip(depths, said, strict=True):
        pairs = [(w, f) for w, f in zip(wanted.ravel(), found.ravel().astype(float), strict=True) if w > 0]
        abs_rel.append(sum(abs(w - f) / w for w, f in pairs) / len(pairs))
        rmse.append((sum((w - f) ** 2 for w, f in pairs) / len(pairs)) ** 0.5)
        delta1.append(sum(max(w / f, f / w) < 1.25 for w, f in pairs) / len(pairs))
    assert score.numbers == pytest.approx(
        {"abs_rel": np.mean(abs_rel), "rmse": np.mean(rmse), "delta1": np.mean(delta1)}, rel=1e-6
    )


def test_inverse_depth_is_fitted_to_the_truth(tmp_path, depths):
    task = DepthTask.from_files(tmp_path / "maps", tmp_path, "pycocotools")
    relative = 3 / np.where(depths, depths, 1) - 0.7
    maps = {number: DepthMap(each.astype(np.float32), PLACE) for number, each in enumerate(relative)}
    exact = task.score(artifact(inverse=1), maps, {})
    assert exact.numbers == pytest.approx({"abs_rel": 0, "rmse": 0, "delta1": 1}, abs=1e-4)
    assert (task.score(artifact(), maps, {}).abs_rel or 0) > 0.2
    millimetres = task.score(artifact(inverse=0, units_per_metre=256), maps, {})
    assert millimetres.numbers != task.score(artifact(), maps, {}).numbers


def save_brightness(path: Path, precision: str, gain: float) -> Artifact:
    """Writes a model that takes the mean of the colours for the depth."""
    onnx = pytest.importorskip("onnx")
    graph = onnx.parser.parse_graph(
        f"net (float[1,3,8,12] image) => (float[1,1,8,12] depth) <int64[1] axes = {{1}}, float gain = {{{gain}}}> "
        "{ mean = ReduceMean(image, axes)  depth = Mul(mean, gain) }"
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10), path)
    return Artifact(
        path, "onnx", precision, "x86", (TensorSpec("image", "float32", (1, 3, 8, 12)),),
        (TensorSpec("depth", "float32", (1, 1, 8, 12)),), Preprocessing(8, 12, "stretch"), Postprocessing("depth"),
        source_digest="one",
    ).save()  # fmt: skip


def test_files_are_scored_and_compared(tmp_path):
    rng = np.random.default_rng(2)
    (tmp_path / "maps").mkdir()
    for number in range(5):
        gray = rng.integers(20, 250, (8, 12)).astype(np.uint8)
        Image.fromarray(np.repeat(gray[:, :, None], 3, axis=2)).save(tmp_path / f"{number}.png")
        np.save(tmp_path / "maps" / f"{number}.npy", gray / 25.5)
    files = [save_brightness(tmp_path / f"net.{name}.onnx", name, gain) for name, gain in (("fp32", 10), ("int8", 11))]
    results = evaluate_artifacts(
        [each.path for each in files], tmp_path / "maps", tmp_path, runtimes=["onnxruntime"], threads=1
    )
    assert results[0]["abs_rel"] == pytest.approx(0, abs=1e-4)
    assert (results[1]["abs_rel"], results[1]["delta1"]) == (pytest.approx(0.1, abs=1e-4), 1)
    drop = compare(merge(results))[1].main
    assert drop is not None
    # An error of a tenth in every image: every draw of them proves it.
    assert [drop.points, drop.low, drop.high] == pytest.approx([10, 10, 10], abs=0.01)


def test_maps_that_do_not_belong_are_refused(tmp_path, depths):
    task = DepthTask.from_files(tmp_path / "maps", tmp_path, "pycocotools")
    task.check_image(0, np.zeros((8, 12, 3), np.uint8))
    with pytest.raises(InputError, match="has 8x12 pixels, its depth map 12x8"):
        task.check_image(0, np.zeros((12, 8, 3), np.uint8))
    np.save(tmp_path / "maps" / "2.npy", np.zeros((8, 12)))
    with pytest.raises(InputError, match="has no pixel of known depth"):
        task.score(artifact(), {2: DepthMap(np.ones((8, 12), np.float32), PLACE)}, {})
    Image.new("RGB", SIZE).save(tmp_path / "maps" / "1.png")
    with pytest.raises(InputError, match="wanted one channel of depths"):
        task.check_image(1, np.zeros((8, 12, 3), np.uint8))
    (tmp_path / "maps" / "0.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="cannot be read as a depth map"):
        task.check_image(0, np.zeros((8, 12, 3), np.uint8))
    with pytest.raises(InputError, match="empty: holds none of"):
        (tmp_path / "empty").mkdir()
        DepthTask.from_files(tmp_path / "empty", tmp_path, "pycocotools")


def test_a_device_sends_maps_and_broken_ones_are_refused():
    found = decode({"any": np.ones((1, 1, 4, 6))}, Postprocessing("depth"), PLACE)
    packed = json.loads(json.dumps(pack_prediction(DepthTask, found)))
    received = unpack_prediction(DepthTask, packed)
    assert received.placement == PLACE
    assert received.of_image().shape == (8, 12)
    for name, changed in (("placement", np.zeros(8)), ("values", np.ones((1, 4, 6), np.float32))):
        with pytest.raises(InputError, match="cannot be used for depth"):
            unpack_prediction(DepthTask, {**packed, name: pack_array(changed)})
    for wrong, said in ((np.zeros((2, 1, 4, 6)), "wanted a depth map"), (np.full((1, 4, 6), np.inf), "not finite")):
        with pytest.raises(ModelError, match=said):
            decode({"any": wrong}, Postprocessing("depth"), PLACE)
    records = DepthPredictions(("a",), *np.array([[0.1], [0.2], [0.3]]))
    assert unpack_predictions(json.loads(json.dumps(pack_predictions(records))), DepthPredictions).images == ("a",)
