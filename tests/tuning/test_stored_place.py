"""`edgeq eval --store`: what the store has is not computed again, and the scores are those of a run without it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

import edgeq as package
from edgeq.errors import EngineError, InputError
from edgeq.exporting.artifact import Artifact
from edgeq.files import sha256_file
from edgeq.inputs import ImageFile
from edgeq.runtimes.onnxruntime import OnnxRuntimeSession
from edgeq.tasks.classification.task import ClassificationTask
from edgeq.tuning.store import Store
from edgeq.tuning.stored_place import stored_name, weight_digests
from tests.evaluation.test_evaluate_classifiers import COLOURS, save_colour_finder

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
IMAGES = 70


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        (found / COLOURS[number % 3]).mkdir(exist_ok=True)
        pixels = rng.integers(0, 200, (8, 8, 3), np.uint8)
        pixels[..., number % 3] //= 1 + (number % 5 == 0)
        Image.fromarray(pixels).save(found / COLOURS[number % 3] / f"{number}.png")
    return found


@pytest.fixture
def artifact(tmp_path) -> Artifact:
    return save_colour_finder(tmp_path / "finder.onnx")


@pytest.fixture
def runs(monkeypatch):
    """Counts the runs of the engine; from `runs.limit` on they fail."""
    original = OnnxRuntimeSession.run

    class Runs:
        count, limit = 0, 1 << 30

    def run(self, inputs):
        if Runs.count >= Runs.limit:
            raise EngineError("stopped")
        Runs.count += 1
        return original(self, inputs)

    monkeypatch.setattr(OnnxRuntimeSession, "run", run)
    return Runs


def score(artifact, folder, store=None, **options):
    (result,) = package.evaluate(artifact.path, folder, runtime="onnxruntime", threads=1, store=store, **options)
    return result


def scored(result):
    """Returns a result without its times."""
    return dataclasses.replace(result, inference_images_per_s=None, eval_images_per_s=None)


def test_a_second_evaluation_computes_nothing_and_says_the_same(artifact, folder, runs, tmp_path):
    plain = score(artifact, folder)
    first = score(artifact, folder, tmp_path / "s.sqlite")
    assert runs.count == 2 * IMAGES
    again = score(artifact, folder, tmp_path / "s.sqlite")
    assert runs.count == 2 * IMAGES
    assert scored(plain) == scored(first) == scored(again)
    assert first.inference_images_per_s > 0
    assert (again.inference_images_per_s, again.eval_images_per_s) == (None, None), "nothing was timed"
    with Store(tmp_path / "s.sqlite") as store:
        (row,) = store.rows()
    assert (row.images, row.facts["model"], row.facts["plan"]) == (IMAGES, "finder.onnx", "fp32")


def test_an_interrupted_evaluation_goes_on_where_it_was(artifact, folder, runs, tmp_path):
    runs.limit = 50
    with pytest.raises(EngineError, match="stopped"):
        score(artifact, folder, tmp_path / "s.sqlite")
    runs.count, runs.limit = 0, 1 << 30
    found = score(artifact, folder, tmp_path / "s.sqlite")
    assert runs.count == IMAGES - 32, "32 were kept together, the others of the 50 were not yet"
    assert scored(found) == scored(score(artifact, folder))


def test_only_new_images_are_run_and_unreadable_ones_stay_so(artifact, folder, runs, tmp_path):
    import shutil

    some = tmp_path / "some"
    shutil.copytree(folder, some)
    paths = sorted(some.rglob("*.png"))
    content = paths[0].read_bytes()
    paths[0].write_bytes(content[:40])
    for path in paths[1:11]:
        path.unlink()
    first = score(artifact, some, tmp_path / "s.sqlite")
    assert (runs.count, first.skipped_images) == (IMAGES - 11, (paths[0].name,))
    runs.count = 0
    assert scored(score(artifact, some, tmp_path / "s.sqlite")) == scored(first)
    assert runs.count == 0
    assert scored(score(artifact, folder, tmp_path / "s.sqlite")) == scored(score(artifact, folder))
    assert runs.count == 11 + IMAGES


@pytest.mark.parametrize("change", ["file", "preprocessing", "threads"])
def test_what_changes_the_outputs_is_computed_anew(artifact, folder, runs, tmp_path, change):
    score(artifact, folder, tmp_path / "s.sqlite")
    runs.count = 0
    if change == "file":
        changed = save_colour_finder(tmp_path / "finder.onnx", background=0.25)
    else:
        preprocessing = dataclasses.replace(artifact.preprocessing, mean=(0.4,) * 3)
        changed = artifact if change == "threads" else dataclasses.replace(artifact, preprocessing=preprocessing).save()
    (result,) = package.evaluate(
        changed.path, folder, runtime="onnxruntime", threads=1 + (change == "threads"), store=tmp_path / "s.sqlite"
    )
    assert (runs.count, result.images) == (IMAGES, IMAGES)


def test_images_that_the_truth_is_not_about_are_not_taken_from_the_store(artifact, folder, runs, tmp_path, monkeypatch):
    store = tmp_path / "s.sqlite"
    score(artifact, folder, store)
    original = ClassificationTask.check_image

    def check(self, number, image):
        assert image.shape == (8, 8, 3)
        if number in (3, 7):
            raise InputError(f"{self.paths[number]}: is another image")
        original(self, number, image)

    monkeypatch.setattr(ClassificationTask, "check_image", check)
    messages = []
    for each in (None, store):
        with pytest.raises(InputError, match="is another image") as refused:
            score(artifact, folder, each)
        messages.append(str(refused.value))
    assert messages[0] == messages[1]


def test_a_photo_that_the_truth_wants_turned_otherwise_is_not_taken_from_the_store(tmp_path):
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (12, 8)).save(path, exif=exif)

    class Images:
        max_unreadable = 0.0
        paths = (path,)

        def __init__(self, stated):
            self.items = [ImageFile(path, stated)]

        def check_image(self, number, image):
            assert image.shape == (12, 8, 3)

    names = [stored_name(Images(stated), 0) for stated in (None, (8, 12), (12, 8))]
    assert names == [sha256_file(path), sha256_file(path), None]


def test_a_file_with_weights_of_its_own_is_known_by_them_too(tmp_path):
    artifact = save_colour_finder(tmp_path / "finder.onnx")
    assert weight_digests(artifact) == []
    model = onnx.load(artifact.path)
    onnx.save(model, artifact.path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (before,) = weight_digests(artifact)
    weights = tmp_path / "weights.bin"
    weights.write_bytes(weights.read_bytes()[::-1])
    assert weight_digests(artifact) != [before]


def test_the_command_keeps_predictions_of_this_machine_alone(artifact, folder, edgeq, tmp_path):
    options = ["--images", folder, "--store", tmp_path / "s.sqlite", "--runtime", "onnxruntime", "--threads", 1]
    assert edgeq("eval", artifact.path, *options).code == 0
    assert edgeq("runs", tmp_path / "s.sqlite").out.splitlines()[1].split() == ["1", "fp32", "finder.onnx", str(IMAGES)]
    refused = edgeq("eval", artifact.path, *options, "--device", "ssh://someone@nowhere.invalid")
    assert (refused.code, "--store keeps what this machine computes; omit" in " ".join(refused.err.split())) == (
        1,
        True,
    )
