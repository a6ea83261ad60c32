"""Writes what the JSON files of the commands hold to docs/results.md: every key with its type, meaning and unit.

All of it is read from the types of the results and their docstrings. `make docs` runs it; tests/results/test_schema.py
fails where the page is out of step, and where a key disappeared or changed its type.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from edgeq.events import KINDS
from edgeq.files import write_text
from edgeq.reporting.document import Document
from edgeq.results.evaluation import EvalResult
from edgeq.results.measurement import BenchResult
from edgeq.results.memory_plan import MemoryPlan
from edgeq.results.sensitivity import SensitivityResult
from edgeq.results.study import StudyResult
from edgeq.results.tuning import TuningResult
from edgeq.tasks import TASKS, get_task
from edgeq.tasks.evidence import ExampleBox, Finding
from edgeq.tasks.shapes import ClassArea, Mask, Outline, Pose
from edgeq.verbs.check import CheckResult
from edgeq.verbs.data import DataSummary
from edgeq.verbs.deploy import DeployResult
from edgeq.verbs.doctor import Diagnosis
from edgeq.verbs.gate import GateResult

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results.md"

_WORDS = {bool: "true or false", int: "integer", float: "number", str: "text"}
_HEAD = """# Result files

`--json FILE` writes these keys: one object for one file, a list for several (`bench`, `eval`). `edgeq report` and
`edgeq gate` read them, and so may your own scripts: within a `results_version` keys are added, never removed, and none
changes its type or meaning. Files without `results_version` are of version 1. The keys of
[events](events.md), which `--progress json` writes, are at the end. `make docs` writes this page.
"""
_VERSION = ("results_version", "integer", "Version of this form.")


# What a finding may be; it has the keys of its kind.
_FINDINGS = (ExampleBox, Outline, Pose, Mask, ClassArea)


@dataclass(frozen=True)
class Key:
    """A key of a result.

    Attributes:
        name: Its path: `latency_ms.p50`, `verdicts[].figure`.
        kind: Type of its value.
        meaning: What it says, with its unit.
    """

    name: str
    kind: str
    meaning: str


@dataclass(frozen=True)
class Section:
    """The keys of one command's file.

    Attributes:
        title: The command.
        keys: Its keys, in their order.
    """

    title: str
    keys: tuple[Key, ...]


def sections() -> tuple[Section, ...]:
    """Returns the keys of every file."""
    types = {name: get_task(name).score_type for name in TASKS}
    scores = (Section(f"`edgeq eval --json`: the score of {name}", tuple(_keys(kind))) for name, kind in types.items())
    return (
        Section("`edgeq bench --json`", tuple(_keys(BenchResult))),
        Section("`edgeq eval --json`", tuple(key for key in _keys(EvalResult) if not key.name.startswith("*"))),
        *scores,
        Section("`edgeq gate --json`", _gate()),
        Section("`edgeq check --json`", _check()),
        Section("`edgeq deploy --json`", (Key(*_VERSION), *_keys(DeployResult))),
        Section("`edgeq data --json`", (Key(*_VERSION), *_keys(DataSummary))),
        Section(
            "`edgeq tune --sensitivity --json`", (*_keys(SensitivityResult), Key("command", "text", "The command."))
        ),
        Section("`edgeq tune --json`", (*_keys(TuningResult), Key("command", "text", "The command."))),
        Section("`edgeq study --json`", (*_keys(StudyResult), Key("command", "text", "The command."))),
        Section("`edgeq plan --json`", tuple(_keys(MemoryPlan))),
        Section("`edgeq doctor --json`", (Key(*_VERSION), *_keys(Diagnosis))),
        Section("`edgeq report --out report.json`", _report()),
        *(Section(f"`--progress json`: `{kind.__struct_config__.tag}`", _event(kind)) for kind in KINDS),
    )


def page() -> str:
    """Returns the page."""
    parts = [_HEAD]
    for section in sections():
        rows = [f"| `{key.name}` | {key.kind} | {key.meaning} |" for key in section.keys]
        parts += [f"## {section.title}\n", "| Key | Type | Meaning |", "|---|---|---|", *rows, ""]
    return "\n".join(parts).rstrip() + "\n"


def schema() -> dict[str, dict[str, str]]:
    """Returns section -> key -> type, for comparison with what was promised."""
    return {section.title: {key.name: key.kind for key in section.keys} for section in sections()}


def _gate() -> tuple[Key, ...]:
    return (
        Key(*_VERSION),
        Key("passed", "true or false", "Whether nothing failed, and everything was measured and, if strict, proved."),
        *(key for key in _keys(GateResult) if key.name.startswith("limits")),
        Key("interval", "text", "How the intervals were made."),
        *(key for key in _keys(GateResult) if key.name.startswith("verdicts")),
    )


def _check() -> tuple[Key, ...]:
    file = Key("file", "text", "File name.")
    found = [Key(key.name.removeprefix("checked."), key.kind, key.meaning) for key in _keys(CheckResult)]
    return (Key(*_VERSION), file, *(key for key in found if key.name not in ("path", "checked")))


def _report() -> tuple[Key, ...]:
    head = (
        Key("format", "text", "`edgeq-report`."),
        Key(*_VERSION),
        Key("interval", "text", "How the intervals were made; drops are in points, hundredths of the score."),
        Key("few_boxes", "integer", "Boxes (or images) from which the score of a class says anything."),
    )
    return (*head, *_keys(Document))


def _event(kind: Any) -> tuple[Key, ...]:
    meaning = (kind.__doc__ or "").partition("\n")[0]
    head = (Key("event", "text", meaning), Key("time_s", "number", "Seconds since the command started."))
    return (*head, *_keys(kind))


def _keys(kind: Any, prefix: str = "") -> Iterator[Key]:
    """Yields the keys of a dataclass or Struct, those of its parts behind each."""
    meanings = _meanings(kind)
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if get_origin(hint) is typing.ClassVar or name.startswith("_"):
            continue
        written = "*" if name in _inlined(kind) else name.rstrip("_")
        inner, suffix = _part(hint)
        yield Key(prefix + written, _kind(hint), meanings[name])
        kinds = _FINDINGS if inner is Finding else () if inner is None else (inner,)
        keys = [key for each in kinds for key in _keys(each, f"{prefix}{written}{suffix}.")]
        yield from {key.name: key for key in keys}.values()


def _meanings(kind: Any) -> dict[str, str]:
    """Returns field -> sentence, from the section Attributes of a class's docstring and those of its bases."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        block = re.search(r"Attributes:\n(?P<lines>(?:        .*\n|\n)+)", (each.__doc__ or "") + "\n")
        for entry in re.finditer(r"^ {8}(\w+): ((?:.|\n {12})+)", block["lines"] if block else "", re.MULTILINE):
            found[entry[1]] = " ".join(entry[2].split()).replace("`None`", "null").replace("|", "\\|")
    return found


