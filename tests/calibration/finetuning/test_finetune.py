from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from edgeq.calibration.finetuning import training
from edgeq.calibration.finetuning.checkpoint import Checkpoint
from edgeq.calibration.finetuning.finetune import finetune
from edgeq.calibration.finetuning.student import Student
from edgeq.calibration.finetuning.training import Settings, relative_error
from edgeq.errors import InputError, ModelError
from edgeq.exporting.graphs.graph import copy_graph
from edgeq.exporting.jobs import PlannedModel
from edgeq.exporting.onnx.qdq import insert_qdq
from edgeq.exporting.onnx.writer import FloatModel
from edgeq.exporting.planning.plan import QuantPlan, make_plan
from edgeq.exporting.planning.saturation import SaturationGuard
from edgeq.exporting.planning.selection import select_layers
from edgeq.schemes import FLOAT32, INT8_WEIGHT, INT32, UINT8, LayerScheme, Scheme
from edgeq.targets import get_target
from tests.exporting import nets
from tests.exporting.test_qdq import ranges_for

TEXT = (
    "g (float[1,3,8,8] x) => (float[1,6] y) { c = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(c) "
    "d = Conv<pads=[1,1,1,1]>(r, v, b) s = Add(d, r) t = Relu(s) p = GlobalAveragePool(t) f = Flatten(p) "
    "y = Gemm(f, head, last) }"
)
FEEDS = [{"x": nets.normal(seed, 1, 3, 8, 8)} for seed in range(100, 164)]
SETTINGS = Settings(epochs=4)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "edgeq" / "finetuning"


def planned(text: str = TEXT, *, bits: int = 4, isa: Any = "vnni", bias: Scheme = INT32) -> PlannedModel:
    """A net of which every layer has weights of few bits."""
    weights = {"w": nets.normal(1, 16, 3, 3, 3), "v": nets.normal(2, 16, 16, 3, 3) / 8, "b": nets.normal(3, 16)}
    model = nets.graph(text, {**weights, "head": nets.normal(4, 16, 6), "last": nets.normal(5, 6)})
    scheme = LayerScheme(INT8_WEIGHT.with_bits(bits), UINT8, bias)
    schemes = {"Conv": (scheme,), "Gemm": (scheme,), "Add": (scheme.without_weight,)}
    target = get_target("x86-ort")
    target = dataclasses.replace(target, rules=dataclasses.replace(target.rules, schemes=schemes, isa=isa))
    selection = select_layers(model, target.rules.of_any_size)
    ranges = ranges_for(model, np.concatenate([feed["x"] for feed in FEEDS[:1]]), selection.tensors)
    plan = make_plan(model, selection, ranges, target.rules)
    assert len(plan.weights) == 3 and len(plan.biases) == 3 * bias.is_integer
    return PlannedModel(cast(FloatModel, None), target, model, plan, ranges)


def outputs(of: PlannedModel, plan: QuantPlan | None, feeds: list[dict[str, np.ndarray]]) -> np.ndarray:
    """What the file of a plan computes node by node; the float model's without a plan."""
    graph = copy_graph(of.graph)
    if plan is not None:
        insert_qdq(graph, plan, of.target.rules)
    return np.stack([nets.run(graph, feed["x"])[0] for feed in feeds])


def error(of: PlannedModel, plan: QuantPlan) -> float:
    held_out = FEEDS[3::4]
    return relative_error({"y": outputs(of, None, held_out)}, {"y": outputs(of, plan, held_out)})


def assert_same(one: QuantPlan, other: QuantPlan) -> None:
    assert one.tensors == other.tensors
    for name, weight in (*one.weights.items(), *one.biases.items()):
        same = (other.biases if weight.scheme.bits == 32 else other.weights)[name]
        np.testing.assert_array_equal(weight.integers, same.integers)
        np.testing.assert_array_equal(weight.scale, same.scale)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_student_computes_what_the_file_does_before_and_behind_training(bits: int) -> None:
    one = planned(bits=bits)
    student = Student(one)
    assert_same(student.plan(), one.plan)
    stacked = {"x": np.stack([feed["x"] for feed in FEEDS[:8]])}
    scale = np.abs(outputs(one, None, FEEDS[:8])).max()
    for moved in (False, True):
        for layer in student.layers.values() if moved else ():
            layer.weight.data += 0.3
            layer.bias.data *= 0.9
            layer.growth.data += 0.4
        for growth in student.growths.values() if moved else ():
            growth.data -= 20
        found = student.outputs(stacked)["y"].detach().numpy()
        wanted = outputs(one, student.plan(), FEEDS[:8])
        # A sum of float32 in another order may end on the other side of a half.
        assert np.median(np.abs(found - wanted)) < 1e-5 * scale
        assert np.abs(found - wanted).max() < 1e-2 * scale


