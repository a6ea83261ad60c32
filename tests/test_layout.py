"""What stands in the repository's root, and registry entries that lead somewhere."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_order import REGISTRY_ENTRY, ROOT, ROOT_LINKS, find_modules

_QUOTED = re.compile(r"""["']([^"'\s]+)["']""")


@pytest.mark.parametrize(("name", "package"), sorted(ROOT_LINKS.items()))
def test_root_link_is_relative_and_leads_to_the_folder(name, package):
    assert str((ROOT / name).readlink()) == package.replace(".", "/")
    assert (ROOT / name / "__init__.py").is_file()


def test_ci_and_the_hooks_run_the_same_script():
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert "entry: .ci/run" in hooks
    assert hooks.count("repo:") == hooks.count("repo: local")


def test_ruff_reads_every_module_once():
    # An exclude pattern without a slash fits folders at any depth: one for a root link hides edgeq/exporting as well.
    command = [sys.executable, "-m", "ruff", "check", "--show-files", str(ROOT)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    read = {Path(line) for line in done.stdout.splitlines()}
    assert set(find_modules(ROOT).values()) <= read
    assert [file for file in read if file.relative_to(ROOT).parts[0] in ROOT_LINKS] == []


def _entries() -> list[str]:
    # Every worker collects these: to parse all modules would take each of them three seconds.
    quoted = [
        text for file in find_modules(ROOT).values() for text in _QUOTED.findall(file.read_text(encoding="utf-8"))
    ]
    return sorted({text for text in quoted if REGISTRY_ENTRY.fullmatch(text)})


@pytest.mark.parametrize("entry", _entries())
def test_registry_entry_names_something_that_exists(entry):
    module, _, attribute = entry.partition(":")
    tree = ast.parse(find_modules(ROOT)[module].read_bytes())
    bound = {
        name.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for name in node.targets
        if isinstance(name, ast.Name)
    }
    defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    assert attribute in bound | defined
