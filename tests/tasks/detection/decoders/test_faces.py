"""Face detectors against what OpenCV and MediaPipe find with the same trained files, and SCRFD cell by cell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.errors import InputError, ModelError
from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.images import read_image
from edgeq.inputs.preprocessing import Placement, preprocess
from edgeq.inputs.presets import load_preset
from edgeq.tasks.detection.decoders import get_decoder

# What FaceDetectorYN of opencv-python-headless 5.1.0 finds above .3 (NMS at .3) in the image that preset `yunet` makes
# of it at 320x320: left, top, right, bottom on that input, score.
YUNET = {
    "000000214753.jpg": [
        ([196.2, 59.34, 202.06, 66.47], 0.4156),
        ([223.07, 112.06, 232.26, 124.72], 0.3306),
        ([174.67, 87.47, 181.07, 95.07], 0.3154),
    ],
}

# What FaceDetection (short range) of mediapipe 0.10.14 finds above .5, in pixels of the image.
BLAZEFACE = {
    "000000022192.jpg": [([84.02, 157.99, 176.91, 250.88], 0.7131)],
    "000000324614.jpg": [([84.28, 141.10, 194.87, 251.69], 0.9607)],
    "000000463730.jpg": [([101.66, 114.54, 190.27, 203.15], 0.6313), ([301.81, 90.2, 389.42, 177.81], 0.5940)],
}


@pytest.mark.parametrize("name", sorted(YUNET))
def test_yunet_finds_what_opencv_finds(name: str, shared_data: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(shared_data / "models" / "yunet_n_320.onnx")
    preprocessing = load_preset("yunet", (320, 320)).preprocessing
    array, _ = preprocess(read_image(shared_data / "coco" / "val2017" / name), preprocessing)
    outputs = dict(
        zip([each.name for each in session.get_outputs()], session.run(None, {"input": np.rint(array)}), strict=True)
    )
    post = Postprocessing("yunet", options={"score_threshold": 0.3, "iou_threshold": 0.3})
    found = get_decoder("yunet")(outputs, post, Placement(320, 320, 320, 320, 1, 1, 0, 0))
    np.testing.assert_allclose(found.boxes, [box for box, _ in YUNET[name]], atol=0.02)
    np.testing.assert_allclose(found.scores, [score for _, score in YUNET[name]], atol=2e-4)


@pytest.mark.parametrize("name", sorted(BLAZEFACE))
def test_blazeface_finds_what_mediapipe_finds(name: str, shared_data: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(shared_data / "models" / "mp_face_detection_short_range.tflite"))
    interpreter.allocate_tensors()
    preset = load_preset("blazeface")
    array, placement = preprocess(read_image(shared_data / "coco" / "val2017" / name), preset.preprocessing)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], array.transpose(0, 2, 3, 1))
    interpreter.invoke()
    outputs = {each["name"]: interpreter.get_tensor(each["index"]) for each in interpreter.get_output_details()}
    post = Postprocessing("blazeface", options={"score_threshold": 0.5})
    found = get_decoder("blazeface")(outputs, post, placement)
    # OpenCV's warp, which MediaPipe uses, knows 32 positions between two pixels; an input pixel is 5 of the image's.
    np.testing.assert_allclose(found.boxes, [box for box, _ in BLAZEFACE[name]], atol=0.5)
    np.testing.assert_allclose(found.scores, [score for _, score in BLAZEFACE[name]], atol=2e-3)


NAMES = ("448", "471", "494", "451", "474", "497", "454", "477", "500")
"""Output names of InsightFace's files: scores, boxes and landmarks, each at strides 8, 16 and 32."""


def scrfd_outputs(batched: bool) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = [(96 * 64 // stride**2 * 2, columns) for columns in (1, 4, 10) for stride in (8, 16, 32)]
    arrays = [rng.uniform(0, 1, shape).astype(np.float32) for shape in shapes]
    return {name: array[None] if batched else array for name, array in zip(NAMES, arrays, strict=True)}


@pytest.mark.parametrize("batched", [False, True])
def test_scrfds_distances_start_at_the_corner_of_a_cell(batched: bool) -> None:
    outputs = scrfd_outputs(batched)
    expected = []
    for level, stride in enumerate((8, 16, 32)):
        scores, boxes = (outputs[NAMES[place]].reshape(-1, columns) for place, columns in ((level, 1), (level + 3, 4)))
        for row, (score, distances) in enumerate(zip(scores[:, 0].tolist(), boxes.tolist(), strict=True)):
            y, x = divmod(row // 2, 96 // stride)
            left, top, right, bottom = (distance * stride for distance in distances)
            box = [x * stride - left, y * stride - top, x * stride + right, y * stride + bottom]
            expected.append((score, np.clip(box, 0, [96, 64, 96, 64]).tolist()))
    expected.sort(key=lambda entry: -entry[0])
    placement = Placement(96, 64, 96, 64, 1, 1, 0, 0)
    post = Postprocessing("scrfd", options={"nms": "none", "top_k": 1000, "score_threshold": 0})
    found = get_decoder("scrfd")(outputs, post, placement)
    np.testing.assert_allclose(found.scores, [score for score, _ in expected], rtol=1e-6)
    np.testing.assert_allclose(found.boxes, [box for _, box in expected], atol=1e-4)


def test_scrfds_outputs_may_be_named() -> None:
    outputs = scrfd_outputs(True)
    roles = [f"{kind}_{stride}" for kind in ("score", "bbox") for stride in (8, 16, 32)]
    placement = Placement(96, 64, 96, 64, 1, 1, 0, 0)
    named = Postprocessing("scrfd", dict(zip(roles, NAMES, strict=False)))
    found, told = (get_decoder("scrfd")(outputs, post, placement) for post in (named, Postprocessing("scrfd")))
    np.testing.assert_array_equal(found.boxes, told.boxes)
    with pytest.raises(InputError, match="has no role 'kps_8'"):
        get_decoder("scrfd")(outputs, Postprocessing("scrfd", {"kps_8": "454"}), placement)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("yunet", {}, ModelError, r"has no output 'cls_8' for the role 'cls_8'"),
        ("scrfd", {"anchors_per_cell": 0}, InputError, "'anchors_per_cell' is 0, wanted 1 or more"),
        ("blazeface", {}, ModelError, "has 896 anchors for an input of 128x128, but the model gives 10 boxes"),
        ("blazeface", {"anchors_per_layer": 0}, InputError, "wanted numbers above 0"),
        ("blazeface", {"strides": []}, InputError, "wanted numbers above 0"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, options: dict[str, Any], error: type[Exception], message: str) -> None:
    outputs = {"regressors": np.zeros((1, 10, 16), np.float32), "classificators": np.zeros((1, 10, 1), np.float32)}
    with pytest.raises(error, match=message):
        get_decoder(name)(outputs, Postprocessing(name, options=options), Placement(128, 128, 128, 128, 1, 1, 0, 0))


def test_an_input_of_another_size_is_refused() -> None:
    outputs = {f"{kind}_{stride}": np.zeros((1, 4, 1)) for kind in ("cls", "obj", "bbox") for stride in (8, 16, 32)}
    with pytest.raises(ModelError, match=r"wanted 1600 \+ 400 \+ 100 rows of 1 for cls and an input of 320x320"):
        get_decoder("yunet")(outputs, Postprocessing("yunet"), Placement(320, 320, 320, 320, 1, 1, 0, 0))
