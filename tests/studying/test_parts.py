"""The parts of a study on their own: spaces, layers, components, trials, sampling, fronts, importance."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeq.errors import InputError
from edgeq.results.study import FP16, UNIFORM_8
from edgeq.studying import adaptive, importance
from edgeq.studying.answers import pareto_front
from edgeq.studying.bundle_layers import places_of
from edgeq.studying.components import find_components
from edgeq.studying.layers import StudyLayer, find_layers
from edgeq.studying.sampling import draw
from edgeq.studying.space import Space, Variant, parse_axis, read_space, template_names, with_axes
from edgeq.studying.trials import Cell, StudyTrial, plan_trials

DETECTOR = """
<ir_version: 10, opset_import: ["": 18]>
detector (float[1, 3, 32, 32] image) => (float[1, 4, 16, 16] boxes, float[1, 2, 16, 16] scores)
{
    [stem] a = Conv <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (image, w0)
    [deep] b = Conv <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1], group = 8> (a, w1)
    [point] c = Conv <kernel_shape = [1, 1]> (b, w2)
    [up] d = Resize <mode = "nearest"> (c, , scales)
    [merge] e = Conv <kernel_shape = [1, 1]> (d, w3)
    [box] boxes = Conv <kernel_shape = [1, 1]> (e, w4)
    [class] scores = Conv <kernel_shape = [1, 1]> (e, w5)
}
"""
SHAPES = {
    "w0": (8, 3, 3, 3), "w1": (8, 1, 3, 3), "w2": (8, 8, 1, 1), "w3": (8, 8, 1, 1), "w4": (4, 8, 1, 1),
    "w5": (2, 8, 1, 1), "scales": (4,),
}  # fmt: skip


def detector() -> ir.Model:
    constants = [ir.tensor(np.ones(shape, np.float32), name=name) for name, shape in SHAPES.items()]
    return ir.from_onnx_text(DETECTOR, constants)


def test_a_detector_has_a_backbone_a_neck_behind_what_enlarges_and_heads():
    assert find_components(detector()) == {
        "stem": "backbone", "deep": "backbone", "point": "backbone", "merge": "neck", "box": "head", "class": "head",
    }  # fmt: skip


def test_layers_have_kinds_and_groups_of_blocks():
    layers = {each.name: each for each in find_layers(detector(), 3)}
    assert {name: each.kind for name, each in layers.items()} == {
        "stem": "first", "deep": "depthwise", "point": "convolution", "merge": "convolution", "box": "last",
        "class": "last",
    }  # fmt: skip
    assert [each.block for each in layers.values()] == ["front", "front", "middle", "middle", "end", "end"]
    assert (layers["deep"].outputs, layers["deep"].inputs) == (8, 9)


def test_layers_of_a_model_in_parts_are_placed_by_their_names():
    names = ["embeddings.patch", "encoder.layers.0.self_attn.q_proj", "encoder.layers.3.mlp.fc1", "head"]
    assert places_of(names, 3) == [(0, "first"), (0, "attention"), (2, "feed-forward"), (2, "last")]
    assert places_of(["h.0.attn.c_attn", "h.1.mlp.c_fc"], 2) == [(0, "attention"), (1, "feed-forward")]
    # Without blocks, as a connector is.
    assert places_of(["linear_1", "linear_2"], 2) == [(0, "feed-forward"), (1, "feed-forward")]


def test_further_choices_add_their_trials_and_each_is_tried_once():
    space = read_space(None, "vlm-components")
    layers = [dataclasses.replace(each, component=part, name=f"{part}/{each.name}") for part in ("vision", "decoder")
              for each in layers_of()]  # fmt: skip
    planned = plan_trials(space, layers, "grid", None, 0)
    # 4 bits x 3 subsets of two components x 7 of blocks x 3 of kinds, and 6 bits of each of two, by two methods.
    assert (planned.asked, planned.space) == (4 * 3 * 7 * 3 + 2 * 6**2,) * 2
    assert len(planned.trials) == planned.asked + 2
    assert {each.method for each in planned.trials} == {"", "rtn", "gptq", "awq"}
    fewer = with_axes(space, {"bits": ("2", "4")}, None, None)
    assert len(plan_trials(fewer, layers, "grid", None, 0).trials) == 2 * 3 * 7 * 3 + 2 * 2**2 + 2
    with pytest.raises(InputError, match="`sample` random: the space has several grids"):
        plan_trials(space, layers, "random", 5, 0)


def layers_of(blocks: int = 3) -> tuple[StudyLayer, ...]:
    names = ("front", "middle", "end")[:blocks]
    kinds = ("attention", "feed-forward")
    inner = [
        StudyLayer(f"{block}.{kind}", f"{block}.{kind}.w", "backbone", block, kind, 16, 32)
        for block, kind in itertools.product(names, kinds)
    ]
    first = StudyLayer("patch", "patch.w", "backbone", "front", "first", 16, 8)
    last = StudyLayer("head", "head.w", "head", "end", "last", 4, 16)
    return (first, *inner, last)


def test_the_grid_of_the_literature_has_its_number_of_trials():
    """4 bits x 7 subsets of blocks x 3 of kinds, and the two marks."""
    space = Space(bits=(2, 4, 6, 8), granularity=("tensor",), block=("subsets",), layer=("subsets",))
    planned = plan_trials(space, layers_of(), "grid", None, 0)
    assert planned.space == planned.asked == 4 * 7 * 3
    assert [each.name for each in planned.trials if "throughout" in each.name] == [FP16, UNIFORM_8]
    assert len(planned.trials) == 2 + 4 * 7 * 3
    assert planned.notes == ()
    # First and last layers are left alone unless they are named.
    assert all({"patch", "head"}.isdisjoint(each.weights) for each in planned.trials)
    named = plan_trials(
        dataclasses.replace(space, layer=("first+last",), component=("all",)), layers_of(), "grid", None, 0
    )
    assert {name for each in named.trials[1:-1] for name in each.weights} == {"patch", "head"}


def test_in_a_mixed_study_each_cell_has_bits_of_its_own():
    space = Space(bits=(2, 4, 16), block=("each",), mixed=True)
    planned = plan_trials(space, layers_of(), "grid", None, 0)
    assert planned.space == 3**3
    # All at 16 is the mark, so it is not tried again.
    assert len(planned.trials) == 27 + 1
    trial = next(each for each in planned.trials if each.name.startswith("2-4-16 "))
    assert {name: variant.bits for name, variant in trial.weights.items()} == {
        "front.attention": 2, "front.feed-forward": 2, "middle.attention": 4, "middle.feed-forward": 4,
    }  # fmt: skip
    with pytest.raises(InputError, match="each layer is of one cell"):
        plan_trials(Space(block=("front", "front+end"), mixed=True), layers_of(), "grid", None, 0)


def test_methods_that_read_images_are_tried_with_each_number_of_them():
    space = Space(bits=(4,), method=("rtn", "gptq"), calibration=(16, 64))
    names = {each.name for each in plan_trials(space, layers_of(), "grid", None, 0).trials[1:-1]}
    assert names == {f"w4 {stored}: all layers" for stored in ("rtn g32", "gptq g32 c16", "gptq g32 c64")}
    assert (space.most_images(256), Space().most_images(256)) == (64, 256)
    mixed = plan_trials(dataclasses.replace(space, mixed=True), layers_of(), "grid", None, 0)
    assert {each.calibration for each in mixed.trials} == {0, 16, 64}
    with pytest.raises(InputError, match="rtn reads no images; add a method that does"):
        Space(calibration=(16,))
    with pytest.raises(InputError, match="the axis calibration has 0: wanted images, 1 to"):
        Space(method=("gptq",), calibration=(0, 16))


def test_around_a_pair_lie_its_neighbours_and_its_mixtures():
    grid = _Grid((6, 2, 9))
    found = adaptive._around([(0, 0, 4), (5, 1, 8)], grid, np.random.default_rng(0))
    steps = {(1, 0, 4), (0, 1, 4), (0, 0, 3), (0, 0, 5), (4, 1, 8), (5, 0, 8), (5, 1, 7)}
    assert steps <= set(found)
    mixtures = set(itertools.product((0, 5), (0, 1), (4, 8)))
    assert set(found) - steps <= mixtures and len(set(found)) == len(found)


class _Grid:
    """A grid without trials."""

    cells: tuple[Cell, ...] = ()
    refused = False

    def __init__(self, lengths: tuple[int, ...]) -> None:
        self.lengths = lengths

    def trial(self, choice: Sequence[int]) -> StudyTrial | None:
        return None


def test_what_cannot_be_is_said_and_not_run():
    space = Space(bits=(4,), granularity=("tensor", 32), method=("rtn", "gptq"), layer=("attention", "depthwise"))
    planned = plan_trials(space, layers_of(), "grid", None, 0)
    assert any("no depthwise" in note for note in planned.notes)
    assert any("for rtn" in note for note in planned.notes)
    assert {str(each.variant) for each in planned.trials[1:-1]} == {"w4 rtn tensor", "w4 rtn g32", "w4 gptq g32"}


@pytest.mark.parametrize("sample", ["random", "sobol"])
def test_samples_repeat_with_their_seed_and_hold_no_point_twice(sample):
    if sample == "sobol":
        pytest.importorskip("scipy")
    lengths = (6, 2, *[4] * 9)
    one = draw(lengths, sample, 50, 3, 10**5)
    assert one == draw(lengths, sample, 50, 3, 10**5) != draw(lengths, sample, 50, 4, 10**5)
    assert len(set(one)) == 50
    assert all(0 <= index < length for point in one for index, length in zip(point, lengths, strict=True))
    # An adaptive study draws a third of them first.
    assert draw(lengths, "adaptive", 50, 3, 10**5) == draw(lengths, "random", 17, 3, 10**5)
    # More than there are is all of them.
    assert sorted(draw((2, 3), sample, 50, 0, 100)) == draw((2, 3), "grid", None, 0, 100)


def test_spaces_are_read_from_templates_files_and_command_lines(tmp_path):
    for name in template_names():
        assert read_space(None, name).question.endswith("?")
    file = tmp_path / "space.toml"
    file.write_text('blocks = 4\nmixed = true\n[axes]\nbits = [2, 3]\ngranularity = ["row", 64]\n')
    space = with_axes(
        read_space(file, None), dict([parse_axis("bits=4, 8"), parse_axis("granularity=row,16")]), None, None
    )
    assert (space.bits, space.granularity, space.blocks, space.mixed) == ((4, 8), ("row", 16), 4, True)
    file.write_text("[axes]\nbits = [1]\n")
    with pytest.raises(InputError, match="the axis bits has 1: wanted 2 to 8"):
        read_space(file, None)
    file.write_text("[axes]\nbit = [2]\n")
    with pytest.raises(InputError, match=r"\$\.axes"):
        read_space(file, None)
    for text, said in (("bits", "wanted NAME=VALUE"), ("depth=3", "no axis 'depth'"), ("method=best", "wanted rtn")):
        with pytest.raises(InputError, match=said):
            with_axes(Space(), dict([parse_axis(text)]), None, None)


@given(
    bits=st.integers(2, 8), outputs=st.integers(1, 40), inputs=st.integers(1, 100),
    granularity=st.sampled_from(["row", "tensor", 8, 32]),
)  # fmt: skip
def test_stored_bits_are_those_of_the_quantized_weight(bits, outputs, inputs, granularity):
    variant = Variant(bits, granularity, "rtn")
    from edgeq.quantizers import get_weight_method

    matrix = np.random.default_rng(0).normal(size=(outputs, inputs)).astype(np.float32)
    quantized = get_weight_method("round")(matrix, variant.scheme, {})
    zero_bits = 32 if quantized.zero_point.dtype == np.float32 else bits
    stored = bits * matrix.size + 32 * quantized.scale.size + zero_bits * quantized.zero_point.size
    assert variant.stored_bits(outputs, inputs) == stored


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_the_front_holds_one_of_each_that_nothing_betters(points):
    front = pareto_front(points)
    bettered = {
        number for number, (a, b) in enumerate(points)
        if any(c <= a and d <= b and (c, d) != (a, b) for c, d in points)
    }  # fmt: skip
    assert front.isdisjoint(bettered)
    assert {points[number] for number in front} == {points[n] for n in range(len(points)) if n not in bettered}


def trials_of(bits: tuple[int, ...]) -> list[StudyTrial]:
    space = Space(bits=(*bits, 16), granularity=("row",), block=("each",), mixed=True)
    return list(plan_trials(space, layers_of(), "grid", None, 0).trials)


@pytest.mark.skipif(importlib.util.find_spec("sklearn") is None, reason="scikit-learn is not installed")
def test_importance_finds_the_part_that_the_score_depends_on(monkeypatch):
    monkeypatch.setattr(importance.fit, "__kwdefaults__", {"bootstraps": 4, "repeats": 5, "trees": 20})
    trials = trials_of((2, 4, 8))
    bits = [{name.partition(".")[0]: each.bits for name, each in trial.weights.items()} for trial in trials]
    # The middle costs nothing.
    lost = np.array([10 * (16 - each.get("front", 16)) + 16 - each.get("end", 16) for each in bits], float)
    found, notes = importance.importances(trials, lost.tolist(), layers_of(), 0)
    # Attention and feed-forward have the same bits in each trial, so nothing tells them apart.
    (by_block,) = found
    front, middle, end = by_block.parts
    assert front.consensus > 0.9
    assert front.forest.value > end.forest.value > middle.forest.value
    assert sum(each.consensus for each in by_block.parts) == pytest.approx(1)
    assert front.permutation.low <= front.permutation.value <= front.permutation.high
    assert by_block.forest_r2 > 0.8
    assert by_block.linear_r2 > 0.99
    assert (front.shap is None) == (importlib.util.find_spec("shap") is None)
    assert not any("carry" in note for note in notes)
    # The same seed gives the same; noise carries nothing, and that is said.
    assert importance.importances(trials, lost.tolist(), layers_of(), 0)[0] == found
    noise = np.random.default_rng(0).normal(size=len(trials)).tolist()
    assert any("does not carry" in note for note in importance.importances(trials, noise, layers_of(), 0)[1])
    assert any("never moves" in note for note in importance.importances(trials, [0.0] * len(trials), layers_of(), 0)[1])


def test_too_few_trials_for_a_forest_are_one_line():
    trials = trials_of((2,))
    found, notes = importance.importances(trials, list(range(len(trials))), layers_of(), 0)
    assert found == ()
    assert len(notes) >= 1
    assert all("\n" not in note for note in notes)
