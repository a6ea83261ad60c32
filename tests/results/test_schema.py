"""The keys that users are promised: listed in docs/results.md, none of them gone, none of another type."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docs import results_reference
from docs.results_reference import page, schema

DATA = Path(__file__).parents[1] / "data" / "results_v1"
PROMISED: dict[str, dict[str, str]] = json.loads((DATA / "schema.json").read_text())
# Kinds of files, and the sections that list their keys.
EVAL = "`edgeq eval --json`"
FILES = {
    "bench.json": ["`edgeq bench --json`"],
    "eval.json": [EVAL, f"{EVAL}: the score of detection"],
    "eval_classification.json": [EVAL, f"{EVAL}: the score of classification"],
    "eval_embedding.json": [EVAL, f"{EVAL}: the score of embedding"],
    "gate.json": ["`edgeq gate --json`"],
    "check.json": ["`edgeq check --json`"],
    "doctor.json": ["`edgeq doctor --json`"],
    "report.json": ["`edgeq report --out report.json`"],
}
# Objects whose keys are names of images, sensors and scores, or whose form another module defines.
FREE = {"predictions", "sensors.before", "sensors.after", "sensors.series[]", "entries[].scores"}
TYPES = {bool: "true or false", int: "integer", float: "number", str: "text", dict: "object", list: "list"}


def test_the_page_is_what_the_types_say() -> None:
    assert results_reference.PAGE.read_text(encoding="utf-8") == page(), "run: make docs"


@pytest.mark.parametrize("section", PROMISED)
def test_no_promised_key_is_gone_or_of_another_type(section: str) -> None:
    found = schema()[section]
    assert {key: found.get(key) for key in PROMISED[section]} == PROMISED[section]


def test_every_key_has_a_meaning() -> None:
    assert [key.name for section in results_reference.sections() for key in section.keys if len(key.meaning) < 3] == []


@pytest.mark.parametrize("name", FILES)
def test_every_key_of_a_recorded_file_is_listed_with_its_type(name: str) -> None:
    listed = {key: kind for section in FILES[name] for key, kind in schema()[section].items()}
    document = json.loads((DATA / name).read_text())
    for entry in document if isinstance(document, list) else [document]:
        for key, value in keys(entry):
            assert key in listed, key
            kind = listed[key]
            if value is None:
                assert "null" in kind, key
            else:
                wanted = TYPES[type(value)]
                # A whole number is a number, too; a text may be one of a few.
                fits = (
                    wanted in kind or (wanted == "integer" and "number" in kind) or (wanted == "text" and "`" in kind)
                )
                assert fits, (key, value, kind)


def keys(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields every key of an object and its parts, with its value."""
    if path.removesuffix(".") in FREE:
        return
    for key, entry in value.items():
        yield f"{path}{key}", entry
        if isinstance(entry, dict):
            yield from keys(entry, f"{path}{key}.")
        elif isinstance(entry, list):
            for part in entry[:3]:
                if isinstance(part, dict):
                    yield from keys(part, f"{path}{key}[].")