def _inlined(kind: Any) -> set[str]:
    """Returns the fields whose keys stand among those of the object around them."""
    fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    return {field.name for field in fields if field.metadata.get("inline")}


def _options(hint: Any) -> tuple[list[Any], bool]:
    """Returns what a value may be, and whether it may be null."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    options = list(get_args(hint)) if get_origin(hint) in (Union, types.UnionType) else [hint]
    found = [get_args(each)[0] if get_origin(each) is Annotated else each for each in options]
    return [each for each in found if each is not type(None)], type(None) in found


def _kind(hint: Any) -> str:
    options, nullable = _options(hint)
    return " or ".join(map(_word, options)) + (" or null" if nullable else "")


def _word(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(f"`{each}`" for each in arguments)
    if origin in (tuple, list):
        return f"list of {_kind(arguments[0])}"
    if hint in _WORDS:
        return _WORDS[hint]
    return "text" if hint is Path else "object"


def _part(hint: Any) -> tuple[Any, str]:
    """Returns the class of a key's value or of the entries of its list, and how the path goes on."""
    options, _ = _options(hint)
    hint = options[0]
    if get_origin(hint) in (tuple, list):
        inner, suffix = _part(get_args(hint)[0])
        return inner, f"[]{suffix}"
    is_class = isinstance(hint, type) and not issubclass(hint, Mapping)
    return (hint if is_class and (dataclasses.is_dataclass(hint) or issubclass(hint, msgspec.Struct)) else None), ""


if __name__ == "__main__":
    write_text(PAGE, page())
