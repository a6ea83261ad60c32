"""Whatever finite numbers a model gives, a decoder returns boxes in the image, scores in 0..1, best first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.tasks.detection.decoders import get_decoder

HEIGHT, WIDTH = 64, 96
CELLS = {stride: HEIGHT // stride * (WIDTH // stride) for stride in (8, 16, 32)}
_ANCHORS = sum(CELLS.values()) * 2
_SIZES = [[[8.0, 8.0], [16.0, 8.0]]] * 3
_HEADS = {"cls": 1, "obj": 1, "bbox": 4}

# Decoder -> shapes of its outputs, and the options they need.
FORMS: dict[str, tuple[dict[str, tuple[int, ...]], dict[str, Any]]] = {
    "blazeface": ({"regressors": (1, 336, 16), "classificators": (1, 336, 1)}, {}),
    "centernet": ({"hm": (1, 3, 16, 24), "wh": (1, 2, 16, 24), "reg": (1, 2, 16, 24)}, {}),
    "detections": ({"boxes": (1, 9, 4), "scores": (1, 9), "labels": (1, 9), "num_dets": (1,)}, {"relative": True}),
    "detr": ({"logits": (1, 20, 5), "pred_boxes": (1, 20, 4)}, {}),
    "efficientdet": ({"boxes": (1, 126 * 9, 4), "scores": (1, 126 * 9, 3)}, {"levels": [3, 4, 5]}),
    "scored_boxes": ({"boxes": (1, 40, 4), "scores": (1, 40, 3)}, {"relative": True}),
    "scrfd": (
        {f"{k}_{s}": (n * 2, c) for s, n in CELLS.items() for k, c in (("score", 1), ("bbox", 4))},
        {},
    ),
    "selected_boxes": ({"boxes": (1, 20, 4), "scores": (1, 3, 20), "selected_indices": (15, 3)}, {}),
    "ssd": (
        {"boxes": (1, _ANCHORS, 4), "scores": (1, _ANCHORS, 4)},
        {"strides": [8, 16, 32], "anchor_sizes": _SIZES},
    ),
    "yunet": ({f"{k}_{s}": (1, n, c) for s, n in CELLS.items() for k, c in _HEADS.items()}, {}),
}
_ALL_WAYS = [(name, way) for name in sorted(FORMS) for way in ("hard", "soft", "weighted", "none")]
_WAYS = [(name, way) for name, way in _ALL_WAYS if name != "centernet" or way == "none"]


def numbers(seed: int, size: float, shape: tuple[int, ...]) -> np.ndarray:
    """Returns float32 of a spread of 10 to the `size`, among them zeros, ties and the largest there are."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 1, shape) * 10.0 ** rng.uniform(-size, size, shape)
    values[rng.random(shape) < 0.1] = 0
    values[rng.random(shape) < 0.05] = 3.4e38
    values[rng.random(shape) < 0.05] = -3.4e38
    return np.clip(values, -3.4e38, 3.4e38).astype(np.float32)


@pytest.mark.parametrize(("name", "way"), _WAYS)
@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 2, 38]), st.booleans())
def test_any_finite_outputs_are_detections_in_the_image(
    name: str, way: str, seed: int, size: float, aware: bool
) -> None:
    shapes, needed = FORMS[name]
    outputs = {key: numbers(seed + place, size, shape) for place, (key, shape) in enumerate(shapes.items())}
    options = needed if name == "centernet" else needed | {"nms": way, "class_aware": aware, "top_k": 20}
    decode: Callable[..., Any] = get_decoder(name)
    placement = Placement(100, 60, WIDTH, HEIGHT, 0.96, 0.9, 0, 5)
    found = decode(outputs, Postprocessing(name, options=options), placement)
    assert found.boxes.shape == (len(found), 4) and found.classes.shape == found.scores.shape
    assert np.isfinite(found.boxes).all() and np.isfinite(found.scores).all()
    assert (found.boxes >= 0).all() and (found.boxes <= [100, 60, 100, 60]).all()
    assert (found.boxes[:, :2] <= found.boxes[:, 2:]).all() or name in ("scored_boxes", "scrfd", "detr", "centernet")
    assert (found.scores >= 0).all() and (found.scores <= 1).all()
    assert (np.diff(found.scores) <= 0).all()
    assert (found.classes >= 0).all()
