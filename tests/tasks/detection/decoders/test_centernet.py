from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.errors import InputError, ModelError
from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.tasks.detection.decoders.centernet import decode

POST = Postprocessing("centernet")


def placed(height: int, width: int) -> Placement:
    """Returns a placement of a large image that no box leaves, at half its size and moved by (3, 5)."""
    return Placement(10_000, 10_000, width, height, 0.5, 0.5, -2000 + 3, -2000 + 5)


def random_outputs(seed: int, classes: int, height: int, width: int, levels: int) -> dict[str, np.ndarray]:
    """Returns maps whose logits take few values, so that there are plateaus and ties."""
    rng = np.random.default_rng(seed)
    return {
        "hm": (rng.integers(0, levels, (1, classes, height, width)) / levels * 8 - 5).astype(np.float32),
        "wh": rng.uniform(0, 9, (1, 2, height, width)).astype(np.float32),
        "reg": rng.uniform(0, 1, (1, 2, height, width)).astype(np.float32),
    }


def decode_slowly(
    outputs: dict[str, np.ndarray], placement: Placement, stride: int, top_k: int
) -> list[tuple[float, int, tuple[float, ...]]]:
    """The paper's decoding, cell by cell; returns score, class and box, best first."""
    heatmap, size, offset = outputs["hm"][0], outputs["wh"][0], outputs["reg"][0]
    classes, height, width = heatmap.shape
    found = []
    for index in range(classes):
        for row in range(height):
            for column in range(width):
                value = heatmap[index, row, column]
                window = heatmap[index, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
                if value < window.max():
                    continue
                x, y = column + offset[0, row, column], row + offset[1, row, column]
                half_width, half_height = size[0, row, column] / 2, size[1, row, column] / 2
                corners = np.array([x - half_width, y - half_height, x + half_width, y + half_height]) * stride
                corners -= [placement.offset_x, placement.offset_y] * 2
                corners /= [placement.scale_x, placement.scale_y] * 2
                found.append((1 / (1 + math.exp(-value)), index, tuple(corners.tolist())))
    return sorted(found, key=lambda entry: -entry[0])[:top_k]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 4),
    st.integers(1, 40),
    st.integers(1, 12),
    st.sampled_from([1, 2, 6, 10_000]),
    st.integers(1, 20),
)
def test_agrees_with_the_paper_cell_by_cell(
    seed: int, classes: int, height: int, width: int, levels: int, top_k: int
) -> None:
    outputs = random_outputs(seed, classes, height, width, levels)
    placement = placed(height * 4, width * 4)
    found = decode(outputs, Postprocessing("centernet", options={"stride": 4, "top_k": top_k}), placement)
    expected = decode_slowly(outputs, placement, 4, top_k)
    np.testing.assert_allclose(found.scores, [score for score, _, _ in expected], rtol=1e-5)
    assert found.classes.tolist() == [index for _, index, _ in expected]
    np.testing.assert_allclose(found.boxes, [box for _, _, box in expected], rtol=1e-4, atol=1e-2)


def best_peaks(heatmap: np.ndarray, count: int) -> list[tuple[int, ...]]:
    padded = np.pad(heatmap, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    peaks = np.argwhere(heatmap >= np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2)).max(axis=(3, 4)))
    return [tuple(peak) for peak in sorted(peaks.tolist(), key=lambda peak: -heatmap[tuple(peak)])[:count]]


def test_a_map_of_many_classes_loses_no_peak() -> None:
    heatmap = np.random.default_rng(0).normal(-6, 1, (80, 64, 64)).astype(np.float32)
    zeros = np.zeros((1, 2, 64, 64), np.float32)
    found = decode({"hm": heatmap[None], "wh": zeros, "reg": zeros}, POST, Placement(256, 256, 256, 256, 1, 1, 0, 0))
    expected = best_peaks(heatmap, 100)
    assert found.classes.tolist() == [index for index, _, _ in expected]
    np.testing.assert_array_equal(found.boxes[:, :2], [(column * 4, row * 4) for _, row, column in expected])


def test_types_and_shapes() -> None:
    found = decode(random_outputs(0, 3, 20, 20, 10_000), POST, placed(80, 80))
    assert found.boxes.shape == (len(found), 4) and found.boxes.dtype == np.float32
    assert found.scores.shape == (len(found),) and found.scores.dtype == np.float32
    assert found.classes.shape == (len(found),) and found.classes.dtype == np.int64


