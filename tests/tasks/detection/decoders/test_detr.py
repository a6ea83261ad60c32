"""DETR and its family, against the post-processing of transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeq.errors import InputError, ModelError
from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.inputs.presets import load_preset
from edgeq.tasks.detection.decoders import get_decoder

# Columns of the logits, and what transformers 5.24.0's `post_process_object_detection` makes of `head` for an image of
# 500x370: the three best boxes and the last of fifty, with score and label.
FOUND: dict[str, tuple[int, list[tuple[list[float], float, int]]]] = {
    "detr": (
        92,
        [
            ([36.129, 313.295, 408.278, 335.276], 0.55822, 85),
            ([310.210, 206.882, 422.345, 237.611], 0.45187, 5),
            ([212.977, 179.804, 500.0, 299.872], 0.42729, 51),
            ([405.492, 34.697, 461.347, 62.727], 0.09217, 52),
        ],
    ),
    "deformable_detr": (
        91,
        [
            ([5.594, 8.013, 78.120, 211.201], 0.99599, 70),
            ([0.0, 176.509, 263.388, 230.771], 0.99413, 37),
            ([134.496, 123.870, 464.469, 239.851], 0.99349, 53),
            ([21.031, 50.351, 375.690, 100.285], 0.97231, 38),
        ],
    ),
    "rtdetr": (
        80,
        [
            ([208.082, 9.726, 239.325, 58.429], 0.99599, 41),
            ([0.0, 0.0, 370.732, 97.936], 0.99413, 59),
            ([419.319, 211.560, 478.726, 370.0], 0.99293, 45),
            ([173.694, 192.145, 437.208, 360.612], 0.96937, 48),
        ],
    ),
}
HEIGHT, WIDTH = 370, 500


def head(columns: int, queries: int = 50) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "logits": rng.normal(-1, 2, (1, queries, columns)).astype(np.float32),
        "pred_boxes": rng.uniform(0.05, 0.9, (1, queries, 4)).astype(np.float32),
    }


@pytest.mark.parametrize("preset", sorted(FOUND))
def test_the_family_finds_what_transformers_finds(preset: str) -> None:
    columns, expected = FOUND[preset]
    loaded = load_preset(preset, (640, 640))
    assert loaded.postprocessing is not None and len(loaded.labels) == columns - (preset == "detr")
    post = Postprocessing("detr", options={**loaded.postprocessing.options, "top_k": 50})
    placement = Placement(WIDTH, HEIGHT, 640, 640, 640 / WIDTH, 640 / HEIGHT, 0, 0)
    found = get_decoder("detr")(head(columns), post, placement)
    assert len(found) == 50
    for row, (box, score, label) in zip((0, 1, 2, -1), expected, strict=True):
        np.testing.assert_allclose(found.boxes[row], box, atol=1e-3)
        assert found.scores[row] == pytest.approx(score, abs=1e-5)
        assert found.classes[row] == label


@pytest.mark.parametrize(
    ("outputs", "options", "error", "message"),
    [
        (head(5), {"activation": "none"}, InputError, "known: softmax, sigmoid"),
        (head(1), {}, ModelError, r"wanted logits \(1, queries, columns\)"),
        (
            head(5) | {"pred_boxes": np.zeros((1, 3, 4))},
            {},
            ModelError,
            r"found logits \(1, 50, 5\), boxes \(1, 3, 4\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    outputs: dict[str, Any], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        get_decoder("detr")(outputs, Postprocessing("detr", options=options), Placement(8, 8, 8, 8, 1, 1, 0, 0))
