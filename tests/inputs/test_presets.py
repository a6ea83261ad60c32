from __future__ import annotations

from pathlib import Path

import pytest

from edgeq.errors import InputError
from edgeq.exporting.artifact import Postprocessing, Preprocessing
from edgeq.inputs.presets import load_preset, preset_names
from edgeq.tasks import find_decoder


def test_the_built_in_presets_are_those_of_their_papers() -> None:
    assert load_preset("centernet", (320, 416)).preprocessing == Preprocessing(
        320, 416, "center", "bgr", 1 / 255, (0.408, 0.447, 0.470), (0.289, 0.274, 0.278)
    )
    assert load_preset("yolox", (416, 416)).preprocessing == Preprocessing(
        416, 416, "letterbox", "bgr", scale=1.0, fill=114.0
    )
    assert load_preset("fastestdet", (352, 352)).preprocessing == Preprocessing(352, 352, "stretch", "bgr")
    assert load_preset("imagenet", (224, 224)).preprocessing == Preprocessing(
        224, 224, "crop", "rgb", 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), antialias=True
    )
    cifar10 = load_preset("cifar10")
    assert cifar10.preprocessing == Preprocessing(
        32, 32, "stretch", "rgb", 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    )
    assert (cifar10.postprocessing, len(cifar10.labels)) == (Postprocessing("classification"), 10)
    assert load_preset("imagenet", (224, 224)).postprocessing == Postprocessing("classification")
    fashionmnist = load_preset("fashionmnist")
    assert fashionmnist.preprocessing == Preprocessing(28, 28, "stretch", "gray", 1 / 255, (0.5,), (0.5,))
    assert (fashionmnist.postprocessing, len(fashionmnist.labels)) == (Postprocessing("classification"), 10)
    clip = load_preset("clip", (224, 224))
    assert clip.postprocessing == Postprocessing("embedding", {"embedding": "embedding"})
    assert clip.preprocessing == Preprocessing(
        224,
        224,
        "crop",
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
        antialias=True,
        crop_fraction=1.0,
    )


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_names_a_decoder(name: str) -> None:
    post = load_preset(name, (64, 64)).postprocessing
    assert post is not None and callable(find_decoder(post).decode)


def test_index_and_id_of_a_class_of_coco_differ_where_ids_are_missing() -> None:
    yolox, fcos, ssdlite = (load_preset(name, (64, 64)).labels for name in ("yolox", "fcos", "ssdlite"))
    assert (fcos[0], fcos[1], fcos[13], fcos[90]) == ("N/A", "person", "stop sign", "toothbrush")
    assert fcos[1:] == ssdlite
    assert tuple(label for label in fcos if label != "N/A") == yolox


def test_the_fill_may_be_a_colour(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[preprocessing]\nfill = [1, 2, 3]\n")
    assert load_preset(str(path), (8, 8)).preprocessing.fill_colour == (1, 2, 3)
    path.write_text("[preprocessing]\nfill = [1, 2]\n")
    with pytest.raises(InputError, match=r"fill is \[1.*\], wanted one number or 3"):
        load_preset(str(path), (8, 8))


def test_coco_labels_are_in_the_order_of_the_category_ids() -> None:
    labels = load_preset("yolox", (416, 416)).labels
    assert len(labels) == len(set(labels)) == 80
    assert (labels[0], labels[11], labels[79]) == ("person", "stop sign", "toothbrush")


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        """
        labels = ["cat", "dog"]
        [preprocessing]
        height_px = 48
        width_px = 64
        resize = "letterbox"
        mean = [0, 0.5, 1]
        std = [1, 2, 3]
        fill = 114
        antialias = true
        [postprocessing]
        decoder = "mypackage.mymodule:decode"
        outputs = {boxes = "out"}
        options = {top_k = 7}
        """
    )
    preset = load_preset(str(path))
    assert preset.preprocessing == Preprocessing(
        48, 64, "letterbox", mean=(0.0, 0.5, 1.0), std=(1.0, 2.0, 3.0), fill=114.0, antialias=True
    )
    assert preset.postprocessing == Postprocessing("mypackage.mymodule:decode", {"boxes": "out"}, {"top_k": 7})
    assert preset.labels == ("cat", "dog")
    replaced = load_preset(str(path), (32, 40)).preprocessing
    assert (replaced.height_px, replaced.width_px) == (32, 40)


def test_the_digest_does_not_depend_on_how_a_number_is_written(tmp_path: Path) -> None:
    whole, point = tmp_path / "whole.toml", tmp_path / "point.toml"
    whole.write_text("[preprocessing]\nscale = 1\nfill = 114\nmean = [0, 0, 0]\n")
    point.write_text("[preprocessing]\nscale = 1.0\nfill = 114.0\nmean = [0.0, 0.0, 0.0]\n")
    digests = {load_preset(str(path), (8, 8)).preprocessing.digest for path in (whole, point)}
    assert len(digests) == 1


def test_ranges_of_earlier_versions_still_belong_to_their_preprocessing() -> None:
    digests = {name: load_preset(name, (64, 64)).preprocessing.digest[:12] for name in ("imagenet", "yolox")}
    assert digests == {"imagenet": "807d65baaeb6", "yolox": "4233667565ef"}