def test_score_threshold_and_boxes_cut_at_the_image() -> None:
    heatmap = np.full((1, 1, 8, 8), -100.0, np.float32)
    heatmap[0, 0, 1, 1], heatmap[0, 0, 6, 6] = 0.0, 3.0
    outputs = {"hm": heatmap, "wh": np.full((1, 2, 8, 8), 6, np.float32), "reg": np.zeros((1, 2, 8, 8), np.float32)}
    post = Postprocessing("centernet", options={"score_threshold": 0.1})
    found = decode(outputs, post, Placement(32, 32, 32, 32, 1, 1, 0, 0))
    np.testing.assert_allclose(found.scores, [1 / (1 + math.exp(-3)), 0.5], rtol=1e-6)
    np.testing.assert_array_equal(found.boxes, [[12, 12, 32, 32], [0, 0, 16, 16]])


def test_outputs_are_found_by_role() -> None:
    outputs = random_outputs(1, 2, 10, 10, 10_000)
    renamed = {"a": outputs["hm"], "b": outputs["wh"], "c": outputs["reg"]}
    roles = {"heatmap": "a", "size": "b", "offset": "c"}
    expected = decode(outputs, POST, placed(40, 40))
    found = decode(renamed, Postprocessing("centernet", roles), placed(40, 40))
    np.testing.assert_array_equal(found.boxes, expected.boxes)


@pytest.mark.parametrize("changes", [{"wh": None}, {"hm": (1, 2, 10)}, {"wh": (1, 3, 10, 10)}, {"reg": (1, 2, 9, 10)}])
def test_foreign_outputs_are_named_beside_what_is_wanted(changes: dict[str, tuple[int, ...] | None]) -> None:
    outputs = random_outputs(1, 2, 10, 10, 10)
    for name, shape in changes.items():
        if shape is None:
            del outputs[name]
        else:
            outputs[name] = np.zeros(shape, np.float32)
    with pytest.raises(ModelError, match=r"decoder centernet: .*\(1, 2, 10") as caught:
        decode(outputs, POST, placed(40, 40))
    assert "wanted" in str(caught.value) or "no output 'wh'" in str(caught.value)


@pytest.mark.parametrize(
    ("post", "message"),
    [
        (Postprocessing("centernet", {"heat": "hm"}), "no role 'heat', only heatmap, size, offset"),
        (Postprocessing("centernet", options={"k": 5}), "no option 'k', only stride, top_k, score_threshold"),
        (Postprocessing("centernet", options={"top_k": "all"}), "'all', wanted a number"),
    ],
)
def test_unknown_roles_and_options_are_told(post: Postprocessing, message: str) -> None:
    with pytest.raises(InputError, match=message):
        decode(random_outputs(1, 2, 10, 10, 10), post, placed(40, 40))


def test_the_last_stack_of_an_hourglass_is_read_at_any_stride() -> None:
    """Hourglass networks return one dict of heads per stack, of which the last one is the answer."""
    torch = pytest.importorskip("torch")
    from edgeq.models.outputs import tensor_outputs

    maps = [random_outputs(seed, 2, 8, 10, 50) for seed in (1, 2)]

    class Hourglass(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, images: object) -> list[dict[str, object]]:
            return [{name: torch.from_numpy(array) for name, array in each.items()} for each in maps]

    network = tensor_outputs(Hourglass().eval(), torch.zeros(1, 3, 8, 8))
    assert isinstance(network.output_names, tuple)
    outputs = dict(zip(network.output_names, (each.numpy() for each in network(None)), strict=True))
    roles = {"heatmap": "output_1_hm", "size": "output_1_wh", "offset": "output_1_reg"}
    for stride in (2, 8):
        post = Postprocessing("centernet", roles, {"stride": stride, "top_k": 20})
        found = decode(outputs, post, placed(8 * stride, 10 * stride))
        expected = decode_slowly(maps[1], placed(8 * stride, 10 * stride), stride, 20)
        np.testing.assert_allclose(found.scores, [score for score, _, _ in expected], rtol=1e-5)
        matched = sorted(zip(found.scores.round(5).tolist(), found.boxes.round(2).tolist(), strict=True))
        wanted = sorted((round(score, 5), np.round(box, 2).tolist()) for score, _, box in expected)
        np.testing.assert_allclose([box for _, box in matched], [box for _, box in wanted], atol=0.02)
