"""The Python API: names that load on first use."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest

import edgeq


@pytest.mark.parametrize("name", edgeq.__all__)
def test_name_is_what_its_module_defines(name):
    assert getattr(edgeq, name) is getattr(importlib.import_module(edgeq._HOME[name]), name)
    assert name in dir(edgeq)


def test_table_all_and_type_checkers_agree():
    source = ast.parse(Path(edgeq.__file__).read_text(encoding="utf-8"))
    block = next(node for node in source.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    seen_by_type_checkers = {alias.name: node.module for node in imports for alias in node.names}
    assert seen_by_type_checkers == edgeq._HOME
    assert edgeq.__all__ == sorted(edgeq._HOME)


def test_no_name_hides_a_module():
    # Importing edgeq.exporting.artifact sets edgeq.exporting to the package: a function of that name would be lost.
    assert {module.name for module in pkgutil.iter_modules(edgeq.__path__)}.isdisjoint(edgeq.__all__)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'edgeq' has no attribute 'Artefact'"):
        _ = edgeq.Artefact
