"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_DATA = Path(os.environ.get("EDGEQ_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images, annotations and weights; tests that use it are skipped where it is absent."""
    if not (_DATA / "MANIFEST.md").is_file():
        pytest.skip(f"real data not found at {_DATA}; set EDGEQ_DATA to its folder")
    return _DATA
