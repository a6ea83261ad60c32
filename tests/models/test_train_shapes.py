"""The training reads its images right and learns; the weights that ship are what it says they are."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgeq.tasks.detection.shapes import CATEGORIES, DrawnImage

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from edgeq.models import train_shapes  # noqa: E402
from edgeq.models.centernet import CenterNet  # noqa: E402
from edgeq.models.train_shapes import INPUT_PX, augment, make_batch, make_example, make_model, score, train  # noqa: E402
from edgeq.models.zoo import load_model, read_metadata, read_weights, shipped_weights  # noqa: E402


@pytest.fixture(autouse=True)
def _one_thread():
    """Two threads that wait for each other are many times slower where the cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def white_box(height, width, x, y, w, h):
    """A drawn image with one white rectangle on black."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[y : y + h, x : x + w] = 255
    return DrawnImage(pixels, pixels[:, :, 0] // 255, np.array([1]), np.array([[x, y, w, h]]), np.array([w * h]))


@pytest.mark.parametrize(("height", "width"), [(256, 256), (210, 330), (330, 210), (128, 100)])
def test_a_box_lies_where_its_shape_is_drawn(monkeypatch, height, width):
    # Bilinear sampling moves an edge by fractions of a pixel to either side; over several places that is evened out.
    errors = []
    for place in range(20, 36):
        drawn = white_box(height, width, place, place, 40, 60)
        monkeypatch.setattr(train_shapes, "draw_image", lambda *_, drawn=drawn: drawn)
        example = make_example(0, 0)
        mass = example.pixels[0].astype(float)
        middles = np.arange(INPUT_PX) + 0.5
        left, top, right, bottom = example.boxes[0]
        errors.append(mass.sum(0) @ middles / mass.sum() - (left + right) / 2)
        errors.append(mass.sum(1) @ middles / mass.sum() - (top + bottom) / 2)
        assert mass.sum() / 255 == pytest.approx((right - left) * (bottom - top), rel=0.05)
    assert abs(np.mean(errors)) < 0.02 and np.abs(errors).max() < 0.3


def test_augmented_boxes_stay_around_their_shapes(monkeypatch):
    monkeypatch.setattr(train_shapes, "draw_image", lambda *_: white_box(INPUT_PX, INPUT_PX, 20, 30, 40, 60))
    example = make_example(0, 0)
    seen = set()
    for seed in range(30):
        found = augment(example, np.random.default_rng(seed))
        rows, columns = np.nonzero(found.pixels[0])
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert found.boxes.tolist() == [box]
        seen.add(tuple(box))
    assert len(seen) == 4  # as drawn, mirrored, transposed, both
    assert example.boxes.tolist() == [[20, 30, 60, 90]]


def test_the_slim_model_answers_at_a_quarter_of_the_size():
    shapes = [tuple(output.shape) for output in make_model()(torch.zeros(2, 3, 64, 96))]
    assert shapes == [(2, len(CATEGORIES), 16, 24), (2, 2, 16, 24), (2, 2, 16, 24)]


def test_inputs_are_normalised_as_the_preset_does(monkeypatch):
    example = make_example(1, 0)
    inputs, targets = make_batch([example])
    from edgeq.inputs.preprocessing import preprocess
    from edgeq.inputs.presets import load_preset
    from edgeq.tasks.detection.shapes import draw_image

    expected, _ = preprocess(draw_image(1, 0).pixels, load_preset("centernet", (INPUT_PX, INPUT_PX)).preprocessing)
    np.testing.assert_allclose(inputs.numpy(), expected, atol=0.51 / 255 / 0.274)  # pixels are kept as whole numbers
    assert len(targets.sizes) == len(example.labels)


def test_the_loss_falls_on_one_batch():
    torch.manual_seed(0)
    example = make_example(1, 0)
    losses = list(train(make_model(), [example] * 8, epochs=6, batch=2))
    assert losses[-1] < losses[0] / 2


def test_stored_weights_are_half_kernels_and_whole_statistics(tmp_path, monkeypatch):
    monkeypatch.setattr(train_shapes, "VALIDATION_IMAGES", 1)
    torch.manual_seed(0)
    model = make_model()
    scores = train_shapes.store(model.state_dict(), tmp_path / "w.safetensors")
    metadata = read_metadata(tmp_path / "w.safetensors")
    assert metadata["labels"].split(",") == list(CATEGORIES)
    assert metadata["validation_AP"] == f"{scores.numbers['AP']:.4f}"
    loaded = load_model("centernet_shapes", tmp_path / "w.safetensors").state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(loaded[key], value.half().float() if value.ndim > 1 else value)


def test_the_shipped_weights_are_small_and_say_what_they_are():
    path = shipped_weights("centernet_shapes")
    assert path is not None and path.stat().st_size < 3_100_000
    metadata = read_metadata(path)
    assert metadata["labels"].split(",") == list(CATEGORIES)
    assert metadata["input_size"] == f"{INPUT_PX}x{INPUT_PX}"
    model = CenterNet(num_classes=len(CATEGORIES), **json.loads(metadata["architecture"]))
    stored = read_weights(path)
    assert {key: value.shape for key, value in model.state_dict().items() if "num_batches" not in key} == {
        key: value.shape for key, value in stored.items()
    }
    assert all(bool(value.isfinite().all()) for value in stored.values())


def shipped_detector():
    model = load_model("centernet_shapes")
    assert isinstance(model, CenterNet)
    return model


def test_the_shipped_detector_finds_shapes_it_never_saw():
    numbers = score(shipped_detector(), images=40, seed=31).numbers
    assert (numbers["AP"] or 0) > 0.6
    assert (numbers["AP_small"] or 0) > 0.5


@pytest.mark.slow
def test_the_stated_ap_is_what_the_stored_weights_reach():
    path = shipped_weights("centernet_shapes")
    assert path is not None
    numbers = score(shipped_detector(), train_shapes.VALIDATION_IMAGES, train_shapes.VALIDATION_SEED).numbers
    assert numbers["AP"] == pytest.approx(float(read_metadata(path)["validation_AP"]), abs=0.003)