def test_training_lowers_the_error_on_images_held_out_and_repeats_itself(cache: Path) -> None:
    one = planned()
    plan, facts = finetune(one, FEEDS, SETTINGS, 1)
    before, after = facts["output_error_before"], facts["output_error_after"]
    assert facts["kept"] and (facts["images"], facts["held_out"]) == (64, 16)
    np.testing.assert_allclose([before, after], [error(one, one.plan), error(one, plan)], rtol=0.02)
    assert after < 0.8 * before
    assert not list(cache.iterdir())
    assert_same(finetune(one, FEEDS, SETTINGS, 1)[0], plan)


def test_an_interrupted_training_resumes_to_the_same_integers(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, steps = planned(), 0
    whole, _ = finetune(one, FEEDS, SETTINGS, 1)
    step = training._Run.step

    def step_until_killed(*arguments: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == 8:  # in the third epoch of three steps each
            raise KeyboardInterrupt
        step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training._Run, "step", step_until_killed)
        with pytest.raises(KeyboardInterrupt):
            finetune(one, FEEDS, SETTINGS, 1)
    (kept,) = cache.iterdir()

    def count_step(*arguments: Any) -> None:
        nonlocal steps
        steps += 1
        step(*arguments)

    content = kept.read_bytes()
    steps = 0
    monkeypatch.setattr(training._Run, "step", count_step)
    resumed, _ = finetune(one, FEEDS, SETTINGS, 1)
    assert steps == 2 * 3
    assert_same(resumed, whole)
    kept.write_bytes(content[: len(content) // 2])  # damaged: it begins anew
    steps = 0
    assert_same(finetune(one, FEEDS, SETTINGS, 1)[0], whole)
    assert steps == 4 * 3


def test_what_does_not_help_is_not_kept() -> None:
    one = planned(bits=8)
    plan, facts = finetune(one, FEEDS, Settings(epochs=1, rate=50.0), 1)
    assert plan is one.plan and not facts["kept"]


def test_biases_in_float_stay_as_they_are() -> None:
    one = planned(bias=FLOAT32)
    plan, facts = finetune(one, FEEDS, Settings(epochs=1), 1)
    assert facts["kept"] and not plan.biases
    np.testing.assert_allclose(facts["output_error_after"], error(one, plan), rtol=0.02)


def test_sums_stay_within_16_bits_on_cpus_that_have_no_others() -> None:
    one = planned(bits=8, isa="avx2")
    student = Student(one)
    for layer in student.layers.values():
        layer.weight.data *= 3  # far more saturates than before
    plan, guard = student.plan(), SaturationGuard(one.ranges.channel_maxima)
    for node in one.graph.graph:
        if node.name in plan.weights:
            source = str(node.inputs[0].name) if node.inputs[0] is not None else ""
            grid = {**plan.tied, **plan.tensors}[source]
            weight = plan.weights[str(node.name)]
            assert guard.fit(node, weight.dequantize(), weight, grid) is weight


def test_too_few_images_and_operators_without_gradient_are_told() -> None:
    with pytest.raises(InputError, match="`finetune` 15: wanted at least 16 images"):
        finetune(planned(), FEEDS[:15])
    with pytest.raises(ModelError, match="`finetune`: the operators Hardmax have no gradient here; omit `finetune`"):
        finetune(planned(TEXT.replace("p = ", "h = Hardmax<axis=1>(t) p = ").replace("Pool(t)", "Pool(h)")), FEEDS)


def test_checkpoints_that_nobody_resumes_are_deleted(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = Checkpoint({"job": 1})
    old.save({"a": np.arange(3)})
    monkeypatch.setattr("edgeq.resume._KEPT_S", -1)
    assert Checkpoint({"job": 2}).load() is None
    assert not list(cache.iterdir())
