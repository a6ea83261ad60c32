"""Some hundred drawn models, the same at every run. `python -m tests.fuzz --minutes 10` draws others."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import hypothesis
import onnx
import pytest

from tests.fuzz.checks import check
from tests.fuzz.choices import Repeated
from tests.fuzz.expected import InvalidModelError
from tests.fuzz.exports import FaultError, RefusedError
from tests.fuzz.grammar import OPSETS, Subject, Wishes, alone, subjects
from tests.fuzz.hunt import Hunt, check_on_one, refusal_of
from tests.fuzz.noise import nameless, session
from tests.fuzz.operators import MAKERS


def always_the_same(models: int) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """Returns hypothesis' settings for models that do not depend on chance, nor on how fast the machine is.

    A failing one is not shrunk: `python -m tests.fuzz --seed` does it, in less time.
    """
    return hypothesis.settings(
        max_examples=models, derandomize=True, deadline=None, database=None, print_blob=False,
        suppress_health_check=list(hypothesis.HealthCheck), phases=[hypothesis.Phase.generate],
    )  # fmt: skip


def holds(subject: Subject) -> None:
    """Checks a model; one that no engine of ours computes does not count, nor does a refusal that is listed."""
    try:
        check_on_one(subject)
    except InvalidModelError:
        hypothesis.reject()
    except RefusedError as refused:
        if refusal_of(refused) is None:
            raise


@always_the_same(110)
@hypothesis.given(subjects(Wishes(opsets=(17, 18, 13), odd=0, steps=5)))
def test_models_of_common_opsets(subject):
    holds(subject)


@always_the_same(100)
@hypothesis.given(subjects(Wishes(steps=4)))
def test_models_of_all_opsets_with_odd_names_and_constants(subject):
    holds(subject)


@pytest.mark.parametrize("operator", list(MAKERS))
def test_every_maker_makes_a_model_that_an_engine_computes(operator):
    subject = alone(operator, Repeated(()), (*OPSETS, 24))
    onnx.checker.check_model(subject.model, full_check=True)
    session(nameless(subject.model)).run(None, dict(subject.samples[0]))


@pytest.mark.parametrize(("operator", "opset"), [("BitwiseAnd", 18)])
def test_refusals_that_are_right_are_made(operator, opset):
    with pytest.raises(RefusedError) as refused:
        check(alone(operator, Repeated(()), [opset]), ["jetson-orin"])
    assert refusal_of(refused.value) is not None


def test_a_failing_model_is_made_smaller():
    def judge(subject: Subject) -> None:
        if any(node.op_type == "LpPool" for node in subject.model.graph.node):
            raise FaultError("an LpPool", "is there")

    one = Hunt(Wishes(opsets=(17,), odd=0), judge)
    found = next(found for seed in itertools.count() if (found := one.one(seed)) is not None)
    assert len(found.subject.model.graph.node) <= 3
    assert Subject.read(found.subject.text).model.graph.node == found.subject.model.graph.node
