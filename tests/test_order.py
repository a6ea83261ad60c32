"""The one-way order of the modules, read from their import statements.

Imports inside functions, under `TYPE_CHECKING` and in registry tables (`"edgeq.module:attribute"`) count as well: the
order is about what a module knows, not about when it is loaded.
"""

from __future__ import annotations

import ast
import graphlib
import importlib.util
import re
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Level:
    """Modules and packages directly under `edgeq`. They may import from every level below their own.

    Attributes:
        names: The modules of this level.
        mixed: Whether they may import each other.
        only_for: Levels above that may import from this one; `None` means all.
    """

    names: frozenset[str]
    mixed: bool = True
    only_for: frozenset[str] | None = None


# Lowest first. A new module or package under edgeq/ is entered here, and nowhere else.
LEVELS = (
    Level(
        frozenset(
            {
                "boundary",
                "errors",
                "events",
                "files",
                "machine",
                "notes",
                "packing",
                "progress",
                "project",
                "refusals",
                "registry",
                "resume",
                "schemes",
                "wording",
            }
        )
    ),
    Level(frozenset({"sensors"})),
    Level(frozenset({"calibrators", "quantizers", "targets"}), mixed=False),
    Level(frozenset({"exporting"})),
    # What commands find out, as values and as files: every command makes or reads them.
    Level(frozenset({"results"})),
    # What descriptions of language models say, without opening one.
    Level(frozenset({"memory"})),
    Level(frozenset({"runtimes"})),
    Level(frozenset({"inputs"})),
    Level(frozenset({"datasets"})),
    Level(frozenset({"tasks"})),
    # The only place that imports torch on load: nothing that a device runs may reach it.
    Level(frozenset({"models"}), only_for=frozenset({"sources", "verbs", "benchmarks"})),
    Level(frozenset({"sources"})),
    Level(frozenset({"devices"})),
    Level(frozenset({"calibration"})),
    # One model as several files.
    Level(frozenset({"bundles"})),
    # Text from such a model, to score and to time it.
    Level(frozenset({"generation"})),
    Level(frozenset({"evaluation"})),
    Level(frozenset({"measurement"})),
    Level(frozenset({"reporting"})),
    Level(frozenset({"tuning"})),
    Level(frozenset({"studying"})),
    Level(frozenset({"deploying"})),
    Level(frozenset({"verbs"})),
    # The functions of the public API; the command line may not take shortcuts through them.
    Level(frozenset({"api"})),
    # edgeq/__init__.py: the public API, not for the modules behind it.
    Level(frozenset({"edgeq"})),
    Level(frozenset({"cli", "__main__"})),
    Level(frozenset({"benchmarks"})),
)
# The links of the repository's root are for reading. As import names they work only where the root is on the path.
ROOT_LINKS = {
    "calibrators": "edgeq.calibrators", "export": "edgeq.exporting", "runtimes": "edgeq.runtimes",
    "targets": "edgeq.targets",
}  # fmt: skip
"""Link -> the package that it leads to. `edgeq.exporting` is the function of the public API."""
REGISTRY_ENTRY = re.compile(r"(edgeq(?:\.\w+)+):\w+")


@dataclass(frozen=True)
class Import:
    """One module knows another; `on_load` where loading the first loads the second."""

    importer: str
    imported: str
    place: str
    on_load: bool


