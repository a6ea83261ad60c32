"""Some hundred drawn models, the same at every run. `python -m tests.fuzz --minutes 10` draws others."""

from __future__ import annotations

from collections.abc import Callable

import hypothesis

from tests.fuzz.checks import InvalidModelError
from tests.fuzz.exports import RefusedError
from tests.fuzz.grammar import Subject, Wishes, subjects
from tests.fuzz.hunt import check_on_one, refusal_of


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
