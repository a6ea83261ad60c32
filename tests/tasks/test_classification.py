"""Labelled images, the ranking of scores, and accuracy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeq.errors import InputError, ModelError
from edgeq.exporting.artifact import Artifact, Postprocessing
from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.tasks.classification.outputs import class_names, count_classes, decode, rank
from edgeq.tasks.classification.records import score
from edgeq.tasks.classification.truth import class_indices
from edgeq.tasks.labelled_images import load_labelled_images


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def classifier(*outputs: TensorSpec, labels: tuple[str, ...] = (), **options: float) -> Artifact:
    post = Postprocessing("classification", options=options)
    return Artifact(Path("net.onnx"), "onnx", "fp32", "x86", (), outputs, None, post, labels)


# -- Reading labels


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.json", '{"b/2.png": 7, "1.png": 0}'),
        ("labels.csv", "b/2.png,7\n1.png,0\n"),
        ("labels.csv", 'path,class\n"b/2.png", 7\n\n1.png,0'),
        ("labels.txt", "\ufeffb/2.png 7\r\n1.png\t0\r\n"),
    ],
)
def test_every_form_names_the_same_images_and_classes(tmp_path, name, content):
    touch(tmp_path / "images", "1.png", "b/2.png")
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    images = load_labelled_images(tmp_path / name, tmp_path / "images")
    assert images.source == tmp_path / name
    assert images.paths == (tmp_path / "images" / "b" / "2.png", tmp_path / "images" / "1.png")
    assert class_indices(images, 8, ()).tolist() == [7, 0]


def test_a_path_with_spaces_keeps_them(tmp_path):
    touch(tmp_path, "my cat.jpg")
    (tmp_path / "labels.txt").write_text("my cat.jpg tabby\n")
    images = load_labelled_images(tmp_path / "labels.txt", tmp_path)
    assert (images.paths[0].name, images.classes) == ("my cat.jpg", ("tabby",))


def test_folders_are_classes_by_name_by_index_or_in_sorted_order(tmp_path):
    names = load_labelled_images(
        None, touch(tmp_path / "names", "dog/1.png", "cat/2.png", "cat/more/3.jpg", ".git/x.png")
    )
    assert [path.name for path in names.paths] == ["2.png", "3.jpg", "1.png"]
    assert class_indices(names, 3, ("dog", "cow", "cat")).tolist() == [2, 2, 0]
    assert class_indices(names, 2, ()).tolist() == [0, 0, 1]
    numbers = load_labelled_images(None, touch(tmp_path / "numbers", "10/1.png", "9/2.png"))
    assert class_indices(numbers, 11, ()).tolist() == [10, 9]
    assert class_indices(numbers, 11, tuple("abcdefghijk")).tolist() == [10, 9]


def test_digits_that_are_names_are_names(tmp_path):
    images = load_labelled_images(None, touch(tmp_path, "7/1.png", "3/2.png"))
    assert class_indices(images, 2, ("3", "7")).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("l.json", "[1]", r"is \[1\], wanted keys with values; expected a JSON object of file name and class"),
        ("l.json", "{", "is not valid JSON"),
        ("l.json", "{}", "names no images"),
        ("l.json", '{"1.png": 1.5}', r"\$\[\'1\.png\'\] is 1\.5, wanted a whole number or text"),
        ("l.json", '{"1.png": true}', r"\$\[\'1\.png\'\] is True, wanted a whole number or text"),
        ("l.json", '{"images": [], "annotations": []}', "is a COCO file, which is for detectors"),
        ("l.csv", "1.png,1,2", "line 1 is '1.png,1,2'; wanted `path,class`"),
        ("l.csv", "1.png,1\n2.png", "line 2 is '2.png'"),
        ("l.csv", "", "names no images"),
        ("l.csv", "path,class\n", "names no images"),
        ("l.csv", "x.png,1", r"none of its 1 images is in"),
        ("l.txt", b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_files_of_another_form_are_one_clear_line(tmp_path, name, content, message):
    touch(tmp_path, "1.png")
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message) as caught:
        load_labelled_images(tmp_path / name, tmp_path)
    assert "\n" not in str(caught.value)


def test_folders_without_classes_or_images_are_told(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        load_labelled_images(None, tmp_path / "none")
    with pytest.raises(InputError, match="has no sub-folder for each class; give the classes with `annotations`"):
        load_labelled_images(None, touch(tmp_path / "flat", "1.png"))
    (touch(tmp_path / "half", "cat/1.png") / "dog").mkdir()
    with pytest.raises(InputError, match=r"dog: holds no images"):
        load_labelled_images(None, tmp_path / "half")
    with pytest.raises(InputError, match="no such file; wanted a JSON object"):
        load_labelled_images(tmp_path / "none.json", tmp_path)


@pytest.mark.parametrize(
    ("labels", "classes", "names", "message"),
    [
        ({"1.png": 3}, 3, (), r"1\.png is of class 3, but the model has 3 classes \(0 to 2\)"),
        ({"1.png": -1}, 3, (), r"1\.png is of class -1"),
        ({"1.png": 10**18}, 3, (), r"1\.png is of class 10{18}"),
        (
            {"1.png": "cow"},
            2,
            ("cat", "dog"),
            r"a class 'cow', which .* wanted its names \(cat, dog\) or indices 0 to 1",
        ),
        ({"1.png": "cat", "2.png": "7"}, 2, ("cat", "dog"), "a class '7', which"),
        ({"1.png": "cow"}, 2, (), "a class 'cow', which the model does not know; wanted indices 0 to 1"),
    ],
)
def test_classes_that_the_model_does_not_have_are_named(tmp_path, labels, classes, names, message):
    touch(tmp_path, *labels)
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    images = load_labelled_images(tmp_path / "labels.json", tmp_path)
    with pytest.raises(InputError, match=message):
        class_indices(images, classes, names)


def test_folders_must_be_as_many_as_classes_without_names(tmp_path):
    images = load_labelled_images(None, touch(tmp_path, "cat/1.png", "dog/2.png"))
    with pytest.raises(InputError, match="has 2 class folders, and the model 3 classes without names"):
        class_indices(images, 3, ())


# -- Scores


def test_classes_at_the_front_that_labels_do_not_have_are_left_out():
    outputs = {"any name": np.array([[9, 1, 3, 2]], np.float32)}
    np.testing.assert_array_equal(decode(outputs, Postprocessing("classification")), [9, 1, 3, 2])
    np.testing.assert_array_equal(decode(outputs, Postprocessing("classification", options={"offset": 1})), [1, 3, 2])
    maps = {"map": np.arange(3, dtype=np.float32).reshape(1, 3, 1, 1), "other": np.zeros(4, np.float32)}
    np.testing.assert_array_equal(decode(maps, Postprocessing("classification", {"scores": "map"})), [0, 1, 2])


@pytest.mark.parametrize(
    ("shape", "post", "error", "message"),
    [
        ((2, 5), Postprocessing("classification"), ModelError, r"found scores \(2, 5\)"),
        ((5,), Postprocessing("classification"), ModelError, r"wanted scores \(1, classes\)"),
        ((1, 5, 2, 2), Postprocessing("classification"), ModelError, r"found scores \(1, 5, 2, 2\)"),
        ((1, 2), Postprocessing("classification", options={"offset": 1}), ModelError, "after an offset of 1"),
        ((1, 5), Postprocessing("classification", options={"offset": -1}), InputError, "'offset' is -1"),
        ((1, 5), Postprocessing("classification", options={"offset": 0.5}), InputError, "'offset' is 0.5"),
        ((1, 5), Postprocessing("classification", options={"top_k": 5}), InputError, "has no option 'top_k'"),
        ((1, 5), Postprocessing("classification", {"scores": "y"}), ModelError, "the model has no output 'y'"),
        ((1, 5), Postprocessing("classification", {"logits": "x"}), InputError, "has no role 'logits'"),
    ],
)
def test_outputs_that_are_no_class_scores_are_told(shape, post, error, message):
    with pytest.raises(error, match=message):
        decode({"x": np.zeros(shape, np.float32)}, post)


def test_classes_are_counted_as_the_labels_count_them():
    assert count_classes(classifier(TensorSpec("y", "uint8", (1, 1001), "NHWC", 1 / 256), offset=1)) == 1000
    assert count_classes(classifier(TensorSpec("y", "float32", (None, 1, 1, 10), "NHWC"))) == 10
    with pytest.raises(ModelError, match=r"'y' has the shape \(1, None\)"):
        count_classes(classifier(TensorSpec("y", "float32", (1, None))))
    names = tuple("abc")
    with_background = classifier(TensorSpec("y", "float32", (1, 3)), labels=names, offset=1)
    assert class_names(with_background) == ("b", "c")
    with pytest.raises(InputError, match="has 4 classes, but 3 labels"):
        class_names(classifier(TensorSpec("y", "float32", (1, 4)), labels=names))


def test_of_equal_scores_the_lower_class_ranks_first():
    assert rank(np.array([0, 7, 7, 9, 7, 0, 0], np.float32)).tolist() == [3, 1, 2, 4, 0]


@given(st.integers(2, 12), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_accuracy_is_the_share_of_images_that_few_classes_beat(classes, images, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, (images, classes)).astype(np.float32)  # many ties
    truth = rng.integers(0, classes, images)
    places = [
        sum(value > row[true] or (value == row[true] and number < true) for number, value in enumerate(row))
        for row, true in zip(scores, truth, strict=True)
    ]
    found = score(np.stack([rank(row) for row in scores]), truth, classes)
    assert found.top1 == pytest.approx(np.mean([place < 1 for place in places]))
    assert found.top5 == (pytest.approx(np.mean([place < 5 for place in places])) if classes > 5 else None)
    counts = [entry.images or 0 for entry in found.per_class]
    right = [count * (entry.top1 or 0) for count, entry in zip(counts, found.per_class, strict=True)]
    assert sum(counts) == images
    assert sum(right) == pytest.approx((found.top1 or 0) * images)
    assert all((entry.top1 is None) == (entry.images == 0) for entry in found.per_class)


def test_classes_go_by_their_names_or_indices():
    ranked = np.array([[0, 1], [1, 0]])
    truth = np.array([0, 0])
    assert [entry.name for entry in score(ranked, truth, 2).per_class] == ["0", "1"]
    assert [(entry.name, entry.top1) for entry in score(ranked, truth, 2, ("cat", "dog")).per_class] == [
        ("cat", 0.5),
        ("dog", None),
    ]
