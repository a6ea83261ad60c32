"""Every file is what it was when `tests/data/golden.json` was recorded (`tests/golden_files.py`)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests import golden_files

SOURCES = golden_files.sources()


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(golden_files.RECORD.read_text())
    return found


@pytest.mark.parametrize("name", SOURCES)
def test_the_files_of_a_model_are_what_they_were(name: str, recorded: dict[str, Any]) -> None:
    source = SOURCES[name]
    if source.data is not None and not (golden_files.DATA / source.data).is_file():
        pytest.skip(f"{source.data} is not in {golden_files.DATA}")
    found = golden_files.versions()
    for package in source.packages:
        if found.get(package) != recorded["versions"].get(package):
            pytest.skip(f"recorded with {package} {recorded['versions'].get(package)}, here is {found.get(package)}")
    wanted = {label: _lasting(digests) for label, digests in recorded["files"][name].items()}
    assert {label: _lasting(digests) for label, digests in golden_files.digests_of(source).items()} == wanted


def _lasting(digests: golden_files.Digests) -> golden_files.Digests:
    """Returns what does not depend on how onnx names, orders and serialises."""
    return {key: value for key, value in digests.items() if key != "bytes"}