def test_a_gray_preset_has_one_mean_and_one_std(tmp_path: Path) -> None:
    path = tmp_path / "gray.toml"
    path.write_text("[preprocessing]\nchannel_order = 'gray'\n")
    plain = load_preset(str(path), (8, 8)).preprocessing
    assert (plain.channels, plain.mean, plain.std, plain.value_range) == (1, (0.0,), (1.0,), (0.0, 1.0))
    path.write_text("[preprocessing]\nchannel_order = 'gray'\nmean = [0.5]\nstd = [0.25]\n")
    assert load_preset(str(path), (8, 8)).preprocessing.value_range == (-2.0, 2.0)


def test_an_unknown_preset_names_the_closest_and_where_all_are_listed() -> None:
    with pytest.raises(InputError, match=r"'yolov99'; did you mean yolov9 or .*`edgeq presets` lists.*TOML") as error:
        load_preset("yolov99", (8, 8))
    assert len(str(error.value)) < 200


def test_a_free_input_size_asks_for_one() -> None:
    with pytest.raises(InputError, match="height_px and width_px"):
        load_preset("centernet", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colour = 1", "unknown key 'colour' .known: family, labels, preprocessing, postprocessing"),
        ("labels = 'coco81'", "unknown labels 'coco81'; known: coco80, coco90, coco91"),
        ("labels = [1, 2]", "labels.0. is 1, wanted text"),
        ("preprocessing = 3", "preprocessing is 3, wanted keys with values"),
        ("[preprocessing]\nresise = 'center'", "preprocessing has an unknown key 'resise' .known: .*resize"),
        (
            "[preprocessing]\nresize = 'zoom'",
            "preprocessing.resize is 'zoom', wanted one of center, crop, fit, letterbox, letterbox_center, stretch",
        ),
        (
            "[preprocessing]\nchannel_order = 'gbr'",
            "preprocessing.channel_order is 'gbr', wanted one of bgr, gray, rgb",
        ),
        ("[preprocessing]\nmean = [1, 2]", "three numbers"),
        ("[preprocessing]\nstd = [1, 0, 1]", "three numbers"),
        ("[preprocessing]\nchannel_order = 'gray'\nmean = [0.5, 0.5, 0.5]", "wanted one number for gray"),
        ("[preprocessing]\nscale = 'one'", "preprocessing.scale is 'one', wanted a number"),
        ("[preprocessing]\nscale = nan", "nan, which is not a finite number"),
        ("[preprocessing]\nfill = 300", "wanted a number <= 255"),
        ("[preprocessing]\ncrop_fraction = 0", "a number from 0.01 to 1"),
        ("[preprocessing]\nantialias = 1", "antialias is 1, wanted true or false"),
        ("[preprocessing]\nheight_px = 1.5", "a whole number from 1 to 32768"),
        ("[preprocessing]\nwidth_px = true", "a whole number from 1 to 32768"),
        ("[postprocessing]\noptions = {}", "postprocessing has no 'decoder'"),
        ("[postprocessing]\ndecoder = 'yolox'\nthreshold = 1", "postprocessing has an unknown key 'threshold'"),
        (
            "[postprocessing]\ndecoder = 'yolox'\noutputs = {predictions = 1}",
            "outputs.'predictions'. is 1, wanted text",
        ),
        ("[postprocessing", "not valid TOML"),
    ],
)
def test_a_wrong_file_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_preset(str(path), (8, 8))
    assert "\n" not in str(caught.value) and "wrong.toml" in str(caught.value)


def test_missing_and_binary_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_preset(str(tmp_path / "gone.toml"), (8, 8))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        load_preset(str(tmp_path / "binary.toml"), (8, 8))


def test_settings_behind_commas_replace_single_values(tmp_path: Path) -> None:
    changed = load_preset(
        "yolov8,channel_order=bgr,scale=1,iou_threshold=0.5,relative=true,outputs.boxes=a:0", (64, 64)
    )
    assert (changed.preprocessing.channel_order, changed.preprocessing.scale) == ("bgr", 1)
    assert changed.postprocessing is not None
    assert changed.postprocessing.options == {"score_threshold": 0.001, "iou_threshold": 0.5, "relative": True}
    assert changed.postprocessing.outputs == {"boxes": "a:0"}
    plain = load_preset("yolov8", (64, 64))
    assert changed.preprocessing.resize == plain.preprocessing.resize == "letterbox_center"
    (tmp_path / "mine.toml").write_text("[preprocessing]\nresize = 'stretch'\n")
    assert load_preset(f"{tmp_path}/mine.toml,fill=7", (64, 64)).preprocessing.fill == 7


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        ("yolov8,bgr", "the setting 'bgr' is not of the form name=value"),
        ("yolov8,scale=fast", r"\$\.preprocessing\.scale"),
        ("yolov8,channel_order=brg", "channel_order"),
        ("yolo8,scale=1", "unknown preset 'yolo8'; did you mean yolo"),
    ],
)
def test_settings_that_mean_nothing_are_refused(preset: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_preset(preset, (64, 64))
