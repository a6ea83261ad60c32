"""Which preset a file gets by its outputs, its operators and what it says of itself; nothing is taken in silence."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from edgeq.errors import InputError
from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.inputs.preprocessing import Placement
from edgeq.inputs.presets import load_preset, preset_names
from edgeq.sources.artifact_file import describe_file, facts_of, open_artifact
from edgeq.sources.file_metadata import FileMetadata, tflite_metadata
from edgeq.sources.model import ModelRequest, open_model
from edgeq.sources.recognition import RECOGNISERS, ModelFacts, recognise
from edgeq.tasks.detection.decoders import get_decoder
from tests.sources.heads import ULTRALYTICS, save_outputs, save_square_finder

Outputs = Mapping[str, tuple[tuple[int, ...], Sequence[str]]]

RAW, DECODED = ("Sigmoid",), ("Sigmoid", "Sub", "Mul")
CELLS, WITH_64 = 1600 + 400 + 100, 1600 + 400 + 100 + 25
PYRAMID = WITH_64 + 9
V5_MAPS: Outputs = {f"map{side}": ((1, 255, side, side), ()) for side in (40, 20, 10)}
V8_MAPS: Outputs = {f"map{side}": ((1, 144, side, side), ()) for side in (40, 20, 10)}


def pairs(cells: tuple[int, ...], scores: int, boxes: int) -> Outputs:
    return {
        f"{kind}{count}": ((1, count, width), RAW if kind == "cls" else ())
        for kind, width in (("cls", scores), ("box", boxes))
        for count in cells
    }


def maps(scores: int, boxes: int) -> Outputs:
    return {
        f"{kind}{side}": ((1, width, side, side), ())
        for kind, width in (("cls", scores), ("box", boxes))
        for side in (40, 20, 10)
    }


FORMS: dict[str, tuple[Outputs, list[str]]] = {
    "yolov5": ({"output0": ((1, 3 * CELLS, 85), DECODED)}, ["yolov5"]),
    "yolov5 and its maps": ({"out": ((1, 3 * CELLS, 7), DECODED), **V5_MAPS}, ["yolov5"]),
    "yolov5 maps": (V5_MAPS, ["yolov5_maps", "yolov7_maps"]),
    "yolov6": ({"outputs": ((1, CELLS, 85), DECODED)}, ["yolov6"]),
    "rows that nothing suppressed": ({"out": ((100, 7), DECODED)}, []),
    "yolov8": ({"output0": ((1, 84, CELLS), DECODED)}, ["yolov8"]),
    "yolov8, 100 classes": ({"output0": ((1, 104, CELLS), DECODED)}, ["yolov8"]),
    "yolov8 transposed": ({"output0": ((1, CELLS, 84), DECODED)}, ["yolov8"]),
    "one per cell, 7 columns": ({"output0": ((1, CELLS, 7), DECODED)}, ["yolov6", "yolov8"]),
    "yolov8 raw": ({"output0": ((1, 144, CELLS), ())}, ["yolov8_raw"]),
    "maps of 60 channels": (
        {f"map{side}": ((1, 60, side, side), ()) for side in (40, 20, 10)},
        ["nanodet", "yolov5_maps", "yolov7_maps"],
    ),
    "yolov8 raw maps": (V8_MAPS, ["yolov8_raw"]),
    "yolov8 raw maps in pairs": (maps(80, 64), ["yolov8_raw"]),
    "yolov10": ({"output0": ((1, 300, 6), DECODED)}, ["yolov10"]),
    "yolox": ({"output": ((1, CELLS, 85), RAW)}, ["yolox"]),
    "yolox, 1 class": ({"output": ((1, CELLS, 6), RAW)}, ["yolox"]),
    "yolox decoded": ({"output": ((1, CELLS, 85), ("Sigmoid", "Exp", "Mul"))}, ["yolox_decoded"]),
    "nanodet-plus": ({"output": ((1, WITH_64, 112), RAW)}, ["nanodet_plus"]),
    "nanodet": (pairs((1600, 400, 100), 80, 32), ["nanodet"]),
    "picodet": (pairs((1600, 400, 100, 25), 80, 32), ["picodet"]),
    "gfl": (pairs((1600, 400, 100, 25, 9), 80, 68), ["gfl"]),
    "rtmdet": (maps(80, 4), ["rtmdet"]),
    "fastestdet": ({"out": ((1, 85, 20, 20), ("Softmax",))}, ["fastestdet"]),
    "yolo-fastestv2": ({"a": ((1, 20, 20, 95), RAW), "b": ((1, 10, 10, 95), RAW)}, ["yolo_fastestv2"]),
    "centernet": ({"hm": ((1, 3, 80, 80), ()), "wh": ((1, 2, 80, 80), ()), "reg": ((1, 2, 80, 80), ())}, ["centernet"]),
    "corners and scores": (
        {"a": ((1, CELLS, 80), RAW), "b": ((1, CELLS, 4), DECODED)},
        ["yolo_nas", "damo_yolo"],
    ),
    "scrfd": (
        {f"{n}{w}": ((2 * n, w), ()) for n in (1600, 400, 100) for w in (1, 4, 10)},
        ["scrfd"],
    ),
    "ssdlite": ({"boxes": ((1, 3234, 4), DECODED), "scores": ((1, 3234, 91), ("Softmax",))}, ["ssdlite"]),
    "retinanet": ({"boxes": ((1, 9 * PYRAMID, 4), DECODED), "scores": ((1, 9 * PYRAMID, 91), RAW)}, ["retinanet"]),
    "fcos": ({"boxes": ((1, PYRAMID, 4), DECODED), "scores": ((1, PYRAMID, 91), RAW)}, ["fcos"]),
    "efficientdet": ({"boxes": ((1, 9 * PYRAMID, 4), ()), "scores": ((1, 9 * PYRAMID, 90), ())}, ["efficientdet"]),
    "efficientdet, other names": (
        {"cls": ((1, 9 * PYRAMID, 3), RAW), "box": ((1, 9 * PYRAMID, 4), ())},
        ["efficientdet,outputs.boxes=box,outputs.scores=cls,activation=none"],
    ),
    "retinaface": (
        {
            "loc": ((1, 2 * CELLS, 4), ()),
            "conf": ((1, 2 * CELLS, 2), ("Softmax",)),
            "landms": ((1, 2 * CELLS, 10), ()),
        },
        ["retinaface"],
    ),
    "retinaface of logits": (
        {"a": ((1, 2 * CELLS, 4), ()), "b": ((1, 2 * CELLS, 2), ()), "c": ((1, 2 * CELLS, 10), ())},
        ["retinaface,outputs.boxes=a,outputs.scores=b,activation=softmax"],
    ),
    "mmdetection with nms": ({"dets": ((1, 100, 5), ()), "labels": ((1, 100), ())}, ["rtmdet_nms"]),
    "detr": ({"logits": ((1, 100, 92), ()), "pred_boxes": ((1, 100, 4), RAW)}, ["detr"]),
    "rt-detr": ({"logits": ((1, 300, 80), ()), "pred_boxes": ((1, 300, 4), RAW)}, ["rtdetr"]),
    "a transformer of 3 classes": (
        {"logits": ((1, 300, 3), ()), "pred_boxes": ((1, 300, 4), RAW)},
        ["rtdetr", "deformable_detr", "detr"],
    ),
    "efficient nms": (
        {
            "num_dets": ((1, 1), ()),
            "det_boxes": ((1, 100, 4), ()),
            "det_scores": ((1, 100), ()),
            "det_classes": ((1, 100), ()),
        },
        ["efficient_nms"],
    ),
    "classifier": ({"logits": ((1, 1000), ())}, []),
    "segmenter": ({"mask": ((1, 21, 320, 320), ())}, []),
    "one map of 8 channels": ({"out": ((1, 8, 20, 20), ())}, []),
    "other rows": ({"out": ((1, 4420, 6), DECODED)}, []),
    "a mask, channels last": ({"mask": ((1, 400, 400, 1), ("Softmax",))}, []),
    "embedding": ({"out": ((1, 512), ())}, []),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_recognised(form: str, tmp_path: Path) -> None:
    outputs, wanted = FORMS[form]
    path = save_outputs(tmp_path / "head.onnx", outputs)
    found = recognise(facts_of(describe_file(path))).candidates
    assert [each.preset for each in found] == wanted


def test_every_recogniser_names_presets_that_exist() -> None:
    for outputs, wanted in FORMS.values():
        for preset in wanted:
            assert outputs and preset.partition(",")[0] in preset_names()
            load_preset(preset, (320, 320))
    assert len(RECOGNISERS) >= 7


@pytest.mark.parametrize("form", ["yolov5 maps", "corners and scores"])
def test_what_is_in_doubt_is_left_to_the_user_with_the_flags(form: str, tmp_path: Path) -> None:
    outputs, wanted = FORMS[form]
    path = save_outputs(tmp_path / "head.onnx", outputs)
    flags = " .*".join(f"`preset` {each}" for each in wanted)
    with pytest.raises(InputError, match=rf"head\.onnx: its outputs .* fit several families.*{flags}.*COCO annotation"):
        open_model(ModelRequest(str(path)))
    with pytest.raises(InputError, match=flags):
        open_artifact(path, "auto")


@pytest.mark.parametrize("form", ["classifier", "other rows"])
def test_what_is_not_recognised_is_a_bare_network(form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save_outputs(tmp_path / "head.onnx", FORMS[form][0])
    with caplog.at_level("INFO", logger="edgeq"):
        model = open_model(ModelRequest(str(path))).model
    assert (model.preprocessing.declared, model.postprocessing) == (None, None)
    assert "head.onnx: no head that edgeq knows among its outputs" in caplog.text


def test_metadata_say_what_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save_square_finder(tmp_path / "squares.onnx", metadata=ULTRALYTICS)
    with caplog.at_level("INFO", logger="edgeq"):
        opened = open_model(ModelRequest(str(path))).model
    assert (
        "squares.onnx: YOLOv8-style head, 3 classes from the file's metadata, letterbox_center 64, RGB 0..1 "
        "(`preset` yolov8)"
    ) in caplog.text
    assert opened.labels == ("red", "green", "blue")
    assert opened.postprocessing is not None and opened.postprocessing.decoder == "yolov8"
    assert open_model(ModelRequest(str(path), preset="yolov8")).model.labels == ("red", "green", "blue")
    assert open_model(ModelRequest(str(path), labels="a,b,c")).model.labels == ("a", "b", "c")


def test_a_graph_that_divides_by_255_gets_pixels_as_they_are(tmp_path: Path) -> None:
    path = save_square_finder(tmp_path / "squares.onnx", metadata=ULTRALYTICS, first="Div")
    spec = open_model(ModelRequest(str(path))).model.preprocessing
    assert (spec.scale, spec.value_range) == (1.0, (0, 255))


@pytest.mark.parametrize("task", ["segment", "pose", "obb"])
def test_other_tasks_of_the_same_exporter_are_not_taken_for_detection(task: str, tmp_path: Path) -> None:
    path = save_square_finder(tmp_path / "squares.onnx", metadata=ULTRALYTICS | {"task": task})
    assert recognise(facts_of(describe_file(path))).candidates == ()


def test_masks_keypoints_and_oriented_boxes_of_the_same_exporter(tmp_path: Path) -> None:
    masks = {"output0": ((1, 4 + 3 + 32, 84), DECODED), "output1": ((1, 32, 16, 16), ())}
    for task, outputs, preset in (
        ("segment", masks, "yolo_seg"),
        ("pose", {"output0": ((1, 4 + 3 + 3 * 17, 84), DECODED)}, "yolo_pose,classes=3"),
        ("obb", {"output0": ((1, 5 + 3, 84), DECODED)}, "yolo_obb"),
        ("segment", {"output0": ((1, 300, 6 + 32), DECODED), "output1": ((1, 32, 16, 16), ())}, "yolo_seg"),
        ("pose", {"output0": ((1, 300, 6 + 3 * 17), DECODED)}, "yolo_pose,classes=3"),
        ("obb", {"output0": ((1, 300, 6 + 1), DECODED)}, "yolo_obb"),
    ):
        path = save_outputs(tmp_path / "head.onnx", outputs, (1, 3, 64, 64), ULTRALYTICS | {"task": task})
        assert [each.preset for each in recognise(facts_of(describe_file(path))).candidates] == [preset]


@pytest.mark.parametrize(
    ("shape", "stated", "preset"),
    [
        ((1, 4 + 3 + 2 * 12, 84), {"kpt_shape": "[12, 2]"}, ["yolo_pose,classes=3,numbers=2"]),
        ((1, 300, 6 + 2 * 12), {"kpt_shape": "[12, 2]"}, ["yolo_pose,classes=3,numbers=2"]),
        ((1, 4 + 1 + 3 * 17, 84), {"kpt_shape": "[17, 3]", "names": "{0: 'person'}"}, ["yolo_pose"]),
        ((1, 4 + 3 + 3 * 17, 84), {"kpt_shape": "[5, 3]"}, []),
        ((1, 4 + 3 + 3 * 17, 84), {"kpt_shape": "[17, 4]"}, []),
    ],
)
def test_keypoints_are_as_many_as_the_file_states(
    shape: tuple[int, ...], stated: dict[str, str], preset: list[str], tmp_path: Path
) -> None:
    stated = ULTRALYTICS | {"task": "pose"} | stated
    path = save_outputs(tmp_path / "head.onnx", {"output0": (shape, DECODED)}, (1, 3, 64, 64), stated)
    assert [each.preset for each in recognise(facts_of(describe_file(path))).candidates] == preset


@pytest.mark.parametrize(
    ("columns", "stated", "preset"),
    [
        (6, {"head": "RTDETRDecoder"}, "rtdetr_ultralytics"),
        (6, {"description": "Ultralytics rtdetr-l model trained on cells"}, "rtdetr_ultralytics"),
        (6, {"head": "v10Detect"}, "yolov10"),
        (
            7,
            {"description": "Ultralytics RT-DETR-l model"},
            "yolov8,relative=true,nms=none,multi_label=false,resize=stretch",
        ),
    ],
)
def test_ultralytics_rtdetr_is_no_yolo(columns: int, stated: dict[str, str], preset: str, tmp_path: Path) -> None:
    path = save_outputs(
        tmp_path / "head.onnx", {"output0": ((1, 300, columns), DECODED)}, metadata=ULTRALYTICS | stated
    )
    assert [each.preset for each in recognise(facts_of(describe_file(path))).candidates] == [preset]
    loaded = load_preset(preset, (320, 320))
    rows = np.zeros((1, 300, columns), np.float32)
    rows[0, 7, :6] = 0.5, 0.25, 0.2, 0.1, 0.9, 0.8 if columns > 6 else 2
    post, placement = loaded.postprocessing, Placement(640, 480, 320, 320, 0.5, 2 / 3, 0, 0)
    assert post is not None
    if "rtdetr" in preset or columns > 6:
        assert loaded.preprocessing.resize == "stretch"
        found = get_decoder(post.decoder)({"output0": rows}, post, placement)
        np.testing.assert_allclose(found.boxes, [[256, 96, 384, 144]], atol=1e-3)
        assert found.classes.tolist() == [0 if columns > 6 else 2]


@pytest.mark.parametrize(
    ("tail", "preset"), [({"Softmax"}, "retinaface"), ({"Concat"}, "retinaface,activation=softmax")]
)
def test_retinaface_of_any_size_is_told_by_its_names(tail: set[str], preset: str) -> None:
    outputs = tuple(TensorSpec(name, "float32", (None, None, None)) for name in ("loc", "conf", "landmarks"))
    tails = {"loc": frozenset({"Concat"}), "conf": frozenset(tail), "landmarks": frozenset[str]()}
    (found,) = recognise(ModelFacts("faces.onnx", None, None, 3, outputs, tails=tails)).candidates
    assert (found.preset, found.classes) == (preset, 1)
    assert not recognise(ModelFacts("any.onnx", None, None, 3, outputs[:2], tails=tails)).candidates


def suppressed(path: Path, outputs: Mapping[str, tuple[tuple[int, ...], int]]) -> Path:
    """Writes a model all of whose outputs come after a NonMaxSuppression inside an If, as torch writes it."""
    boxes = helper.make_tensor_value_info("kept", onnx.TensorProto.INT64, [None, 3])
    body = [helper.make_node("NonMaxSuppression", ["corners", "scored"], ["kept"])]
    other = [helper.make_node("Identity", ["none"], ["kept"])]
    nodes = [
        helper.make_node("Conv", ["image", "weight"], ["map"]),
        helper.make_node("Reshape", ["map", "shape"], ["corners"]),
        helper.make_node("Reshape", ["map", "transposed"], ["wide"]),
        helper.make_node("ReduceMax", ["wide", "axis"], ["scored"]),
        helper.make_node(
            "If",
            ["any"],
            ["found"],
            then_branch=helper.make_graph(body, "some", [], [boxes]),
            else_branch=helper.make_graph(other, "nothing", [], [boxes]),
        ),
        helper.make_node("ReduceSum", ["found"], ["sum"], keepdims=0),
    ]
    values = {
        "weight": np.ones((4, 3, 8, 8), np.float32),
        "shape": np.array([1, -1, 4]),
        "transposed": np.array([1, 4, -1]),
        "axis": np.array([1]),
        "any": np.array(True),
        "none": np.zeros((1, 3), np.int64),
    }
    for name, (shape, kind) in outputs.items():
        nodes.append(helper.make_node("Cast", ["sum"], [f"{name}_cast"], to=kind))
        nodes.append(helper.make_node("Expand", [f"{name}_cast", f"{name}_shape"], [name]))
        values[f"{name}_shape"] = np.array(shape)
    graph = helper.make_graph(
        nodes,
        "suppressed",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3, 64, 64])],
        [helper.make_tensor_value_info(n, kind, [None, *shape[1:]]) for n, (shape, kind) in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


@pytest.mark.parametrize(
    ("outputs", "presets"),
    [
        ({"out": ((5, 7), FLOAT)}, ["yolov7_nms"]),
        (
            {"boxes": ((5, 4), FLOAT), "labels": ((5,), INT64), "scores": ((5,), FLOAT)},
            ["faster_rcnn", "faster_rcnn,first_class=1"],
        ),
        (
            {"1": ((5, 4), FLOAT), "2": ((5,), INT64), "3": ((5,), FLOAT)},
            [
                "faster_rcnn,outputs.boxes=1,outputs.scores=3,outputs.classes=2",
                "faster_rcnn,outputs.boxes=1,outputs.scores=3,outputs.classes=2,first_class=1",
            ],
        ),
        ({"out": ((5, 8), FLOAT)}, []),
    ],
)
def test_what_the_graph_has_chosen(
    outputs: Mapping[str, tuple[tuple[int, ...], int]], presets: list[str], tmp_path: Path
) -> None:
    path = suppressed(tmp_path / "chosen.onnx", outputs)
    found = recognise(facts_of(describe_file(path))).candidates
    assert [each.preset for each in found] == presets
    for preset in presets:
        load_preset(preset, (64, 64))


def test_numbered_classes_have_no_names() -> None:
    metadata = FileMetadata.of({"names": "{0: '0', 1: '1', 2: '2'}"})
    assert (metadata.names, metadata.classes) == ((), 3)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{0: 'cat', 1: 'dog'}", ("cat", "dog")),
        ("{1: 'dog', 0: 'cat'}", ("cat", "dog")),
        ('["cat", "dog"]', ("cat", "dog")),
        ('{"0": "cat", "1": "dog"}', ("cat", "dog")),
        ("cat\ndog\n", ("cat", "dog")),
        ("{0: 'cat', 2: 'dog'}", ()),
        ("{0: ['cat']}", ()),
        ("__import__('os').system('true')", ()),
        ("[" * 100_000, ()),
        ("-" * 100_000 + "1", ()),
        ("{0: '" + "a" * 500 + "'}", ()),
        ("[" + "'a'," * 30_000 + "]", ()),
        ("cat", ()),
        ("", ()),
    ],
    ids=range(14),
)
def test_names_are_read_as_literals_within_bounds(text: str, names: tuple[str, ...]) -> None:
    assert FileMetadata.of({"names": text}).names == names


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60), st.text(alphabet="[]{}()'\",:0123 ab-", max_size=60))
def test_no_text_breaks_the_reader(first: str, second: str) -> None:
    found = FileMetadata.of({"names": first, "imgsz": second, "task": first})
    assert all(isinstance(name, str) and name for name in found.names)
    assert found.size is None or min(found.size) > 0


def test_the_archive_at_the_end_of_a_tflite_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(b"\x1c\x00\x00\x00TFL3" + bytes(64))
    assert tflite_metadata(path) == FileMetadata()
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("metadata.json", json.dumps({"names": {"0": "cat"}, "imgsz": [32, 48], "task": "detect"}))
    found = tflite_metadata(path)
    assert (found.names, found.size, found.task) == (("cat",), (32, 48), "detect")
    labelled = tmp_path / "labelled.tflite"
    with zipfile.ZipFile(labelled, "w") as archive:
        archive.writestr("labelmap.txt", "cat\ndog\n")
        archive.writestr("bomb.txt", " " * (1 << 20))
    assert tflite_metadata(labelled).names == ("cat", "dog")


@pytest.mark.parametrize(
    ("file", "preset"),
    [
        ("weights/yolox_nano_coco_416.onnx", "yolox"),
        ("weights/fastestdet_coco_352.onnx", "fastestdet"),
        ("models/yunet_n_320.onnx", "yunet"),
        ("models/ultraface_rfb320.onnx", "ultraface"),
        ("models/mp_face_detection_short_range.tflite", "blazeface"),
        ("models/ch_ppocr_mobile_v2.0_cls_infer.onnx", None),
    ],
)
def test_public_models_are_recognised(file: str, preset: str | None, shared_data: Path) -> None:
    path = shared_data / file
    found = [each.preset for each in recognise(facts_of(describe_file(path))).candidates]
    assert found == ([] if preset is None else [preset])
