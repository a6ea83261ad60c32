"""What loading edgeq loads: heavy libraries only inside the functions that need them."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from tests.test_order import ROOT, find_modules

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# ruff enforces this list statement by statement; the tests below watch what really happens.
HEAVY = PYPROJECT["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-module-level-imports"]
# Light enough to load with any module that needs them.
LIGHT = {"msgspec", "numpy", "rich", "tomli", "typer"}
IMPORT_NAMES = {"pillow": "PIL", "pyyaml": "yaml"}

# Loads modules one by one and prints those that brought a heavy library along, with its name.
WATCH = """
import importlib, json, sys
modules, heavy = json.loads(sys.argv[1])
guilty, known = {}, set()
for module in modules:
    importlib.import_module(module)
    if new := {name for name in heavy if name in sys.modules} - known:
        guilty[module] = sorted(new)
        known |= new
print(json.dumps(guilty))
"""


def loaded_by(modules: list[str], heavy: list[str]) -> dict[str, list[str]]:
    """Returns module -> heavy libraries that importing it loaded, in a fresh interpreter."""
    command = [sys.executable, "-c", WATCH, json.dumps([modules, heavy])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    guilty: dict[str, list[str]] = json.loads(done.stdout)
    return guilty


def test_no_module_loads_a_heavy_library():
    modules = [name for name in find_modules(ROOT) if re.match(r"edgeq(?!\.models)", name)]
    assert len(modules) > 10
    assert loaded_by(modules, HEAVY) == {}


def test_a_heavy_library_would_be_noticed():
    assert loaded_by(["edgeq.errors", "PIL.Image", "PIL.ImageOps"], ["torch", "PIL"]) == {"PIL.Image": ["PIL"]}


def test_the_api_loads_the_standard_library_only():
    # -S leaves out site-packages: whatever is not in the standard library cannot be found.
    program = "import sys; sys.path.insert(0, sys.argv[1]); import edgeq; print(edgeq.__version__)"
    command = [sys.executable, "-S", "-c", program, str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_loads_no_heavy_library():
    command = [sys.executable, "-X", "importtime", "-m", "edgeq", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "edgeq.cli.app" in loaded
    assert loaded.isdisjoint({*HEAVY, "numpy"})


@pytest.mark.parametrize("extra", ["base", "benchmarks", "export", "faster", "onnx", "openvino"])
def test_every_dependency_is_light_or_banned(extra):
    project = PYPROJECT["project"]
    requirements = project["dependencies"] if extra == "base" else project["optional-dependencies"][extra]
    others = [requirement for requirement in requirements if not requirement.startswith("edgeq[")]
    names = [re.match(r"[\w-]+", requirement)[0] for requirement in others]  # type: ignore[index]
    imported = {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in names}
    assert imported - LIGHT <= set(HEAVY)