def find_modules(root: Path) -> dict[str, Path]:
    """Returns dotted name -> file of every module in `edgeq/` and `benchmarks/` of a source tree."""
    files = [file for folder in ("edgeq", "benchmarks") for file in sorted((root / folder).rglob("*.py"))]
    return {".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def find_imports(root: Path) -> list[Import]:
    """Returns what every module of a source tree imports."""
    modules = find_modules(root)
    return [
        Import(importer, imported, f"{file.relative_to(root)}:{line}", on_load)
        for importer, file in modules.items()
        for node, on_load in _nodes(ast.parse(file.read_bytes()), on_load=True)
        for imported, line in _imported(node, _package(importer, file), modules)
    ]


def find_violations(root: Path) -> list[str]:
    """Returns one line for every import of a source tree that goes against the order."""
    unknown = [f"{module}: {_unknown(name)}" for module in find_modules(root) if _level(name := _top(module)) is None]
    complaints = [f"{found.place}: {why}" for found in find_imports(root) if (why := _complaint(found))]
    return sorted({*unknown, *complaints})


def find_circle(root: Path) -> list[str]:
    """Returns the modules of one circle of imports that run on load, or nothing."""
    graph: dict[str, set[str]] = {}
    for found in find_imports(root):
        # The lazy names of edgeq/__init__.py load nothing; a package under way may import from itself.
        if found.on_load and found.importer not in ("edgeq", found.imported):
            graph.setdefault(found.importer, set()).add(found.imported)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def _nodes(node: ast.AST, *, on_load: bool) -> Iterator[tuple[ast.AST, bool]]:
    yield node, on_load
    deferred = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    unseen = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    for child in ast.iter_child_nodes(node):
        yield from _nodes(child, on_load=on_load and not deferred and not unseen)


def _imported(node: ast.AST, package: str, modules: Container[str]) -> Iterator[tuple[str, int]]:
    if isinstance(node, ast.Import):
        # `import edgeq` by itself tells nothing: what is taken from it counts.
        yield from ((alias.name, node.lineno) for alias in node.names if alias.name != "edgeq")
    elif isinstance(node, ast.Attribute) and _is_edgeq(node.value) and node.attr != "__version__":
        yield f"edgeq.{node.attr}" if f"edgeq.{node.attr}" in modules else "edgeq", node.lineno
    elif isinstance(node, ast.ImportFrom):
        source = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
        for alias in node.names:
            submodule = f"{source}.{alias.name}"
            if submodule != "edgeq.__version__":
                yield submodule if submodule in modules else source, node.lineno
    elif isinstance(node, ast.Constant) and (entry := REGISTRY_ENTRY.fullmatch(str(node.value))):
        yield entry[1], node.lineno


def _is_edgeq(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "edgeq"


def _complaint(found: Import) -> str | None:
    importer, imported = _top(found.importer), _top(found.imported)
    link, _, module = found.imported.partition(".")
    if link in ROOT_LINKS:
        return f"imports {found.imported}, a link in the root; wanted {ROOT_LINKS[link]}.{module}"
    if imported is None or importer == imported or _level(importer) is None:
        return None
    if _level(imported) is None:
        return _unknown(imported)
    return None if _may_import(importer, imported) else f"{importer} imports {imported}, against the order of LEVELS"


def _may_import(importer: str | None, imported: str | None) -> bool:
    above, below = _level(importer), _level(imported)
    assert above is not None and below is not None
    if above == below:
        return LEVELS[below].mixed
    only_for = LEVELS[below].only_for
    return above > below and (only_for is None or importer in only_for)


def _top(module: str) -> str | None:
    """Returns the name that `LEVELS` knows a module by, `edgeq.exporting.graphs.graph` -> `exporting`, if any."""
    first, *rest = module.split(".")
    if first == "edgeq":
        return rest[0] if rest else first
    return first if first in ("benchmarks", "docs", "tests") else None


def _level(name: str | None) -> int | None:
    return next((number for number, level in enumerate(LEVELS) if name in level.names), None)


def _unknown(name: str | None) -> str:
    return f"{name} has no level; enter it into LEVELS in tests/test_order.py and into ARCHITECTURE.md"


def _package(module: str, file: Path) -> str:
    return module if file.name == "__init__.py" else module.rpartition(".")[0]


def _tree(root: Path, **sources: str) -> Path:
    """Writes a made-up source tree: `exporting__graph="..."` becomes edgeq/exporting/graph.py."""
    for name, source in {"__init__": "", **sources}.items():
        file = root / "edgeq" / f"{name.replace('__', '/') if name.strip('_') == name else name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
    return root


def test_every_import_goes_down():
    assert find_violations(ROOT) == []


def test_no_circle_on_load():
    assert find_circle(ROOT) == []


def test_this_tree_is_seen():
    imports = {(found.importer, found.imported) for found in find_imports(ROOT)}
    assert ("edgeq.runtimes.base", "edgeq.exporting.artifact") in imports
    assert ("edgeq.targets", "edgeq.targets.x86") in imports  # a registry entry


@pytest.mark.parametrize(
    ("sources", "complaint"),
    [
        ({"exporting__a": "from edgeq.runtimes import b", "runtimes__b": ""}, "exporting imports runtimes"),
        ({"exporting__a": "def f():\n    from edgeq.verbs.b import g"}, "exporting imports verbs"),
        ({"exporting__a": "if TYPE_CHECKING:\n    import edgeq.cli.app"}, "exporting imports cli"),
        ({"exporting__a": "TABLE = {'b': 'edgeq.verbs.b:g'}"}, "exporting imports verbs"),
        ({"exporting__a": "from ..verbs import g"}, "exporting imports verbs"),
        ({"errors": "from edgeq.targets.base import Target"}, "errors imports targets"),
        ({"targets__a": "import edgeq.calibrators.b"}, "targets imports calibrators"),
        ({"tasks__a": "import edgeq.models.b"}, "tasks imports models"),
        ({"tasks__a": "from edgeq.verbs import b"}, "tasks imports verbs"),
        ({"cli": "from edgeq import models", "models": ""}, "cli imports models"),
        ({"verbs__a": "from edgeq import Artifact"}, "verbs imports edgeq"),
        ({"verbs__a": "import edgeq\ndef f():\n    return edgeq.Artifact"}, "verbs imports edgeq"),
        ({"verbs__a": "import benchmarks.speed"}, "verbs imports benchmarks"),
        ({"verbs__a": "from tests.conftest import shared_data"}, "tests has no level"),
        ({"verbs__a": "from export.artifact import Artifact"}, "wanted edgeq.exporting.artifact"),
        ({"novelty": ""}, "novelty has no level; enter it into LEVELS in tests/test_order.py"),
    ],
)
def test_a_violation_is_found(tmp_path, sources, complaint):
    (violation,) = find_violations(_tree(tmp_path, **sources))
    assert complaint in violation


@pytest.mark.parametrize(
    "source",
    [
        "from edgeq import __version__",
        "import edgeq\nprint(edgeq.__version__)",
        "from edgeq.targets import Target",
        "from edgeq.verbs.b import g",
        "import numpy, export_tools",
        "note = 'see edgeq.cli.app:main for more'",
    ],
)
def test_what_goes_down_is_allowed(tmp_path, source):
    assert find_violations(_tree(tmp_path, verbs__a=source, verbs__b="")) == []


def test_a_circle_is_found(tmp_path):
    tree = _tree(tmp_path, exporting__a="import edgeq.exporting.b", exporting__b="from edgeq.exporting import a")
    assert set(find_circle(tree)) == {"edgeq.exporting.a", "edgeq.exporting.b"}


def test_a_deferred_import_closes_no_circle(tmp_path):
    tree = _tree(
        tmp_path, exporting__a="import edgeq.exporting.b", exporting__b="def f():\n    import edgeq.exporting.a"
    )
    assert find_circle(tree) == []
