"""Some hundred drawn models, the same at every run. `python -m tests.fuzz --minutes 10` draws others."""

from __future__ import annotations

from collections.abc import Callable

import hypothesis
import pytest

from tests.fuzz.checks import InvalidModelError
from tests.fuzz.grammar import Subject, Wishes, subjects
from tests.fuzz.hunt import check_on_one
from tests.fuzz.operators import MAKERS

PLAIN = (17, 18, 16, 15, 14, 13)


def always_the_same(models: int) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """Returns hypothesis' settings for models that do not depend on chance, nor on how fast the machine is."""
    return hypothesis.settings(
        max_examples=models, derandomize=True, deadline=None, database=None, print_blob=False,
        suppress_health_check=list(hypothesis.HealthCheck), phases=[hypothesis.Phase.generate],
    )  # fmt: skip


def holds(subject: Subject) -> None:
    """Checks a model; one that no engine of ours computes does not count."""
    try:
        check_on_one(subject)
    except InvalidModelError:
        hypothesis.reject()


@always_the_same(60)
@hypothesis.given(subjects(Wishes(opsets=PLAIN, odd=0, steps=5)))
def test_models(subject):
    holds(subject)


@pytest.mark.parametrize("name", ["Conv"])
def test_single(name):
    assert name in MAKERS
