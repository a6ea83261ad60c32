"""Models in which the fuzzer found a fault, made smaller by hand; a new one is a file in `found/`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.checks import check
from tests.fuzz.grammar import Subject

FOUND = sorted(Path(__file__).with_name("found").glob("*.onnxtxt"))


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_a_model_that_failed_once_holds_on_every_target(path):
    check(Subject.read(path.read_text(encoding="utf-8")), openvino=True)
